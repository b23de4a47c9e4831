"""How a model runs on a machine: what its reference names is planned. Owns what is planned of one and of several forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from zhibei.judging.bench import Bench
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.fit import Form, Table, table, task_of
from zhibei.plans import Plan, Speed
from zhibei.runtime.runs import Run
from zhibei.store.appraisal import Appraisal


@dataclass(frozen=True, slots=True)
class KernelsGain:
    """The speed of one plan with kernels of ours and without. ``is_used``: it is that with them.

    The plan's own speed is as it was planned; the other differs from it as the two do before any run, since runs of the
    two were made at other times and of other models.
    ``hint``: what would make them usable; None: nothing is needed, or the machine is a described one.
    """

    is_used: bool
    speed: Speed
    plain_speed: Speed
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found, and how it runs.

    Of one model ``plan`` is its plan, and ``last_run`` what was measured of it here. Of several quantisations ``table`` has
    the plans; where none of them runs, ``plan`` is the smallest one's, with what would help. ``kernels``: what ours do for
    the plan or for that of the best form; None: they cannot be had.
    """

    appraisal: Appraisal
    table: Table | None = None
    plan: Plan | None = None
    last_run: Run | None = None
    kernels: KernelsGain | None = None


def judge(appraisal: Appraisal, bench: Bench, wishes: LoadOptions, purpose: str | None) -> Judgement:
    """Plan what was found. Pure, but takes its time where there are many quantisations."""
    task, wanted = task_of(appraisal.models[0].model.info, purpose)

    def make(model: StoredModel, load: LoadOptions, *, with_changes: bool = False) -> Plan:
        return bench.plan(model, task, load, wanted, with_changes=with_changes)

    if len(appraisal.models) == 1:
        model = appraisal.models[0].model
        found = make(model, wishes, with_changes=True)
        gain = _gain(
            bench, found, lambda there: there.plan(model, task, replace(wishes, kernels=None), wanted, with_changes=False)
        )
        return Judgement(appraisal, None, found, bench.last_run(model), gain)
    several = table([Form(item.label, item.model) for item in appraisal.models], wishes, make)
    if several.best is None:
        return Judgement(appraisal, several, make(several.rows[0].form.model, wishes, with_changes=True))
    best = several.rows[several.best]
    # The first context, for which every form was planned.
    load = replace(wishes, ctx_size=several.contexts[0], kernels=None)
    gain = _gain(bench, best.plans[0], lambda there: there.plan(best.form.model, task, load, wanted, with_changes=False))
    return Judgement(appraisal, several, kernels=gain)


def _gain(bench: Bench, found: Plan, again: Callable[[Bench], Plan]) -> KernelsGain | None:
    """What kernels do for a plan of the processor's; ``again`` makes it with them or without."""
    kernels = bench.possible_kernels
    if kernels is None or found.speed is None or len(found.devices) > 1:
        return None
    is_used = bench.kernels is not None and found.spec is not None and found.spec.kernels
    fast, plain = (again(bench.untaught(which)).speed for which in (kernels, None))
    if fast is None or plain is None or fast == plain:
        return None
    with_them = found.speed if is_used else _scaled(found.speed, fast, plain)
    without = _scaled(found.speed, plain, fast) if is_used else found.speed
    mine = bench.engine.kernels
    hint = mine.hint if bench.is_here and mine is not None and mine.level is None else None
    return KernelsGain(is_used, with_them, without, hint)


def _scaled(speed: Speed, there: Speed, here: Speed) -> Speed:
    """A speed, changed as ``there`` differs from ``here``."""
    generation = _ratio(there.generation_tokens_per_s, here.generation_tokens_per_s)
    prompt = _ratio(there.prompt_tokens_per_s, here.prompt_tokens_per_s)
    return replace(
        speed,
        prompt_tokens_per_s=_times(speed.prompt_tokens_per_s, prompt),
        prompt_low=_times(speed.prompt_low, prompt),
        prompt_high=_times(speed.prompt_high, prompt),
        generation_tokens_per_s=_times(speed.generation_tokens_per_s, generation),
        generation_low=_times(speed.generation_low, generation),
        generation_high=_times(speed.generation_high, generation),
        limited_by=there.limited_by,
    )


def _ratio(upper: float | None, lower: float | None) -> float | None:
    return upper / lower if upper is not None and lower else None


def _times(value: float | None, factor: float | None) -> float | None:
    return None if value is None or factor is None else value * factor
