"""What to call a plan, and why: the thresholds and the reasons. Pure; decides nothing of the plan itself."""

from __future__ import annotations

from collections.abc import Iterator

from zhibei.i18n import N_
from zhibei.models import ModelInfo
from zhibei.planner import quality
from zhibei.planner.layers import each_layer, takes_cache_type
from zhibei.planner.sizing import Case, Sized, is_whole, overfull
from zhibei.plans import Reason, Speed, Verdict
from zhibei.units import format_bytes

# Formats that each engine reads; one that is not here reads what it is given.
_FORMATS = {"llama.cpp": ("gguf", "unknown")}


def obstacles(case: Case, engine: str) -> tuple[Reason, ...]:
    """Why the engine could not run it at all, however much memory there is."""
    found: list[Reason] = []
    if case.info.format not in _FORMATS.get(engine, (case.info.format,)):
        found.append((N_("{engine} does not read the format {format}."), {"engine": engine, "format": case.info.format}))
    keys, values = case.cache_types
    if not takes_cache_type(case.info, keys, values, flash_attn=case.wishes.flash_attn != "off"):
        found.append((N_("The engine cannot keep this model's cache as {keys} and {values}."), {"keys": keys, "values": values}))
    return tuple(found)


def shortage(case: Case, sized: Sized) -> Reason | None:
    """Which device lacks memory; None: none does."""
    device = overfull(case.space, sized)
    if device is None:
        return None
    if device == "cpu":
        needed, available = sized.main_bytes(case.space), case.space.main_bytes or 0
        values = {"needed": format_bytes(needed), "available": format_bytes(available), "ctx_size": sized.ctx_size}
        return N_("It needs {needed}; {available} are free."), values
    number = int(device.removeprefix("gpu"))
    values = {
        "needed": format_bytes(sized.bytes_on(device)),
        "available": format_bytes(case.space.rooms[number].free_bytes or 0),
        "gpu": case.space.gpus[number].name,
        "ctx_size": sized.ctx_size,
    }
    return N_("On {gpu} it needs {needed}; {available} are free there."), values


def is_tight(case: Case, sized: Sized) -> bool:
    """Whether it takes memory that other programs should keep."""
    comfortable = case.space.comfortable_bytes
    return comfortable is not None and sized.main_bytes(case.space) + sized.kept_bytes > comfortable


def judge(case: Case, sized: Sized, speed: Speed | None, purpose: str) -> Verdict:
    """What to call a plan that fits.

    Slow is less than the purpose's least speed, well is its good speed, its context (or all that the model has, or the one that
    was asked for) and memory left for others. Where no speed is known nothing is called well or slow, unless the purpose has
    none.
    """
    need = quality.need("embed" if case.task != "generate" else purpose) or quality.Need(0)
    rate = speed.generation_tokens_per_s if speed is not None else None
    if need.min_tokens_per_s is not None and rate is not None and rate < need.min_tokens_per_s:
        return "runs_slowly"
    # A short context that was asked for is no fault of the machine.
    is_short = case.wishes.ctx_size is None and sized.ctx_size < min(need.ctx_size, case.longest)
    if is_tight(case, sized) or is_short:
        return "runs"
    if need.good_tokens_per_s is not None and (rate is None or rate < need.good_tokens_per_s):
        return "runs"
    return "runs_well"


def reasons(case: Case, sized: Sized, speed: Speed | None, purpose: str) -> Iterator[Reason]:
    """What a person should know of a plan that fits."""
    trained = case.info.context_length
    if case.wishes.ctx_size is not None and trained is not None and sized.ctx_size > trained:
        text = N_("The context of {ctx_size} tokens is longer than the {trained} this model was trained for.")
        yield text, {"ctx_size": sized.ctx_size, "trained": trained}
    yield from case.space.reasons
    yield from _placed(case, sized)
    comfortable = case.space.comfortable_bytes
    if is_tight(case, sized) and comfortable is not None:
        over = sized.main_bytes(case.space) + sized.kept_bytes - comfortable
        yield N_("Memory is tight: {bytes} of it should stay free for other programs."), {"bytes": format_bytes(over)}
    need = quality.need(purpose) or quality.Need(0)
    if case.task != "generate":
        return
    if case.wishes.ctx_size is None and sized.ctx_size < min(need.ctx_size, case.longest):
        yield N_("A context of more than {ctx_size} tokens would take too much memory."), {"ctx_size": sized.ctx_size}
    rate = speed.generation_tokens_per_s if speed is not None else None
    if rate is not None and need.min_tokens_per_s is not None and rate < need.min_tokens_per_s:
        text = N_("About {rate} tokens per second: less than the {least} that make waiting bearable.")
        yield text, {"rate": _rate(rate), "least": _rate(need.min_tokens_per_s)}


def _placed(case: Case, sized: Sized) -> Iterator[Reason]:
    """What of the model a graphics processor does not hold."""
    if not case.space.rooms:
        return
    placement, num_layers = sized.placement, number_of_layers(case.info)
    if is_whole(placement, num_layers) or not num_layers:
        return
    here = sum(placement.layers_per_gpu)
    if here < num_layers or placement.output_device < 0:
        values = {"count": here, "total": num_layers}
        yield N_("{count} of {total} layers lie on graphics processors; the others are computed by the processor."), values
    elif placement.num_cpu_experts:
        values = {"count": placement.num_cpu_experts, "total": num_layers}
        yield N_("The experts of {count} of {total} layers stay in main memory; all else lies on graphics processors."), values
    if not placement.kv_on_device and placement.devices_used:
        yield N_("The cache stays in main memory, so that more layers lie on graphics processors."), {}


def number_of_layers(info: ModelInfo) -> int:
    """Layers that are loaded."""
    return sum(1 for _ in each_layer(info))


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
