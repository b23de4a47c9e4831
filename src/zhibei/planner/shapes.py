"""Shapes of models that are known by name or size alone: ``shapes.toml``. Owns that file; reads no header.

A shape from the table is the published one. A usual shape is a guess by the number of parameters: its weights are right, for
their size is known, and its context may take half or twice as much.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from zhibei.formats.unread import types_of, with_weights
from zhibei.models import Layer, ModelInfo

SHAPES_PATH = Path(__file__).with_name("shapes.toml")
_USUAL_VOCABULARY = 128_000
_USUAL_EXPERTS = 64
_BILLION = 10**9


@dataclass(frozen=True, slots=True)
class Named:
    """What is known of a model without its header. ``num_active_parameters`` is of a mixture of experts."""

    name: str
    num_parameters: int
    num_active_parameters: int | None = None
    context_length: int | None = None
    is_embedding: bool = False


def is_known(name: str) -> bool:
    """Whether the shape of this model is the published one."""
    return name in _tables()[0]


def info_of(named: Named, quantisation: str, size_bytes: int) -> ModelInfo:
    """The model as its header would tell it, in a file of so many bytes."""
    row = _tables()[0].get(named.name) or _usual(named)
    info = ModelInfo(
        "gguf",
        "unknown",
        name=named.name,
        quantisation=quantisation,
        context_length=named.context_length,
        embedding_length=row["width"],
        feed_forward_length=row["ff"],
        vocabulary_size=row["vocab"],
        num_layers=row["layers"],
        num_heads=row["heads"],
        num_kv_heads=(row["kv"],) * row["layers"],
        key_length=row["head"],
        value_length=row["head"],
        sliding_window=row.get("window"),
        num_experts=row.get("experts"),
        num_experts_used=row.get("used"),
        expert_feed_forward_length=row.get("expert_ff"),
        is_causal=False if named.is_embedding else None,
        pooling="mean" if named.is_embedding else None,
        tensor_types=types_of(quantisation, size_bytes),
        layers=_layers(row),
    )
    info = with_weights(info, size_bytes, is_tied=row.get("tied", False))
    return _counted(info, named)


def _layers(row: Mapping[str, Any]) -> tuple[Layer, ...]:
    found = []
    for number in range(row["layers"]):
        period = row.get("period")
        is_windowed = period is not None and number % period != period - 1
        latent = row.get("latent")
        found.append(
            Layer(
                "mla" if latent else "attention",
                num_heads=row["heads"],
                num_kv_heads=1 if latent else row["kv"],
                key_length=latent or row["head"],
                value_length=latent - 64 if latent else row["head"],
                window=row.get("window") if is_windowed else None,
                feed_forward_length=row["ff"],
            )
        )
    return tuple(found)


def _counted(info: ModelInfo, named: Named) -> ModelInfo:
    """The published number of parameters instead of the shape's."""
    return replace(info, num_parameters=named.num_parameters)


def _usual(named: Named) -> Mapping[str, Any]:
    """The shape of models of this size; of a mixture that of its active part, with enough experts for the rest."""
    active = named.num_active_parameters or named.num_parameters
    rows: list[dict[str, Any]] = _tables()[1]
    row = min(rows, key=lambda row: abs(_ratio(row["billions"] * _BILLION, active)))
    width, layers = row["width"], row["layers"]
    vocabulary = min(_USUAL_VOCABULARY, max(1000, active // (4 * width)))
    attention = layers * width * (2 * width + 2 * row["kv"] * row["head"])
    rest = max(0, active - attention - 2 * vocabulary * width)
    length = max(width, rest // (3 * width * layers))
    found = {**row, "heads": max(1, width // row["head"]), "ff": length, "vocab": vocabulary}
    if named.num_active_parameters is not None and named.num_parameters > active:
        used = max(1, round(_USUAL_EXPERTS * rest / max(1, named.num_parameters - active + rest)))
        found |= {"experts": _USUAL_EXPERTS, "used": used, "expert_ff": max(1, length // used)}
    return found


def _ratio(first: float, second: float) -> float:
    """How far apart two sizes are; 0: equal."""
    return max(first, second) / min(first, second) - 1


@lru_cache(maxsize=1)
def _tables() -> tuple[Mapping[str, dict[str, Any]], list[dict[str, Any]]]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    found = tomllib.loads(SHAPES_PATH.read_text(encoding="utf-8"))
    by_name = {name: row for row in found["shape"] for name in row["of"]}
    return by_name, found["usual"]
