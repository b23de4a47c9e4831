"""What quantisation costs and what tasks need: ``quality.toml``, asked in plain terms. Owns that file; knows nothing of machines.

Loss is the relative increase of perplexity over 16 bits, as published for Llama 3 8B and carried to other sizes by a power
law that the same file explains. It orders choices; it does not promise what a person will notice.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

QUALITY_PATH = Path(__file__).with_name("quality.toml")
_ALIASES = {
    "Q3_K": "Q3_K_M",
    "Q3_K_XL": "Q3_K_L",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "Q8_K_XL": "Q8_0",
    "FP16": "F16",
    "FP32": "F32",
    "MXFP4_MOE": "MXFP4",
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """Published perplexities of one model. ``losses``: relative increase over 16 bits, by quantisation."""

    model: str
    num_parameters: int
    losses: Mapping[str, float]
    source: str
    is_reference: bool


@dataclass(frozen=True, slots=True)
class Need:
    """What a task needs: speed of generation (None: nobody waits) and context."""

    ctx_size: int
    min_tokens_per_s: float | None = None
    good_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model at a quantisation. ``num_active_parameters`` is of a mixture of experts."""

    num_parameters: int
    quantisation: str
    num_active_parameters: int | None = None

    @property
    def effective_parameters(self) -> float:
        """What a dense model of the same worth would have: for mixtures the geometric mean of all and active, a rule of thumb."""
        return math.sqrt(self.num_parameters * (self.num_active_parameters or self.num_parameters))


@dataclass(frozen=True, slots=True)
class Quality:
    """The tables of ``quality.toml``. ``lines``: (parameters from which it holds, bits per weight at least), ascending."""

    file_bits: Mapping[str, float]
    block_bits: Mapping[str, float]
    measurements: tuple[Measurement, ...]
    exponent: float
    lines: tuple[tuple[float, float], ...]
    needs: Mapping[str, Need]
    reserve_ram_bytes: int
    reserve_display_bytes: int


def canonical(quantisation: str) -> str:
    """``q4_k_m``, ``Q4-K-M`` → ``Q4_K_M``; unsloth's ``UD-Q4_K_XL`` and other mixes count as the type they start from."""
    name = quantisation.strip().upper().replace("-", "_").removeprefix("UD_")
    name = _ALIASES.get(name, name)
    for suffix in ("_XXL", "_XL", "_L"):
        if name not in tables().file_bits:
            name = name.removesuffix(suffix)
    return _ALIASES.get(name, name)


def bits_per_weight(quantisation: str) -> float | None:
    """Bits per weight of a whole file, embeddings and output included; None for a type that is not known."""
    return tables().file_bits.get(canonical(quantisation))


def file_bytes(num_parameters: int, quantisation: str) -> int | None:
    """About how large a file will be; within a few per cent for models of 7 billion parameters and more."""
    bits = bits_per_weight(quantisation)
    return None if bits is None else round(num_parameters * bits / 8)


def loss(quantisation: str, num_parameters: float) -> float | None:
    """Expected relative increase of perplexity over 16 bits: 0.03 is 3 %; None for a type nobody measured."""
    reference = next(item for item in tables().measurements if item.is_reference)
    base = reference.losses.get(canonical(quantisation))
    if base is None or num_parameters <= 0:
        return None
    return float(base * (reference.num_parameters / num_parameters) ** tables().exponent)


def least_bits(num_parameters: float) -> float:
    """Bits per weight under which a model of this size is not worth having."""
    return max((line for line in tables().lines if line[0] <= num_parameters), default=tables().lines[0])[1]


def is_worthwhile(candidate: Candidate) -> bool:
    """Whether the quantisation lies above the line for the model's size; unknown types count as worthwhile."""
    bits = bits_per_weight(candidate.quantisation)
    return bits is None or bits >= least_bits(candidate.effective_parameters)


def rank(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """Indexes of the candidates, best first, by quality alone.

    Above the line of life the bigger model comes first, whatever its quantisation, and of one size the one with more bits.
    Below the line come the rest, those with the least loss first.
    """

    def key(index: int) -> tuple[bool, float, float]:
        candidate = candidates[index]
        bits = bits_per_weight(candidate.quantisation) or 0.0
        if is_worthwhile(candidate):
            return (False, -candidate.effective_parameters, -bits)
        expected = loss(candidate.quantisation, candidate.effective_parameters)
        return (True, float("inf") if expected is None else expected, -candidate.effective_parameters)

    return tuple(sorted(range(len(candidates)), key=key))


def need(task: str) -> Need | None:
    """What a task needs; None for one that is not known."""
    return tables().needs.get(task)


@lru_cache(maxsize=1)
def tables() -> Quality:
    """The shipped tables, read on first use."""
    return read(QUALITY_PATH.read_text(encoding="utf-8"))


def read(text: str) -> Quality:
    """The tables in a text of the form of ``quality.toml``.

    Raises:
        ValueError, KeyError: not of that form; ours is tested to be.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table: dict[str, Any] = tomllib.loads(text)
    measurements = tuple(map(_measurement, table["measured"]))
    if sum(item.is_reference for item in measurements) != 1:
        raise ValueError("one measurement must be the reference")
    return Quality(
        file_bits={name: float(bits["file"]) for name, bits in table["bits"].items()},
        block_bits={name: float(bits["block"]) for name, bits in table["bits"].items()},
        measurements=measurements,
        exponent=float(table["scaling"]["exponent"]),
        lines=tuple(sorted((line["min_billions"] * 1e9, line["min_bits"]) for line in table["line"])),
        needs={
            name: Need(item["ctx"], item.get("min_tokens_per_s"), item.get("good_tokens_per_s"))
            for name, item in table["task"].items()
        },
        reserve_ram_bytes=table["reserve"]["ram_bytes"],
        reserve_display_bytes=table["reserve"]["display_bytes"],
    )


def _measurement(item: Mapping[str, Any]) -> Measurement:
    losses = {name: value / item["baseline"] - 1 for name, value in item["perplexity"].items()}
    return Measurement(item["model"], item["num_parameters"], losses, item["source"], item.get("reference", False))
