"""What the weights of a model must weigh whose headers were not all read: from its shape and the sizes of its files. Pure.

An estimate is exact in its sum and approximate in how that sum lies on the layers. Knows no file and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zhibei.formats.ggml_types import TENSOR_TYPES
from zhibei.formats.layers import joined
from zhibei.models import Layer, ModelInfo

_FLOAT_BYTES = 2
_TYPES = frozenset(kind.name for kind in TENSOR_TYPES.values())
_NAMES = {"FP16": "F16", "FP32": "F32", "MXFP4_MOE": "MXFP4", "IQ3_XS": "IQ3_S", "IQ3_M": "IQ3_S", "IQ2_M": "IQ2_S"}
_STATE_MATRICES = 6  # a recurrent layer's projections are about so many square matrices


@dataclass(frozen=True, slots=True)
class Elements:
    """How many numbers the parts of a model have, by its shape. ``layers``: dense and expert, each layer's."""

    embedding: int
    output: int
    layers: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.output + sum(dense + expert for dense, expert in self.layers)


def elements(info: ModelInfo, *, is_tied: bool = False) -> Elements:
    """The numbers of a model's weights by its shape alone; ``is_tied``: its output is its embedding."""
    embedding = (info.vocabulary_size or 0) * (info.embedding_length or 0)
    layers = tuple(_layer_elements(info, layer) for layer in expanded(info.layers))
    return Elements(embedding, 0 if is_tied else embedding, layers)


def with_weights(info: ModelInfo, total_bytes: int, *, is_tied: bool = False) -> ModelInfo:
    """The model with weights of so many bytes in all, laid on its layers.

    What headers were read say which layer weighs how much in proportion; where none was read, the shape does.
    """
    counted = elements(info, is_tied=is_tied)
    layers = expanded(info.layers)
    if not counted.total or not layers:
        return replace(info, weights_bytes=total_bytes)
    bytes_each = total_bytes / counted.total
    # Quantised repositories of safetensors leave the embedding as it was.
    float_bytes = max(bytes_each, _FLOAT_BYTES) if info.format == "safetensors" else bytes_each
    embedding = info.embedding_bytes or min(round(counted.embedding * float_bytes), total_bytes // 2)
    output = info.output_bytes or (0 if is_tied or info.embedding_bytes else embedding)
    outside = embedding + output + (info.lookup_bytes or 0) + (info.other_bytes or 0)
    weights = _patterns(layers, counted, bytes_each)
    share = max(0, total_bytes - outside) / max(1, sum(dense + expert for dense, expert in weights))
    found = [
        replace(layer, dense_bytes=int(dense * share), expert_bytes=int(expert * share))
        for layer, (dense, expert) in zip(layers, weights, strict=True)
    ]
    return replace(
        info,
        num_parameters=counted.total,
        tensor_types=info.tensor_types or types_of(info.quantisation, total_bytes),
        weights_bytes=total_bytes,
        layers=joined(found),
        embedding_bytes=embedding,
        output_bytes=output,
        lookup_bytes=info.lookup_bytes or 0,
        other_bytes=info.other_bytes or 0,
    )


def scaled(info: ModelInfo, total_bytes: int, quantisation: str | None) -> ModelInfo:
    """The same model in another quantisation, whose weights take so many bytes in all: every part by the same factor."""
    types = types_of(quantisation, total_bytes)
    if not info.weights_bytes:
        return replace(info, quantisation=quantisation, tensor_types=types, weights_bytes=total_bytes)
    factor = total_bytes / info.weights_bytes

    def by_factor(num_bytes: int | None) -> int | None:
        return None if num_bytes is None else round(num_bytes * factor)

    layers = tuple(
        replace(layer, dense_bytes=round(layer.dense_bytes * factor), expert_bytes=round(layer.expert_bytes * factor))
        for layer in info.layers
    )
    return replace(
        info,
        quantisation=quantisation,
        tensor_types=types,
        weights_bytes=total_bytes,
        layers=layers,
        embedding_bytes=by_factor(info.embedding_bytes),
        lookup_bytes=by_factor(info.lookup_bytes),
        output_bytes=by_factor(info.output_bytes),
        other_bytes=by_factor(info.other_bytes),
    )


def types_of(quantisation: str | None, total_bytes: int) -> tuple[tuple[str, int, int], ...]:
    """The type that most weights of a file of this quantisation have (``Q4_K`` of ``UD-Q4_K_XL``); () where it is not known."""
    name = (quantisation or "").upper().removeprefix("UD-").removeprefix("I1-")
    for known in (name, _NAMES.get(name, name), name.rpartition("_")[0]):
        if known in _TYPES:
            return ((known, 1, total_bytes),)
    return ()


def expanded(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers one by one."""
    return tuple(replace(layer, count=1) for layer in layers for _ in range(layer.count))


def _patterns(layers: Sequence[Layer], counted: Elements, bytes_each: float) -> list[tuple[float, float]]:
    """Weights in proportion. Of layers of one kind the heaviest that was read stands for all: others may be read in half."""
    read: dict[tuple[object, ...], tuple[int, int]] = {}
    for layer in layers:
        weight = (layer.dense_bytes, layer.expert_bytes)
        if sum(weight) > sum(read.get(_kind(layer), (0, 0))):
            read[_kind(layer)] = weight
    shapes = [(dense * bytes_each, expert * bytes_each) for dense, expert in counted.layers]
    return [read.get(_kind(layer), shape) for layer, shape in zip(layers, shapes, strict=True)]


def _kind(layer: Layer) -> tuple[object, ...]:
    return layer.kind, layer.num_kv_heads, layer.key_length, layer.state_elements


def _layer_elements(info: ModelInfo, layer: Layer) -> tuple[int, int]:
    """``(dense, experts)`` of one layer. A feed-forward part is three matrices, as in every gated one."""
    width = info.embedding_length or 0
    heads = layer.num_heads or info.num_heads or 0
    if layer.kind == "recurrent":
        attention = _STATE_MATRICES * width * width
    elif layer.kind == "mla":
        attention = width * (2 * layer.key_length + heads * 128) + heads * 128 * (2 * layer.value_length)
    else:
        keys = layer.num_kv_heads * (layer.key_length + layer.value_length)
        attention = width * (heads * layer.key_length + keys + heads * layer.value_length) if keys or heads else 0
    if not info.num_experts or (layer.dense_bytes and not layer.expert_bytes):
        return attention + 3 * width * (layer.feed_forward_length or info.feed_forward_length or 0), 0
    length = info.expert_feed_forward_length or info.feed_forward_length or 0
    return attention, info.num_experts * 3 * width * length
