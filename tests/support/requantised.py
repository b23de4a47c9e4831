"""A GGUF file again, with its matrices stored in other types: what llama.cpp's own tool does, of which the wheel has no part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, dequantize

from zhibei.formats.ggml_types import TENSOR_TYPES
from zhibei.workshop.gguf_file import TensorSpec, write_gguf
from zhibei.workshop.shapes import type_number

Floats = npt.NDArray[np.float32]
# The type of a matrix, by its name and the type it has.
Mixture = Callable[[str, str], str]
# What stands in where rows are no whole number of large blocks.
_SMALLER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def all_of(kind: str) -> Mixture:
    """Every matrix in one type."""
    return lambda name, was: kind


def medium(name: str, was: str) -> str:
    """Q4_K_M for a model without experts: the matrices that matter most, of every other layer, have more bits."""
    if name.startswith(("token_embd", "output.")):
        return "Q6_K"
    layer = int(name.split(".")[1])
    return "Q6_K" if layer % 2 == 0 and ("attn_v" in name or "ffn_down" in name) else "Q4_K"


def requantised(source: Path, target: Path, mixture: Mixture, quantise: Callable[[int, Floats], Any]) -> None:
    """Write the file; vectors, routers and what has no matrix's shape stay as they are."""
    reader = GGUFReader(source)
    stored: dict[str, tuple[TensorSpec, Callable[[], bytes]]] = {}
    for tensor in reader.tensors:
        dims, was = tuple(int(size) for size in tensor.shape), tensor.tensor_type.name
        kind = mixture(tensor.name, was) if len(dims) > 1 and was != "F32" else was
        if dims[0] % TENSOR_TYPES[type_number(kind)].block_size:
            kind = _SMALLER[kind]

        def content(tensor: Any = tensor, dims: tuple[int, ...] = dims, was: str = was, kind: str = kind) -> bytes:
            if kind == was:
                return bytes(tensor.data.tobytes())
            exact = dequantize(tensor.data, tensor.tensor_type).reshape(dims[::-1])
            if kind == "F32":
                return bytes(exact.astype(np.float32).tobytes())
            return bytes(quantise(GGMLQuantizationType[kind].value, exact).tobytes())

        stored[tensor.name] = TensorSpec(tensor.name, dims, kind), content
    metadata = [(name, field.contents()) for name, field in reader.fields.items() if not name.startswith("GGUF.")]
    write_gguf(target, metadata, [spec for spec, _ in stored.values()], lambda spec: [stored[spec.name][1]()])
