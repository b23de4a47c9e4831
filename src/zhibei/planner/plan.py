"""Join model, machine and wishes into a Plan. The pool starts exactly what is returned here.

The parts: what memory there is (space.py), what is chosen to fit it (sizing.py), how fast that is (speed.py), what to call
it (verdict.py), and what would change it (advice.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zhibei.hardware.measured import Measured
from zhibei.models import WEIGHT_ROLES, Layer, ModelInfo, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner import advice, verdict
from zhibei.planner import speed as speeds
from zhibei.planner.calibration import Calibration
from zhibei.planner.kernels import usable
from zhibei.planner.placement import Placement, guide_layers
from zhibei.planner.rates import Machine, machine_of
from zhibei.planner.repacking import repacked_types
from zhibei.planner.sizing import Case, Sized, size
from zhibei.planner.space import Space, space_of
from zhibei.plans import DeviceUse, EngineSpec, Guide, Hardware, Kernels, Plan, Reason, Speed, Task, Verdict

# The guides' rule: the file and 2 GB more.
GUIDE_EXTRA_BYTES = 2 * 10**9
# How far into a conversation the speed is told for: some pages.
SPEED_DEPTH = 1024


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the machine beside its description, and of what the plan is for.

    ``devices``: what the engine can compute on; None: whatever the drivers allow. ``purpose``: see ``quality.need``.
    ``kernels``: what the engine says of ours, see ``planner.kernels``.
    """

    calibration: Calibration | None = None
    measured: Measured | None = None
    devices: tuple[str, ...] | None = None
    purpose: str = "chat"
    kernels: Kernels | None = None


def plan(  # noqa: PLR0913 - everything that a plan depends on, by name
    model: StoredModel,
    hardware: Hardware,
    engine: str,
    task: Task,
    wishes: LoadOptions,
    extra_bytes: int = 0,
    *,
    calibration: Calibration | None = None,
    measured: Measured | None = None,
    devices: tuple[str, ...] | None = None,
    purpose: str = "chat",
    kernels: Kernels | None = None,
    with_changes: bool = True,
) -> Plan:
    """The plan for running ``model`` on ``engine``.

    Args:
        model: with the projector, adapter and draft files of ``wishes`` among its files; they need not exist.
        extra_bytes: memory that could be freed by stopping idle models, added to what is available.
        calibration: what runs of this machine have shown of its speed.
        measured: the machine's own measurements, which speeds are then predicted from.
        devices: what the engine can compute on; None: whatever the machine's drivers allow.
        purpose: the task of ``quality.need`` whose speed and context the verdict is about.
        kernels: what the engine says of kernels of ours; they count where they can be used and are wished for.
        with_changes: whether to look for what would change it, which takes ten times as long.

    Returns:
        A plan whose verdict says whether it fits; ``spec`` is None only for "does_not_fit" and "unsupported".
    """
    known = Known(calibration, measured, devices, purpose, kernels)
    found = _plan(model, hardware, engine, task, wishes, extra_bytes, known)
    if not with_changes:
        return found

    def again(model: StoredModel, hardware: Hardware, wishes: LoadOptions, devices: tuple[str, ...] | None) -> Plan:
        return _plan(model, hardware, engine, task, wishes, extra_bytes, replace(known, devices=devices))

    return replace(found, changes=tuple(advice.changes(found, advice.Asked(model, hardware, wishes, devices), again)))


def _plan(
    model: StoredModel, hardware: Hardware, engine: str, task: Task, wishes: LoadOptions, extra_bytes: int, known: Known
) -> Plan:
    info = with_weights(model)
    space = space_of(hardware, extra_bytes, known.devices)
    kernels = usable(known.kernels, space.gpus, is_wished=wishes.kernels is not False)
    if wishes.gpu_layers == 0:
        space = replace(space, gpus=(), rooms=(), is_shared=False)
    computing = replace(hardware, gpus=space.gpus)
    threads = wishes.threads or hardware.num_physical_cores or 1
    repacked = repacked_types(hardware.cpu_features) if engine == "llama.cpp" else frozenset()
    batch = _batch_size(info, computing, wishes, threads)
    taken = frozenset(kernels.types) if kernels is not None else frozenset()
    case = Case(info, task, wishes, space, batch, _companions(model), _draft(model), repacked, taken)
    sized = size(case)
    if space.gpus and not sized.placement.devices_used:
        # Nothing lies there after all: batches are the processor's.
        case = replace(case, batch_size=_batch_size(info, replace(hardware, gpus=()), wishes, threads), laid={})
        sized = size(case)
    machine = machine_of(replace(hardware, gpus=space.gpus), known.measured, kernels)
    speed = _speed(case, sized, machine, known.calibration, threads)
    blank = Plan(
        "unsupported",
        None,
        sized.lines,
        space.main_bytes,
        devices=_uses(case, sized, hardware),
        num_layers=verdict.number_of_layers(info) or info.num_layers,
        ctx_size=sized.ctx_size,
        num_slots=sized.num_slots,
        speed=speed,
        guide=_guide(model, case),
    )
    obstacles = verdict.obstacles(case, engine)
    if obstacles:
        return replace(blank, reasons=obstacles)
    shortage = verdict.shortage(case, sized)
    if shortage is not None:
        return replace(blank, verdict="does_not_fit", reasons=(shortage, *space.reasons))
    called: Verdict = verdict.judge(case, sized, speed, known.purpose)
    reasons: tuple[Reason, ...] = tuple(verdict.reasons(case, sized, speed, known.purpose))
    return replace(blank, verdict=called, spec=_spec(model, engine, case, sized, threads), reasons=reasons)


def way_of(found: Plan) -> speeds.Way:
    """The way a plan with a spec is run, as far as its speed depends on it."""
    assert found.spec is not None
    there = [use for use in found.devices if use.device != "cpu"]
    output = next((number for number, use in enumerate(there) if use.has_output), -1)
    layers = tuple(use.num_layers for use in there)
    return speeds.Way(
        num_threads=found.spec.threads or 1,
        batch_size=found.spec.ubatch_size,
        cache_type_k=found.spec.cache_type_k,
        cache_type_v=found.spec.cache_type_v,
        placement=Placement(layers, output, found.spec.n_cpu_moe, found.spec.kv_offload),
    )


def with_weights(model: StoredModel) -> ModelInfo:
    """What is known of the model; where the sizes of tensors are not, the files' size takes their place."""
    info = model.info or ModelInfo("unknown", "unknown")
    size_bytes = sum(file.size_bytes for file in model.files if file.role in WEIGHT_ROLES)
    if any(layer.dense_bytes + layer.expert_bytes for layer in info.layers):
        return info
    if not info.layers:
        # What looks both ways keeps no cache, though its summary has heads.
        heads = () if info.is_causal is False else info.num_kv_heads
        outside = None if heads or info.num_layers else size_bytes
        return replace(info, weights_bytes=size_bytes, num_kv_heads=heads, other_bytes=outside)
    return replace(info, weights_bytes=size_bytes, layers=_spread(info.layers, size_bytes))


def _spread(layers: Sequence[Layer], size_bytes: int) -> tuple[Layer, ...]:
    count = sum(layer.count for layer in layers if layer.kind != "extra") or 1
    each = -(-size_bytes // count)
    return tuple(layer if layer.kind == "extra" else replace(layer, dense_bytes=each) for layer in layers)


def _batch_size(info: ModelInfo, hardware: Hardware, wishes: LoadOptions, threads: int) -> int:
    return wishes.batch_size or speeds.batch_size(info, hardware, wishes.threads_batch or threads)


def _companions(model: StoredModel) -> tuple[tuple[str, int], ...]:
    roles = ("projector", "adapter") if _draft(model) is not None else ("projector", "adapter", "draft")
    return tuple((role, sum(file.size_bytes for file in model.files if file.role == role)) for role in roles)


def _draft(model: StoredModel) -> ModelInfo | None:
    return model.draft if model.draft is not None and model.draft.layers else None


def _speed(case: Case, sized: Sized, machine: Machine, calibration: Calibration | None, threads: int) -> Speed | None:
    way = speeds.Way(
        num_threads=threads,
        batch_size=sized.ubatch_size,
        cache_type_k=case.cache_types[0],
        cache_type_v=case.cache_types[1],
        placement=sized.placement,
    )
    found = speeds.predict(case.info, machine, way, min(SPEED_DEPTH, sized.ctx_size // 2), calibration)
    prompt, generation = found.prompt, found.generation
    if case.task != "generate" or case.info.is_causal is False:
        generation = None
    if prompt is None and generation is None:
        return None
    told = Speed(is_calibrated=found.num_runs > 0)
    if prompt is not None:
        told = replace(told, prompt_tokens_per_s=prompt.tokens_per_s, prompt_low=prompt.low, prompt_high=prompt.high)
    if generation is not None:
        told = replace(
            told,
            generation_tokens_per_s=generation.tokens_per_s,
            generation_low=generation.low,
            generation_high=generation.high,
            limited_by=generation.limited_by,
        )
    return told


def _uses(case: Case, sized: Sized, hardware: Hardware) -> tuple[DeviceUse, ...]:
    space, placement = case.space, sized.placement
    on_gpus = sum(placement.layers_per_gpu)
    layers = verdict.number_of_layers(case.info)
    total = {line.device: 0 for line in sized.lines}
    for line in sized.lines:
        total[line.device] += line.num_bytes
    uses = [
        DeviceUse("cpu", hardware.cpu_name, total.get("cpu", 0), space.main_bytes, layers - on_gpus, placement.output_device < 0)
    ]
    for number, (gpu, room) in enumerate(zip(space.gpus, space.rooms, strict=True)):
        name = f"gpu{number}"
        count = placement.layers_per_gpu[number] if number < len(placement.layers_per_gpu) else 0
        has_output = placement.output_device == number
        uses.append(DeviceUse(name, gpu.name, total.get(name, 0), room.free_bytes, count, has_output, space.is_shared))
    return tuple(uses)


def _guide(model: StoredModel, case: Case) -> Guide:
    size_bytes = sum(file.size_bytes for file in model.files if file.role in WEIGHT_ROLES)
    free = [room.free_bytes or 0 for room in case.space.rooms]
    layers = verdict.number_of_layers(case.info)
    count = guide_layers(layers, sum(free), size_bytes) if free and layers else None
    return Guide(size_bytes + GUIDE_EXTRA_BYTES, count)


def _spec(model: StoredModel, engine: str, case: Case, sized: Sized, threads: int) -> EngineSpec:
    wishes, placement = case.wishes, sized.placement
    projectors, drafts = model.paths("projector"), model.paths("draft")
    scales = {str(Path(path)): scale for path, scale in wishes.lora}
    return EngineSpec(
        engine=engine,
        model_path=str(model.model_path),
        model_name=model.name,
        task=case.task,
        ctx_size=sized.ctx_size,
        num_slots=sized.num_slots,
        batch_size=sized.batch_size,
        ubatch_size=sized.ubatch_size,
        threads=threads,
        threads_batch=wishes.threads_batch,
        cache_type_k=case.cache_types[0],
        cache_type_v=case.cache_types[1],
        flash_attn=wishes.flash_attn or "auto",
        gpu_layers=_gpu_layers(case.space, sized, wishes),
        prompt_cache_bytes=sized.prompt_cache_bytes,
        mmap=case.is_mapped,
        mlock=bool(wishes.mlock),
        main_gpu=wishes.main_gpu or 0,
        tensor_split=wishes.tensor_split or _tensor_split(case.space, sized),
        rope_freq_base=wishes.rope_freq_base,
        rope_freq_scale=wishes.rope_freq_scale,
        lora=tuple((str(path), scales.get(str(path), 1.0)) for path in model.paths("adapter")),
        mmproj_path=str(projectors[0]) if projectors else None,
        draft_model_path=str(drafts[0]) if drafts else None,
        chat_template=wishes.chat_template,
        reasoning=wishes.reasoning or "auto",
        pooling=wishes.pooling or _pooling(model, case.task),
        n_cpu_moe=placement.num_cpu_experts,
        kv_offload=placement.kv_on_device,
        n_ctx_checkpoints=sized.num_checkpoints,
        speculation=wishes.speculation or "auto",
        kernels=wishes.kernels is not False,
    )


def _gpu_layers(space: Space, sized: Sized, wishes: LoadOptions) -> int | None:
    if wishes.gpu_layers is not None:
        return wishes.gpu_layers
    # Where nothing could be placed because no device is known, the engine may still find one.
    return sized.placement.num_gpu_layers if space.rooms else None


def _tensor_split(space: Space, sized: Sized) -> tuple[float, ...]:
    if len(space.rooms) < 2 or not sized.placement.devices_used:
        return ()
    return tuple(map(float, sized.placement.tensor_split))


def _pooling(model: StoredModel, task: Task) -> str | None:
    """How token vectors become one: the model's own way; the mean for models that were not made for it."""
    own = model.info.pooling if model.info is not None else None
    return "mean" if task == "embed" and own in (None, "none") else None
