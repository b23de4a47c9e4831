"""How large a context, how many slots, and where what lies, so that a model fits its space. Pure.

What a person asks for is taken as it is, whether it fits or not; the rest is chosen here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from zhibei.models import ModelInfo
from zhibei.options import CacheType, LoadOptions
from zhibei.planner import memory
from zhibei.planner.layers import CELLS, Run, each_layer, kv_bytes_of, state_bytes_of, widest_values
from zhibei.planner.placement import Placement, Room
from zhibei.planner.repacking import is_better_read
from zhibei.planner.space import Space
from zhibei.plans import OPTIONAL_LINES, MemoryLine, Task

# An automatic context: what most conversations need, as long as it takes no more than its share of free memory.
AUTOMATIC_CTX = 16384
# A longer one where several conversations of it cost little: windows, compressed keys, recurrent states, much memory.
LONG_CTX = 65536
# On graphics processors that cannot hold all: layers there are worth more than a longer context.
DEVICE_CTX = 8192
# The cache leaves the devices only where the processor then reads clearly less: it also has to compute with it.
APART_SHARE = 0.75
MIN_CTX = 512
KV_SHARE = 0.5
SLOTS_SHARE = 0.25
MAX_SLOTS = 4
UNKNOWN_CTX = 4096
EMBEDDING_CTX = 2048
# Finished prompts, and points of return within a prompt, that are kept to save time: of what is left, and at most.
PROMPT_CACHE_SHARE = 0.125
MAX_PROMPT_CACHE_BYTES = 1 << 30
CHECKPOINTS_SHARE, MAX_CHECKPOINTS_BYTES = 0.25, 4 << 30
MAX_CHECKPOINTS = 32
"""What the engine keeps of its own accord."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be sized. ``files``: projector, adapters and the like. ``batch_size`` is chosen by speed, before memory."""

    info: ModelInfo
    task: Task
    wishes: LoadOptions
    space: Space
    batch_size: int
    files: tuple[tuple[str, int], ...] = ()
    draft: ModelInfo | None = None
    """Of a draft model what its own layers take is counted, where its header says so, instead of its file."""
    repacked: frozenset[str] = frozenset()
    """Types that the engine rewrites for this processor."""
    taken: frozenset[str] = frozenset()
    """Types that kernels of ours take over."""
    laid: dict[tuple[int, int], Sized] = field(default_factory=dict, compare=False, repr=False)
    """What was laid out already: contexts are tried several times."""

    @property
    def cache_types(self) -> tuple[CacheType, CacheType]:
        """Of keys and values."""
        return self.wishes.cache_type_k or "f16", self.wishes.cache_type_v or "f16"

    @property
    def is_mapped(self) -> bool:
        """Whether the file is mapped into memory: unless asked otherwise, where that does not double what it takes."""
        if self.wishes.mmap is not None:
            return self.wishes.mmap
        return not is_better_read(self.info, self.repacked, self.taken)

    @property
    def longest(self) -> int:
        """Tokens the model was trained for."""
        return self.info.context_length or UNKNOWN_CTX


@dataclass(frozen=True, slots=True)
class Sized:
    """A choice, and its bill."""

    ctx_size: int
    num_slots: int
    batch_size: int
    ubatch_size: int
    placement: Placement
    lines: tuple[MemoryLine, ...] = field(repr=False)
    prompt_cache_bytes: int = 0
    num_checkpoints: int | None = None

    def bytes_on(self, device: str) -> int:
        """What a device needs."""
        return sum(line.num_bytes for line in self.lines if line.device == device and line.what not in OPTIONAL_LINES)

    def main_bytes(self, space: Space) -> int:
        """What is needed of main memory."""
        devices = {line.device for line in self.lines} if space.is_shared else {"cpu"}
        return sum(self.bytes_on(device) for device in devices)

    @property
    def kept_bytes(self) -> int:
        """What is only kept while there is room, in main memory."""
        return sum(line.num_bytes for line in self.lines if line.what in OPTIONAL_LINES)


def size(case: Case) -> Sized:
    """The sizes for a case; where nothing fits, the smallest."""
    if case.task != "generate":
        # An embedding is computed in one piece, so the micro-batch must hold the whole input.
        ctx = case.wishes.ctx_size or min(case.longest, EMBEDDING_CTX)
        return lay(replace(case, batch_size=ctx, laid={}), ctx, case.wishes.parallel or 1)
    ctx = case.wishes.ctx_size or _automatic_ctx(case)
    slots = case.wishes.parallel or _slots(case, ctx)
    return _with_kept(case, lay(case, ctx, slots))


def fits(case: Case, sized: Sized) -> bool:
    """Whether every device has what its lines need."""
    return overfull(case.space, sized) is None


def overfull(space: Space, sized: Sized) -> str | None:
    """The first device that would need more than there is; None: all have enough, or it is not known."""
    if space.main_bytes is not None and sized.main_bytes(space) > space.main_bytes:
        return "cpu"
    for number, room in enumerate(space.rooms):
        if sized.bytes_on(f"gpu{number}") > (room.free_bytes or 0):
            return f"gpu{number}"
    return None


def lay(case: Case, ctx_size: int, num_slots: int) -> Sized:
    """A context and slots laid out on the devices, with the bill."""
    if (ctx_size, num_slots) not in case.laid:
        case.laid[ctx_size, num_slots] = _lay(case, ctx_size, num_slots)
    return case.laid[ctx_size, num_slots]


def _lay(case: Case, ctx_size: int, num_slots: int) -> Sized:
    ubatch = case.batch_size if case.task != "generate" else min(case.wishes.ubatch_size or 512, case.batch_size)
    run = run_of(case, ctx_size, num_slots, ubatch)
    placement = _place(case, run)
    lines = memory.bill_of(
        case.info,
        ctx_size=ctx_size,
        num_slots=num_slots,
        ubatch_size=ubatch,
        cache_type_k=run.cache_type_k,
        cache_type_v=run.cache_type_v,
        flash_attn=run.flash_attn,
        is_embedding=case.task != "generate",
        placement=placement,
        files=case.files,
        draft=case.draft,
        repacked=case.repacked,
        taken=case.taken,
        is_mapped=case.is_mapped,
    )
    return Sized(ctx_size, num_slots, case.batch_size, ubatch, placement, lines)


def run_of(case: Case, ctx_size: int, num_slots: int, ubatch_size: int) -> Run:
    """The same as the planner's modules for memory want it."""
    has_flash_attn = case.wishes.flash_attn != "off"
    is_causal = case.info.is_causal is not False
    return Run(ctx_size, num_slots, ubatch_size, *case.cache_types, has_flash_attn, is_causal=is_causal)


def is_whole(placement: Placement, num_layers: int) -> bool:
    """Whether all of the model lies on graphics processors."""
    return placement.num_gpu_layers > num_layers and not placement.num_cpu_experts and placement.kv_on_device


def _place(case: Case, run: Run) -> Placement:
    rooms = case.space.rooms
    num_layers = sum(1 for _ in each_layer(case.info))
    if not rooms or not num_layers:
        return Placement()
    wanted = case.wishes.gpu_layers
    if wanted is not None or case.wishes.tensor_split:
        return _asked(case, run, wanted, num_layers)
    # One device that holds all is faster than several that hand each other every token.
    for chosen in sorted(range(len(rooms)), key=lambda number: _rate(case, number), reverse=True) if len(rooms) > 1 else ():
        alone = [room if number == chosen else Room(0) for number, room in enumerate(rooms)]
        found = memory.place_model(case.info, run, alone)
        if is_whole(found, num_layers):
            return found
    found = memory.place_model(case.info, run, rooms)
    if is_whole(found, num_layers) or not found.devices_used:
        return found
    apart = memory.place_model(case.info, run, rooms, kv_on_device=False)
    reads, otherwise = (main_memory_reads(case.info, run, placement) for placement in (found, apart))
    return apart if otherwise < reads * APART_SHARE else found


def _rate(case: Case, number: int) -> tuple[int, int]:
    gpu = case.space.gpus[number]
    return gpu.bandwidth_bytes_per_s or 0, case.space.rooms[number].usable_bytes


def main_memory_reads(info: ModelInfo, run: Run, placement: Placement) -> int:
    """Bytes that the processor reads for one token with a cache that is half full: what slows generation down."""
    layers = tuple(each_layer(info))
    widest, one = widest_values(layers), replace(run, num_slots=1)
    chosen, experts = info.num_experts_used or 1, info.num_experts or 1
    total = 0
    for number, layer in enumerate(layers):
        is_here = placement.device_of(number, len(layers)) < 0
        total += layer.dense_bytes * is_here
        total += layer.expert_bytes * chosen // experts * (is_here or number < placement.num_cpu_experts)
        total += (kv_bytes_of(layer, one, widest) // 2 + state_bytes_of(layer, one)) * (is_here or not placement.kv_on_device)
    return total + (info.output_bytes or info.embedding_bytes or 0) * (placement.output_device < 0)


def _asked(case: Case, run: Run, wanted: int | None, num_layers: int) -> Placement:
    """As many layers as a person wants, divided as they want."""
    rooms = case.space.rooms
    shares = case.wishes.tensor_split or tuple(float(room.usable_bytes) for room in rooms)
    if wanted is not None:
        return divided(wanted, shares, len(rooms), num_layers)
    best = Placement((0,) * len(rooms))
    for count in range(1, num_layers + 2):
        found = divided(count, shares, len(rooms), num_layers)
        if not _is_placed(case, run, found):
            break
        best = found
    return best


def _is_placed(case: Case, run: Run, placement: Placement) -> bool:
    lines = memory.bill_of(
        case.info,
        ctx_size=run.ctx_size,
        num_slots=run.num_slots,
        ubatch_size=run.ubatch_size,
        cache_type_k=run.cache_type_k,
        cache_type_v=run.cache_type_v,
        flash_attn=run.flash_attn,
        placement=placement,
    )
    taken = {f"gpu{number}": room.free_bytes or 0 for number, room in enumerate(case.space.rooms)}
    for line in lines:
        if line.device in taken:
            taken[line.device] -= line.num_bytes
    return min(taken.values()) >= 0


def divided(count: int, shares: tuple[float, ...], num_devices: int, num_layers: int) -> Placement:
    """The last ``count`` layers, the output first among them, by shares: as llama.cpp divides them.

    Source: ``load_tensors`` in src/llama-model.cpp (``splits``, ``i_gpu_start``, ``get_layer_buft_list``).
    """
    count = max(0, min(count, num_layers + 1))
    weights = [max(0.0, share) for share in shares[:num_devices]] + [0.0] * (num_devices - len(shares))
    if not count or not sum(weights):
        weights[0] = 1.0
    ends = [sum(weights[: number + 1]) / sum(weights) for number in range(num_devices)]
    where = [
        next((number for number, end in enumerate(ends) if end > position / count), num_devices - 1) for position in range(count)
    ]
    counts = [where.count(number) for number in range(num_devices)]
    if not where:
        return Placement(tuple(counts))
    counts[where[-1]] -= 1
    return Placement(tuple(counts), where[-1])


def _kept_bytes(case: Case, ctx_size: int, num_slots: int) -> int:
    """Keys, values and states of all slots, wherever they lie."""
    layers = tuple(each_layer(case.info))
    run, widest = run_of(case, ctx_size, num_slots, min(512, case.batch_size)), widest_values(layers)
    return sum(kv_bytes_of(layer, run, widest) + state_bytes_of(layer, run) for layer in layers)


def _free_bytes(case: Case, total: int | None) -> int | None:
    """What is left of ``total`` for caches and scratch space."""
    if total is None:
        return None
    info = case.info
    layers = sum((layer.dense_bytes + layer.expert_bytes) for layer in each_layer(info))
    outside = sum(part or 0 for part in (info.embedding_bytes, info.lookup_bytes, info.output_bytes, info.other_bytes))
    companions = sum(size for _, size in case.files) + (case.draft.weights_bytes or 0 if case.draft else 0)
    return max(0, total - layers - outside - companions - memory.PROCESS_BYTES)


def _automatic_ctx(case: Case) -> int:
    slots, free = case.wishes.parallel or 1, _free_bytes(case, case.space.total_bytes)
    if free is None or (not case.info.layers and not case.info.num_kv_heads):
        return min(case.longest, AUTOMATIC_CTX)
    best = _affordable_ctx(case, slots, free)
    if not case.space.rooms:
        return _longest(best, lambda ctx: _is_comfortable(case, ctx, slots))
    floor = min(DEVICE_CTX, best)
    there = _free_bytes(case, sum(room.usable_bytes for room in case.space.rooms)) or 0
    best = max(floor, min(best, _affordable_ctx(case, slots, there)))
    whole = _longest(best, lambda ctx: _is_whole(case, ctx, slots) and _is_comfortable(case, ctx, slots))
    if whole >= floor and _is_whole(case, whole, slots):
        return whole
    return _longest(floor, lambda ctx: _is_comfortable(case, ctx, slots))


def _affordable_ctx(case: Case, num_slots: int, free: int) -> int:
    """The longest context whose caches take no more than their share of free memory."""
    ubatch = min(case.wishes.ubatch_size or 512, case.batch_size)

    def is_affordable(ctx: int) -> bool:
        kept = _kept_bytes(case, ctx, num_slots)
        is_usual = ctx <= AUTOMATIC_CTX and kept <= free * KV_SHARE
        is_cheap = _kept_bytes(case, ctx, MAX_SLOTS) <= free * SLOTS_SHARE
        return (is_usual or is_cheap) and kept + memory.compute_bytes(case.info, ubatch, ctx, num_slots) <= free

    return _longest(min(case.longest, LONG_CTX), is_affordable)


def _is_whole(case: Case, ctx_size: int, num_slots: int) -> bool:
    return is_whole(lay(case, ctx_size, num_slots).placement, sum(1 for _ in each_layer(case.info)))


def _is_comfortable(case: Case, ctx_size: int, num_slots: int) -> bool:
    sized = lay(case, ctx_size, num_slots)
    comfortable = case.space.comfortable_bytes
    return fits(case, sized) and (comfortable is None or sized.main_bytes(case.space) <= comfortable)


def _longest(most: int, is_possible: Callable[[int], bool]) -> int:
    """The longest possible context up to ``most``, in whole cells; the shortest useful one where none is."""
    if is_possible(most):
        return most
    low, high = 0, -(-most // CELLS)
    while low + 1 < high:
        middle = (low + high) // 2
        if is_possible(middle * CELLS):
            low = middle
        else:
            high = middle
    return max(min(MIN_CTX, most), low * CELLS)


def _slots(case: Case, ctx_size: int) -> int:
    is_whole_one = _is_whole(case, ctx_size, 1)
    rooms = sum(room.usable_bytes for room in case.space.rooms)
    free = _free_bytes(case, rooms if is_whole_one and case.space.main_bytes is not None else case.space.total_bytes)
    if free is None or not _kept_bytes(case, ctx_size, 1):
        return 1
    if lay(case, ctx_size, 1).placement.devices_used and not is_whole_one:
        return 1
    for count in range(MAX_SLOTS, 1, -1):
        is_affordable = _kept_bytes(case, ctx_size, count) <= free * SLOTS_SHARE and _is_comfortable(case, ctx_size, count)
        if is_affordable and (not is_whole_one or _is_whole(case, ctx_size, count)):
            return count
    return 1


def _with_kept(case: Case, sized: Sized) -> Sized:
    """With room for finished prompts and points of return, of what is left of main memory."""
    comfortable = case.space.comfortable_bytes
    rest = None if comfortable is None else max(0, comfortable - sized.main_bytes(case.space))
    spare = MAX_PROMPT_CACHE_BYTES if rest is None else min(MAX_PROMPT_CACHE_BYTES, int(rest * PROMPT_CACHE_SHARE))
    wanted = case.wishes.cache_ram_mib
    prompts = spare if wanted is None else wanted << 20
    run = run_of(case, sized.ctx_size, sized.num_slots, sized.ubatch_size)
    each = memory.checkpoint_bytes(case.info, run) * sized.num_slots
    room = MAX_CHECKPOINTS_BYTES if rest is None else min(MAX_CHECKPOINTS_BYTES, int(rest * CHECKPOINTS_SHARE))
    count = min(MAX_CHECKPOINTS, room // each) if each else None
    lines = (MemoryLine("checkpoints", "cpu", each * (count or 0)), MemoryLine("prompt cache", "cpu", prompts))
    kept = (*sized.lines[:-1], *(line for line in lines if line.num_bytes), sized.lines[-1])
    return replace(sized, lines=kept, prompt_cache_bytes=prompts, num_checkpoints=count)
