"""The memory bill of a model: what it takes, item by item, on the processor's side and on every graphics processor.

Weights are the sizes of the tensors in the file. Keys, values and states: planner/layers.py. Scratch space: planner/scratch.py.
Where what lies: planner/placement.py. Names, sizes and roundings are llama.cpp's; each module names the files it follows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zhibei.models import Layer, ModelInfo
from zhibei.planner import kernels, scratch
from zhibei.planner.layers import (
    CACHE_TYPE_BYTES,
    CELLS,
    Run,
    each_layer,
    kv_bytes_of,
    state_bytes_of,
    widest_values,
)
from zhibei.planner.placement import (
    DEVICE_OVERHEAD_BYTES,
    MIB,
    SCHEDULED_COPIES,
    Placement,
    Room,
    Weight,
    copied_bytes,
    place,
)
from zhibei.planner.repacking import copied_output_bytes, repacked_bytes
from zhibei.plans import MemoryLine

__all__ = [
    "CACHE_TYPE_BYTES",
    "CELLS",
    "PROCESS_BYTES",
    "bill_of",
    "checkpoint_bytes",
    "compute_bytes",
    "place_model",
]

# A worker without a model: the interpreter and the engine's library, as measured on Linux.
PROCESS_BYTES = 64 * MIB
_CPU = "cpu"


def bill_of(  # noqa: PLR0913 - everything memory depends on, by name
    info: ModelInfo,
    *,
    ctx_size: int,
    num_slots: int = 1,
    ubatch_size: int = 512,
    cache_type_k: str = "f16",
    cache_type_v: str = "f16",
    flash_attn: bool = True,
    kv_unified: bool = False,
    swa_full: bool = False,
    num_outputs: int | None = None,
    is_embedding: bool = False,
    placement: Placement | None = None,
    files: Sequence[tuple[str, int]] = (),
    draft: ModelInfo | None = None,
    prompt_cache_bytes: int = 0,
    repacked: Collection[str] = (),
    taken: Collection[str] = (),
    is_mapped: bool = False,
) -> tuple[MemoryLine, ...]:
    """What a model takes, line by line; items of no size are left out.

    Args:
        ctx_size: tokens for each slot.
        num_outputs: tokens of a micro-batch for which logits are computed; None: one per slot.
        is_embedding: whether vectors are wanted as well.
        placement: what lies on graphics processors; None: nothing.
        files: projector, adapters and the like, loaded whole: what each is and its size.
        draft: a smaller model that runs beside it with the same context, on the processor's side.
        prompt_cache_bytes: the most that finished prompts may take to be found again.
        repacked: types of tensors that are rewritten for the processor (``planner.repacking``).
        taken: types of tensors that kernels of ours take over (``planner.kernels``).
        is_mapped: the file is mapped into memory instead of read.

    Returns:
        "weights", "repacked", "kv cache", "recurrent state", "compute" and "overhead" per device, "output", then the others.
    """
    run = Run(
        ctx_size,
        num_slots,
        ubatch_size,
        cache_type_k,
        cache_type_v,
        flash_attn,
        kv_unified,
        swa_full,
        num_outputs,
        info.is_causal is not False,
    )
    lines = _model_lines(info, run, placement or Placement(), is_embedding=is_embedding)
    doubled = _repacked_bytes(info, placement or Placement(), repacked, taken, is_mapped=is_mapped)
    lines.append(MemoryLine("repacked", _CPU, doubled))
    lines.append(MemoryLine("work", _CPU, kernels.work_bytes(info, each_layer(info), taken, ubatch_size)))
    lines += [MemoryLine(what, _CPU, num_bytes) for what, num_bytes in files]
    if draft is not None:
        drafted = _model_lines(draft, run, Placement(), is_embedding=False)
        lines += [MemoryLine(f"draft {line.what}", line.device, line.num_bytes) for line in drafted]
    lines += [MemoryLine("prompt cache", _CPU, prompt_cache_bytes), MemoryLine("process", _CPU, PROCESS_BYTES)]
    return tuple(line for line in lines if line.num_bytes)


def place_model(info: ModelInfo, run: Run, rooms: Sequence[Room], *, kv_on_device: bool = True) -> Placement:
    """The best placement of a model on these devices."""
    layers = tuple(each_layer(info))
    inputs = scratch.mask_bytes(layers, run)
    return place(
        layer_weights(layers, run),
        _output_bytes(info),
        rooms,
        scratch_bytes=scratch.scratch_bytes(info, layers, run),
        input_bytes=inputs,
        kv_on_device=kv_on_device,
    )


def layer_weights(layers: Sequence[Layer], run: Run) -> tuple[Weight, ...]:
    """What each layer takes, for ``place``."""
    widest = widest_values(layers)
    return tuple(
        Weight(layer.dense_bytes, layer.expert_bytes, kv_bytes_of(layer, run, widest) + state_bytes_of(layer, run))
        for layer in layers
    )


def checkpoint_bytes(info: ModelInfo, run: Run) -> int:
    """The most that one stored point of return takes: windowed caches and recurrent states of a slot.

    The engine keeps up to 32 per slot in main memory while it answers (``n_ctx_checkpoints`` in common/common.h), for models
    that cannot go back in their caches; they come and go, and are no line of the bill.
    """
    layers = tuple(each_layer(info))
    widest, one = widest_values(layers), Run(run.ctx_size, 1, run.ubatch_size, run.cache_type_k, run.cache_type_v, run.flash_attn)
    windowed = sum(kv_bytes_of(layer, one, widest) for layer in layers if layer.window is not None)
    return windowed + sum(state_bytes_of(layer, one) for layer in layers)


def _model_lines(info: ModelInfo, run: Run, placement: Placement, *, is_embedding: bool) -> list[MemoryLine]:
    layers = tuple(each_layer(info))
    devices = [placement.device_of(number, len(layers)) for number in range(len(layers))]
    lines = []
    for device in (-1, *placement.devices_used):
        here = [layer for layer, place in zip(layers, devices, strict=True) if place == device]
        lines.append(("weights", device, _weights_bytes(info, layers, devices, placement, device)))
        kept = here if placement.kv_on_device else (layers if device < 0 else ())
        widest = widest_values(layers)
        lines.append(("kv cache", device, sum(kv_bytes_of(layer, run, widest) for layer in kept)))
        lines.append(("recurrent state", device, sum(state_bytes_of(layer, run) for layer in kept)))
        lines.append(("compute", device, _compute_bytes(info, here, run, placement, device, layers)))
        lines.append(("overhead", device, DEVICE_OVERHEAD_BYTES if device >= 0 else 0))
    vector = (info.embedding_length or 0) if is_embedding else 0
    lines.append(("output", -1, max(1, run.num_slots) * ((info.vocabulary_size or 0) + vector) * 4))
    return [MemoryLine(what, _CPU if device < 0 else f"gpu{device}", num_bytes) for what, device, num_bytes in lines]


def _weights_bytes(info: ModelInfo, layers: Sequence[Layer], devices: Sequence[int], placement: Placement, device: int) -> int:
    """Weights on a device. The embedding is always with the processor; one that is also the output is then there twice."""
    total = 0
    for number, (layer, where) in enumerate(zip(layers, devices, strict=True)):
        experts_at = -1 if number < placement.num_cpu_experts else where
        total += layer.dense_bytes * (where == device) + layer.expert_bytes * (experts_at == device)
    if device < 0:
        total += (info.embedding_bytes or 0) + (info.lookup_bytes or 0)
        return total if placement.output_device >= 0 else total + (info.output_bytes or 0) + (info.other_bytes or 0)
    return total + (_output_bytes(info) if device == placement.output_device else 0)


def _repacked_bytes(
    info: ModelInfo, placement: Placement, types: Collection[str], taken: Collection[str], *, is_mapped: bool
) -> int:
    """What is there a second time because it was rewritten for the processor."""
    total = copied_output_bytes(info, types, taken) if placement.output_device < 0 else 0
    layers = tuple(each_layer(info))
    weights = [layer.dense_bytes + layer.expert_bytes for layer in layers]
    if is_mapped and any(weights):
        num_layers = len(weights)
        here = sum(weights[number] for number in range(num_layers) if placement.device_of(number, num_layers) < 0)
        total += repacked_bytes(info, types, taken) * here // sum(weights)
    return total


def _output_bytes(info: ModelInfo) -> int:
    """Bytes of the output and what goes with it, where it does not lie with the embedding."""
    return (info.output_bytes or info.embedding_bytes or 0) + (info.other_bytes or 0)


def _compute_bytes(
    info: ModelInfo, here: Sequence[Layer], run: Run, placement: Placement, device: int, layers: Sequence[Layer]
) -> int:
    has_output = placement.output_device == device
    if device < 0 and not here and not has_output:
        return scratch.input_bytes(info, layers, run)
    total = scratch.scratch_bytes(info, here, run, has_output=has_output)
    if device < 0:
        return total
    total += copied_bytes(layer_weights(layers, run), sum(placement.layers_per_gpu), placement.num_cpu_experts)
    if len(placement.devices_used) > 1:
        total += scratch.mask_bytes(tuple(here), run) * (SCHEDULED_COPIES - 1)
    return total


def compute_bytes(info: ModelInfo, ubatch_size: int, ctx_size: int, num_slots: int) -> int:
    """Bytes of the engine's scratch space and its logits, all on the processor; each token of context adds the same."""
    run = Run(ubatch_size, num_slots, ubatch_size)
    layers = tuple(each_layer(info))
    fixed = scratch.scratch_bytes(info, layers, run) - scratch.mask_bytes(layers, run)
    logits = max(1, num_slots) * (info.vocabulary_size or 0) * 4
    return fixed + ubatch_size * ctx_size * 2 + logits
