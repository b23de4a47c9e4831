"""Building the list of a model's layers, whatever format they were read from: weights by layer, equal neighbours joined. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from zhibei.models import Layer


@dataclass(slots=True)
class LayerWeights:
    """Bytes of one layer."""

    dense_bytes: int = 0
    expert_bytes: int = 0


@dataclass(slots=True)
class Weights:
    """Bytes of a model by where they belong, as they are being added up. The names are those of ``ModelInfo``."""

    layers: dict[int, LayerWeights] = field(default_factory=dict)
    embedding_bytes: int = 0
    lookup_bytes: int = 0
    output_bytes: int = 0
    other_bytes: int = 0

    def add(self, layer: int, num_bytes: int, *, is_expert: bool) -> None:
        """A tensor of a layer."""
        weight = self.layers.setdefault(layer, LayerWeights())
        if is_expert:
            weight.expert_bytes += num_bytes
        else:
            weight.dense_bytes += num_bytes


def joined(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Equal neighbours as one with their number: most models have a few kinds of layers, whatever their depth."""
    found: list[Layer] = []
    for layer in layers:
        if found and replace(found[-1], count=layer.count) == layer:
            found[-1] = replace(layer, count=found[-1].count + layer.count)
        else:
            found.append(layer)
    return tuple(found)
