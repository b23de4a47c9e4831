"""Join model, machine and wishes into a Plan. The pool starts exactly what is returned here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zhibei.models import ModelInfo, StoredModel
from zhibei.options import CacheType, LoadOptions
from zhibei.planner import memory, speed
from zhibei.plans import EngineSpec, Hardware, MemoryLine, Plan, Task, Verdict
from zhibei.units import format_bytes

# An automatic context: what most conversations need, as long as it takes no more than its share of free memory.
AUTOMATIC_CTX = 16384
MIN_CTX = 512
KV_SHARE = 0.5
SLOTS_SHARE = 0.25
MAX_SLOTS = 4
PROMPT_CACHE_SHARE = 0.125
MAX_PROMPT_CACHE_BYTES = 1 << 30
# Left to the system and other programs.
RESERVE_SHARE = 0.05
UNKNOWN_CTX = 4096
EMBEDDING_CTX = 2048


@dataclass(frozen=True, slots=True)
class _Choice:
    ctx_size: int
    num_slots: int
    batch_size: int
    ubatch_size: int
    threads: int


def plan(model: StoredModel, hardware: Hardware, engine: str, task: Task, wishes: LoadOptions, extra_bytes: int = 0) -> Plan:
    """The plan for running ``model`` on ``engine``.

    Args:
        model: with the projector, adapter and draft files of ``wishes`` among its files.
        extra_bytes: memory that could be freed by stopping idle models, added to what is available.

    Returns:
        A plan whose verdict says whether it fits; ``spec`` is None only for "does_not_fit" and "unsupported".
    """
    info = model.info or ModelInfo("unknown", "unknown")
    type_k, type_v = wishes.cache_type_k or "f16", wishes.cache_type_v or "f16"
    per_token = memory.kv_bytes_per_token(info, type_k, type_v)
    available = None if hardware.available_bytes is None else hardware.available_bytes + extra_bytes
    reserve = int((hardware.total_bytes or 0) * RESERVE_SHARE)
    free = None if available is None else max(0, available - reserve - _fixed_bytes(model))
    choice = _choose(info, hardware, task, wishes, per_token, free)
    kv_bytes = memory.kv_bytes(per_token, choice.ctx_size, choice.num_slots) if info.is_causal is not False else 0
    scratch = memory.compute_bytes(info, choice.ubatch_size, choice.ctx_size, choice.num_slots)
    rest = None if free is None else free - kv_bytes - scratch
    cache_bytes = _prompt_cache_bytes(wishes, rest) if task == "generate" else 0
    lines = memory.bill(
        weights_bytes=sum(file.size_bytes for file in model.files if file.role in ("model", "shard")),
        kv_bytes=kv_bytes,
        scratch_bytes=scratch,
        prompt_cache_bytes=cache_bytes,
        extra=_extra_lines(model),
    )
    needed = sum(line.num_bytes for line in lines) - cache_bytes
    if available is not None and needed > available:
        return _does_not_fit(lines, needed, available, choice)
    spec = _spec(model, engine, task, wishes, choice, (type_k, type_v), cache_bytes)
    verdict: Verdict = "tight" if available is not None and needed + cache_bytes > available - reserve else "runs"
    return Plan(verdict, spec, lines, available, _reasons(info, wishes, choice))


def _choose(
    info: ModelInfo, hardware: Hardware, task: Task, wishes: LoadOptions, per_token: int | None, free: int | None
) -> _Choice:
    threads = wishes.threads or hardware.num_physical_cores or 1
    batch = wishes.batch_size or speed.batch_size(info, hardware, wishes.threads_batch or threads)
    longest = info.context_length or UNKNOWN_CTX
    if task != "generate":
        # An embedding is computed in one piece, so the micro-batch must hold the whole input.
        ctx = wishes.ctx_size or min(longest, EMBEDDING_CTX)
        return _Choice(ctx, wishes.parallel or 1, ctx, ctx, threads)
    target = wishes.ctx_size or min(longest, AUTOMATIC_CTX)
    ubatch = min(wishes.ubatch_size or 512, batch)
    if wishes.ctx_size is None and per_token and free is not None:
        slots = wishes.parallel or 1
        scratch = memory.compute_bytes(info, ubatch, 0, slots)
        per_cell = per_token * slots + memory.compute_bytes(info, ubatch, 1, slots) - scratch
        affordable = min(int(free * KV_SHARE) // (per_token * slots), (free - scratch) // per_cell)
        target = max(min(MIN_CTX, longest), min(target, affordable - affordable % memory.CELLS))
    slots = wishes.parallel or _slots(info, target, ubatch, per_token, free)
    return _Choice(target, slots, batch, ubatch, threads)


def _slots(info: ModelInfo, ctx_size: int, ubatch_size: int, per_token: int | None, free: int | None) -> int:
    if not per_token or free is None:
        return 1
    spare = free - memory.compute_bytes(info, ubatch_size, ctx_size, MAX_SLOTS)
    affordable = min(int(free * SLOTS_SHARE), spare) // memory.kv_bytes(per_token, ctx_size, 1)
    return max(1, min(MAX_SLOTS, affordable))


def _prompt_cache_bytes(wishes: LoadOptions, rest: int | None) -> int:
    if wishes.cache_ram_mib is not None:
        return wishes.cache_ram_mib << 20
    return MAX_PROMPT_CACHE_BYTES if rest is None else max(0, min(MAX_PROMPT_CACHE_BYTES, int(rest * PROMPT_CACHE_SHARE)))


def _fixed_bytes(model: StoredModel) -> int:
    return model.size_bytes + memory.PROCESS_BYTES


def _extra_lines(model: StoredModel) -> tuple[tuple[str, int], ...]:
    roles = ("projector", "adapter", "draft")
    return tuple((role, sum(file.size_bytes for file in model.files if file.role == role)) for role in roles)


def _spec(
    model: StoredModel,
    engine: str,
    task: Task,
    wishes: LoadOptions,
    choice: _Choice,
    cache_types: tuple[CacheType, CacheType],
    prompt_cache_bytes: int,
) -> EngineSpec:
    projectors, drafts = model.paths("projector"), model.paths("draft")
    scales = {str(Path(path)): scale for path, scale in wishes.lora}
    return EngineSpec(
        engine=engine,
        model_path=str(model.model_path),
        model_name=model.name,
        task=task,
        ctx_size=choice.ctx_size,
        num_slots=choice.num_slots,
        batch_size=choice.batch_size,
        ubatch_size=choice.ubatch_size,
        threads=choice.threads,
        threads_batch=wishes.threads_batch,
        cache_type_k=cache_types[0],
        cache_type_v=cache_types[1],
        flash_attn=wishes.flash_attn or "auto",
        gpu_layers=wishes.gpu_layers,
        prompt_cache_bytes=prompt_cache_bytes,
        mmap=wishes.mmap is not False,
        mlock=bool(wishes.mlock),
        main_gpu=wishes.main_gpu or 0,
        tensor_split=wishes.tensor_split,
        rope_freq_base=wishes.rope_freq_base,
        rope_freq_scale=wishes.rope_freq_scale,
        lora=tuple((str(path), scales.get(str(path), 1.0)) for path in model.paths("adapter")),
        mmproj_path=str(projectors[0]) if projectors else None,
        draft_model_path=str(drafts[0]) if drafts else None,
        chat_template=wishes.chat_template,
        reasoning=wishes.reasoning or "auto",
        pooling=wishes.pooling or _pooling(model, task),
    )


def _pooling(model: StoredModel, task: Task) -> str | None:
    """How token vectors become one: the model's own way; the mean for models that were not made for it."""
    own = model.info.pooling if model.info is not None else None
    return "mean" if task == "embed" and own in (None, "none") else None


def _does_not_fit(lines: tuple[MemoryLine, ...], needed: int, available: int, choice: _Choice) -> Plan:
    reason = (
        "It needs {needed}; {available} are free.",
        {"needed": format_bytes(needed), "available": format_bytes(available), "ctx_size": choice.ctx_size},
    )
    return Plan("does_not_fit", None, lines, available, (reason,))


def _reasons(info: ModelInfo, wishes: LoadOptions, choice: _Choice) -> tuple[tuple[str, dict[str, object]], ...]:
    if wishes.ctx_size is not None and info.context_length is not None and wishes.ctx_size > info.context_length:
        return (
            (
                "The context of {ctx_size} tokens is longer than the {trained} this model was trained for.",
                {"ctx_size": choice.ctx_size, "trained": info.context_length},
            ),
        )
    return ()
