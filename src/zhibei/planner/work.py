"""What one pass through a model costs: bytes that are read and operations that are done, by device and kind of tensor. Pure.

A pass makes one token of each conversation, or reads a batch of a prompt. Owns the counting; how fast a device does it is
``rates``' business. Bytes and operations of weights follow the sizes of the tensors; where types are mixed, each takes its
share of the whole file in every layer, for the header does not say more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from zhibei.formats.ggml_types import TENSOR_TYPES
from zhibei.models import Layer, ModelInfo
from zhibei.planner.layers import each_layer, row_bytes
from zhibei.planner.placement import Placement

What = Literal["weights", "experts", "cache", "layers", "transfer"]
Phase = Literal["prompt", "generation"]
PROCESSOR = -1
_BYTES_PER_WEIGHT = {kind.name: kind.block_bytes / kind.block_size for kind in TENSOR_TYPES.values()}
_STATE_BYTES = 4
_ACTIVATION_BYTES = 4


@dataclass(frozen=True, slots=True)
class Way:
    """How a model is run, as far as speed depends on it. ``batch_size``: tokens of a prompt that are computed together.

    ``num_streams`` conversations are answered at once. A prompt has ``prompt_tokens``, an answer ``generated_tokens``: what
    is predicted is the mean over them.
    """

    num_threads: int = 1
    batch_size: int = 512
    num_streams: int = 1
    prompt_tokens: int = 512
    generated_tokens: int = 128
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True)
class Work:
    """One item of a pass: where, on what, and how much. ``num_columns``: tokens that meet the same weights at once.

    ``device``: a number among the GPUs that can be used; -1: the processor. ``num_passes``: how often it is done.
    """

    device: int
    what: What
    family: str
    num_bytes: float
    num_ops: float = 0.0
    num_columns: float = 1.0
    num_passes: float = 1.0


@dataclass(slots=True)
class _Share:
    """What lies on one device."""

    dense_bytes: float = 0.0
    expert_bytes: float = 0.0
    layers: list[Layer] = field(default_factory=list)
    num_parts: int = 0


def generation_work(info: ModelInfo, way: Way, num_tokens: int, depth: float) -> tuple[Work, ...] | None:
    """An answer of so many tokens to every stream, after ``depth`` tokens; None where the header does not say enough."""
    if num_tokens < 1:
        return None
    found = _work(info, way, depth + num_tokens / 2, num_tokens=1, num_streams=max(1, way.num_streams))
    return None if found is None else tuple(replace(item, num_passes=float(num_tokens)) for item in found)


def prompt_work(info: ModelInfo, way: Way, num_tokens: int, depth: float) -> tuple[Work, ...] | None:
    """All batches of a prompt, with ``depth`` tokens before its first; None where the header does not say enough."""
    whole, rest = divmod(num_tokens, max(1, way.batch_size))
    # Full batches differ in depth alone, and evenly: the middle one stands for all.
    batches = [(way.batch_size, whole, depth + whole * way.batch_size / 2)] if whole else []
    batches += [(rest, 1, depth + num_tokens - rest / 2)] if rest else []
    items: list[Work] = []
    for size, count, middle in batches:
        found = _work(info, way, middle, num_tokens=size, num_streams=1)
        if found is None:
            return None
        items += [replace(item, num_passes=float(count)) for item in found]
    return tuple(items) or None


def active_parameters(info: ModelInfo) -> float | None:
    """Weights that one token is multiplied with; None where neither the header nor its summary says."""
    total = info.active_bytes
    families = families_of(info)
    if total is not None and families and "other" not in families:
        return sum(total * share / _BYTES_PER_WEIGHT[family] for family, share in families.items())
    if not info.num_parameters:
        return None
    return info.num_parameters * ((info.num_experts_used or 1) / info.num_experts if info.num_experts else 1.0)


def families_of(info: ModelInfo) -> dict[str, float]:
    """The share of each tensor type in the weights' bytes; norms, which are few and exact, are left out."""
    sizes = {kind: size for kind, _, size in info.tensor_types if size > 0}
    if len(sizes) > 1:
        sizes.pop("F32", None)
    known: dict[str, float] = {}
    for kind, size in sizes.items():
        name = kind if kind in _BYTES_PER_WEIGHT else "other"
        known[name] = known.get(name, 0.0) + size
    total = sum(known.values())
    return {name: size / total for name, size in known.items()} if total else {}


def _work(info: ModelInfo, way: Way, depth: float, *, num_tokens: int, num_streams: int) -> tuple[Work, ...] | None:
    shares = _shares(info, way.placement)
    if shares is None:
        return None
    columns = num_tokens * num_streams
    # Headers are foreign: at least one expert is used, and at most all.
    used = min(1.0, max(1, info.num_experts_used or 0) / info.num_experts) if info.num_experts else 1.0
    items: list[Work] = []
    for device, share in shares.items():
        items += _weights(info, device, share, columns, used)
        there = device if way.placement.kv_on_device else PROCESSOR
        costs = [_attention(layer, way, depth) for layer in share.layers]
        read, done = sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)
        if read:
            # A batch of a prompt reads each key once for all its tokens.
            items.append(Work(there, "cache", way.cache_type_k, read * num_streams, done * columns, num_tokens))
        items.append(Work(device, "layers", "", 0.0, float(share.num_parts)))
    crossings = len(shares) - 1 + (way.placement.num_cpu_experts if len(shares) > 1 else 0)
    if crossings:
        moved = (info.embedding_length or 0) * _ACTIVATION_BYTES * columns
        items.append(Work(max(shares), "transfer", "", float(moved * crossings), float(crossings)))
    return tuple(items)


def _weights(info: ModelInfo, device: int, share: _Share, columns: int, used: float) -> Iterator[Work]:
    """Products with weights. All experts that any token needs are read; each token computes with its own alone."""
    touched = 1.0 - (1.0 - used) ** columns
    rows = max(1.0, columns * used / touched)
    for family, part in (families_of(info) or {"other": 1.0}).items():
        weight_bytes = _BYTES_PER_WEIGHT.get(family) or _mean_bytes(info)
        if share.dense_bytes:
            size = share.dense_bytes * part
            yield Work(device, "weights", family, size, 2.0 * size / weight_bytes * columns, columns)
        if share.expert_bytes:
            size = share.expert_bytes * part
            yield Work(device, "experts", family, size * touched, 2.0 * size * used / weight_bytes * columns, rows)


def _mean_bytes(info: ModelInfo) -> float:
    """Bytes per weight where the type is not one of the engine's."""
    return info.weights_bytes / info.num_parameters if info.weights_bytes and info.num_parameters else 2.0


def _shares(info: ModelInfo, placement: Placement) -> dict[int, _Share] | None:
    layers = tuple(each_layer(info))
    shares: dict[int, _Share] = {}
    if info.active_bytes is None:
        if not info.weights_bytes or info.num_experts or placement.devices_used:
            return None
        # A dense model of which only the size is known: nearly all of it is read for a token.
        return {PROCESSOR: _Share(float(info.weights_bytes), 0.0, list(layers), info.num_layers or 0)}
    for number, layer in enumerate(layers):
        device = placement.device_of(number, len(layers))
        share = shares.setdefault(device, _Share())
        share.dense_bytes += layer.dense_bytes
        share.layers.append(layer)
        share.num_parts += 1
        at = PROCESSOR if number < placement.num_cpu_experts else device
        if layer.expert_bytes:
            shares.setdefault(at, _Share()).expert_bytes += layer.expert_bytes
    last = shares.setdefault(placement.output_device, _Share())
    last.dense_bytes += (info.output_bytes or info.embedding_bytes or 0) + (info.other_bytes or 0)
    last.num_parts += 1
    return shares


def _attention(layer: Layer, way: Way, depth: float) -> tuple[float, float]:
    """Bytes read and operations done by one token in one layer for what is remembered."""
    seen = depth if layer.window is None else min(depth, layer.window / 2 if layer.is_chunked else layer.window)
    read = (layer.conv_elements + layer.state_elements) * _STATE_BYTES * 2.0
    done = layer.state_elements * 6.0  # decay, add, read out
    if layer.kind in ("attention", "mla", "hybrid"):
        row = row_bytes(layer.num_kv_heads * layer.key_length, way.cache_type_k)
        row += row_bytes(layer.num_kv_heads * layer.value_length, way.cache_type_v) if layer.kind != "mla" else 0
        read += row * seen + row_bytes(layer.index_length, way.cache_type_k) * depth
        done += 2.0 * layer.num_heads * (layer.key_length + layer.value_length) * seen
    return read, done
