"""How a model runs on a machine: what its reference names is planned. Owns what is planned of one and of several forms."""

from __future__ import annotations

from dataclasses import dataclass

from zhibei.judging.bench import Bench
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.fit import Form, Table, table, task_of
from zhibei.plans import Plan
from zhibei.runtime.runs import Run
from zhibei.store.appraisal import Appraisal


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found, and how it runs.

    Of one model ``plan`` is its plan, and ``last_run`` what was measured of it here. Of several quantisations ``table`` has
    the plans; where none of them runs, ``plan`` is the smallest one's, with what would help.
    """

    appraisal: Appraisal
    table: Table | None = None
    plan: Plan | None = None
    last_run: Run | None = None


def judge(appraisal: Appraisal, bench: Bench, wishes: LoadOptions, purpose: str | None) -> Judgement:
    """Plan what was found. Pure, but takes its time where there are many quantisations."""
    task, wanted = task_of(appraisal.models[0].model.info, purpose)

    def make(model: StoredModel, load: LoadOptions, *, with_changes: bool = False) -> Plan:
        return bench.plan(model, task, load, wanted, with_changes=with_changes)

    if len(appraisal.models) == 1:
        model = appraisal.models[0].model
        return Judgement(appraisal, None, make(model, wishes, with_changes=True), bench.last_run(model))
    found = table([Form(item.label, item.model) for item in appraisal.models], wishes, make)
    smallest = make(found.rows[0].form.model, wishes, with_changes=True) if found.best is None else None
    return Judgement(appraisal, found, smallest)
