"""Products of random matrices three ways: exactly, by ggml's own path, and by the kernels; and how far off each is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ggml import Bytes, Child, Floats

# Both paths round in their own way: over few outputs one may be luckier.
LUCK = 1.1
# What sums of 32-bit floats alone may be off by: all that is left where nothing is rounded.
FLOAT_ERROR = 2e-6


@dataclass(frozen=True, slots=True)
class Weights:
    """Matrices (experts, rows, values) of one type, and what they say exactly."""

    type_name: str
    stored: Bytes
    exact: Floats


def weights(ggml: Child, type_name: str, shape: tuple[int, int, int], seed: int = 0) -> Weights:
    """Random ones. ggml's own row reads say what they are."""
    random = np.random.default_rng(seed)
    stored = ggml.call("quantise", type_name, random.standard_normal(shape, np.float32))
    rows = np.arange(shape[0] * shape[1], dtype=np.int32)
    flat = (1, shape[0] * shape[1], shape[2])
    read = request("get_rows", type_name, flat, stored, [rows])
    exact = ggml.call("run", {**read, "buffer": "CPU"})["out"].reshape(shape)
    return Weights(type_name, stored, exact)


def request(
    op: str, type_name: str, shape: tuple[int, int, int], stored: Bytes | None, inputs: list[Any], threads: int = 2
) -> dict[str, Any]:
    """What `Ggml.run` takes, less the buffer."""
    return {"op": op, "type": type_name, "shape": shape, "weights": stored, "inputs": inputs, "threads": threads}


def errors(ggml: Child, order: dict[str, Any], exact: Floats) -> tuple[float, float]:
    """Normalised errors of ggml's path and of the kernels' against the exact product."""
    found = []
    for buffer in ("CPU", "CPU_ZHIBEI"):
        answer = ggml.call("run", {**order, "buffer": buffer})
        assert answer["supported"]
        off = answer["out"].astype(np.float64) - exact.reshape(-1)
        found.append(float(np.sqrt((off**2).sum() / ((exact**2).sum() + 1e-30))))
    return found[0], found[1]


def no_worse(theirs: float, ours: float) -> bool:
    """Whether the kernels are as exact as ggml's own path."""
    return ours <= theirs * LUCK + FLOAT_ERROR
