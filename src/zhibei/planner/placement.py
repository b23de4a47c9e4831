"""Which part of a model lies where: layers on graphics processors, experts in main memory. Pure.

Says it in llama.cpp's terms: ``n_gpu_layers`` counts from the end of the model and begins with the output; ``tensor_split``
divides those layers, in order, among the devices; ``n_cpu_moe`` leaves the experts of the first layers in main memory.
Source: ``load_tensors`` (``get_layer_buft_list``) in src/llama-model.cpp, ``--n-cpu-moe`` in common/arg.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIB = 1 << 20
# A CUDA context with the engine's kernels and its matrix library's workspace: 250-450 MiB are reported between Pascal and
# Hopper (nvidia-smi of an idle llama-server: https://github.com/ggml-org/llama.cpp/issues/9784); the upper end is kept free.
DEVICE_OVERHEAD_BYTES = 450 * MIB
# What a desktop may take on the device that drives the screen, beyond what it has taken already.
DISPLAY_BYTES = 256 * MIB
_STEPS = 64
SCHEDULED_COPIES = 4
"""Inputs that llama.cpp keeps for each of several devices, to let them work at the same time (GGML_SCHED_MAX_COPIES)."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a device has: bytes free now; None, not known, is no room. ``has_display``: it drives a screen."""

    free_bytes: int | None
    has_display: bool = False

    @property
    def usable_bytes(self) -> int:
        """Free bytes without what the driver and the display need for themselves."""
        taken = DEVICE_OVERHEAD_BYTES + (DISPLAY_BYTES if self.has_display else 0)
        return max(0, (self.free_bytes or 0) - taken)


@dataclass(frozen=True, slots=True)
class Weight:
    """What one layer takes: weights all tokens use, experts, and its share of cache and states."""

    dense_bytes: int
    expert_bytes: int = 0
    cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the layers of a model lie; by default all in main memory.

    ``layers_per_gpu``: how many of the last layers each device has, in their order; the first device has the first of them.
    ``output_device`` computes the output; -1: the processor. ``num_cpu_experts``: experts of the first so many layers stay
    in main memory, wherever the rest of their layer is. ``kv_on_device``: caches lie with their layers.
    """

    layers_per_gpu: tuple[int, ...] = ()
    output_device: int = -1
    num_cpu_experts: int = 0
    kv_on_device: bool = True

    @property
    def num_gpu_layers(self) -> int:
        """llama.cpp's ``n_gpu_layers``."""
        return sum(self.layers_per_gpu) + (self.output_device >= 0)

    @property
    def tensor_split(self) -> tuple[int, ...]:
        """llama.cpp's ``tensor_split``: layers per device, the output counted as one."""
        return tuple(count + (number == self.output_device) for number, count in enumerate(self.layers_per_gpu))

    @property
    def devices_used(self) -> tuple[int, ...]:
        """Numbers of the devices that compute something."""
        return tuple(number for number, count in enumerate(self.tensor_split) if count)

    def device_of(self, layer: int, num_layers: int) -> int:
        """Number of the device of a layer; -1: main memory."""
        position = layer - (num_layers - sum(self.layers_per_gpu))
        if position < 0:
            return -1
        for device, count in enumerate(self.layers_per_gpu):
            if position < count:
                return device
            position -= count
        return -1


def place(
    weights: Sequence[Weight],
    output_bytes: int,
    rooms: Sequence[Room],
    *,
    scratch_bytes: int,
    input_bytes: int = 0,
    kv_on_device: bool = True,
) -> Placement:
    """The best placement: everything on the devices; else as few experts as need be in main memory; else fewer layers.

    Args:
        weights: of every layer, in order.
        output_bytes: of the output, which the devices take before any layer.
        rooms: of the devices; unequal ones and busy ones too.
        scratch_bytes: what each device that is used needs to compute.
        input_bytes: of those, inputs; kept several times where several devices work at the same time.
        kv_on_device: whether caches go with their layers.
    """
    num_layers = len(weights)
    has_experts = any(weight.expert_bytes for weight in weights)

    def packed(count: int, num_cpu_experts: int) -> Placement | None:
        sizes = [
            weight.dense_bytes
            + (0 if number < num_cpu_experts else weight.expert_bytes)
            + (weight.cache_bytes if kv_on_device else 0)
            for number, weight in enumerate(weights)
        ]
        scratch = scratch_bytes + copied_bytes(weights, count, num_cpu_experts)
        scratch += input_bytes * (SCHEDULED_COPIES - 1) if len(rooms) > 1 else 0
        capacities = [room.usable_bytes - scratch for room in rooms]
        split = _pack([*sizes[num_layers - count :], output_bytes], capacities)
        return None if split is None else Placement(*split, num_cpu_experts, kv_on_device)

    for num_cpu_experts in _expert_steps(weights):
        placement = packed(num_layers, num_cpu_experts)
        if placement is not None:
            return placement
    most = num_layers if has_experts else 0
    count = _most(num_layers, lambda count: packed(count, most) is not None)
    return packed(count, most) or Placement((0,) * len(rooms), kv_on_device=kv_on_device)


def copied_bytes(weights: Sequence[Weight], num_gpu_layers: int, num_cpu_experts: int) -> int:
    """Scratch space for weights that lie in main memory and are copied to a device to compute a long prompt there.

    One tensor at a time: of a layer's three matrices of experts, or of a dense layer's largest ones, about a third of it
    (``op_offload``; ``ggml_backend_sched_split_graph`` in ggml/src/ggml-backend.cpp begins a new part for each).
    """
    first = len(weights) - num_gpu_layers
    left = [weight.expert_bytes or weight.dense_bytes for weight in weights[:first]]
    left += [weight.expert_bytes for weight in weights[first : max(first, num_cpu_experts)]]
    return max(left, default=0) // 3


def guide_layers(num_layers: int, free_bytes: int, model_bytes: int) -> int:
    """The rule of thumb of the guides: all layers × memory of the card ÷ size of the model. Forgets cache and scratch space."""
    return num_layers if model_bytes <= 0 else max(0, min(num_layers, num_layers * free_bytes // model_bytes))


def _expert_steps(weights: Sequence[Weight]) -> Sequence[int]:
    """Numbers of layers without experts to try, fewest first; only those that change something."""
    return [0, *(number + 1 for number, weight in enumerate(weights) if weight.expert_bytes)]


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``high`` that fits, where what fits only gets fewer."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _pack(sizes: Sequence[int], capacities: Sequence[int]) -> tuple[tuple[int, ...], int] | None:
    """Layers on each device in order, all filled to about the same share, and the output's device; None: no room for all.

    The last of the items is the output.
    """
    best = _fill(sizes, capacities)
    if best is None:
        return None
    low, high = 0, _STEPS  # as a share of each capacity
    while low < high:
        middle = (low + high) // 2
        found = _fill(sizes, [min(capacity, capacity * middle // _STEPS) for capacity in capacities])
        if found is None:
            low = middle + 1
        else:
            best, high = found, middle
    last = max(number for number, count in enumerate(best) if count)
    return tuple(count - (number == last) for number, count in enumerate(best)), last


def _fill(sizes: Sequence[int], capacities: Sequence[int]) -> tuple[int, ...] | None:
    counts = [0] * len(capacities)
    device, left = -1, -1
    for size in sizes:
        while left < size:
            device += 1
            if device == len(capacities):
                return None
            left = capacities[device]
        counts[device] += 1
        left -= size
    return tuple(counts)
