"""``zhibei fit``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from zhibei.cli import looking, plan_documents, plan_text
from zhibei.cli.batch import Batch
from zhibei.cli.completing import complete_model
from zhibei.cli.connect import ask_server, elsewhere
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import OneOf, Whole
from zhibei.cli.planning import CACHE_TYPES, CTX_OPTION, HARDWARE_OPTION, PURPOSES, bench
from zhibei.cli.references import as_reference
from zhibei.cli.render import printable
from zhibei.cli.wording import command, json_option, option
from zhibei.i18n import N_
from zhibei.options import LoadOptions
from zhibei.units import format_bytes, format_count

if TYPE_CHECKING:
    from zhibei.judging.bench import Bench
    from zhibei.judging.fit import Judgement
    from zhibei.planner.fit import Table
    from zhibei.plans import Plan
    from zhibei.service import Service
    from zhibei.store.appraisal import Appraisal, Appraised

_ENGINES = OneOf(("auto", "llama.cpp", "echo"))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked of each model."""

    wishes: LoadOptions
    purpose: str | None
    engine: str | None


@command(
    "fit",
    N_(
        "Tell whether a model runs here, how fast, and why.\n"
        "REFERENCE is anything that zhibei pull takes, or a model that is here. Of a model elsewhere only the header is "
        "read, a few MB at most. Where a repository has several quantisations, all of them are compared."
    ),
)
@click.argument("references", metavar="REFERENCE...", nargs=-1, required=True, shell_complete=complete_model)
@CTX_OPTION
@option("--parallel", kind=Whole(1, 256), help=N_("Requests answered at the same time; each has a context of its own."))
@option("--kv-type", kind=CACHE_TYPES, help=N_("Number format of the context's keys and values; smaller ones save memory."))
@option(
    "--kernels/--no-kernels",
    "kernels",
    default=None,
    help=N_("Compute with zhibei-kernels, where they are installed and fit this processor."),
)
@option("--engine", kind=_ENGINES, help=N_("The engine to run it on."))
@HARDWARE_OPTION
@option("--task", "purpose", kind=OneOf(PURPOSES), help=N_("What it is for; some tasks want more speed and context."))
@json_option
@click.pass_obj
def COMMAND(  # noqa: PLR0913 - its options
    invocation: Invocation,
    /,
    references: Sequence[str],
    ctx_size: int | None,
    parallel: int | None,
    kv_type: Any,
    kernels: bool | None,
    engine: str | None,
    described: str | None,
    purpose: str | None,
    as_json: bool,
) -> None:
    """Look at each model and print its plan, or the plans of its quantisations."""
    kernels = kernels if kernels is not None else invocation.settings.load.kernels
    wishes = LoadOptions(ctx_size=ctx_size, parallel=parallel, cache_type_k=kv_type, cache_type_v=kv_type, kernels=kernels)
    server = elsewhere(invocation) if described is None else None
    here = bench(invocation, described, engine, may_measure=True) if server is None else None
    batch = Batch(invocation, len(references))
    documents: list[dict[str, Any]] = []
    for number, reference in enumerate(references):
        with batch.item():
            found = _judged(invocation, server or here, as_reference(reference), _Asked(wishes, purpose, engine))
            if number and not as_json:
                invocation.printer.data("")
            documents.append(_answer(invocation, found, as_json=as_json))
    if as_json:
        invocation.printer.json({"models": documents})
    elif here is not None and not here.engine.installed:
        invocation.note("The engine {engine} is not installed here yet.", engine=here.engine.name)
    batch.finish()


def _judged(invocation: Invocation, judging: Service | Bench | None, reference: str, asked: _Asked) -> Judgement:
    """By a server for its machine, or in this process."""
    from zhibei.judging.asking import FitQuestion
    from zhibei.judging.bench import Bench
    from zhibei.judging.fit import judge

    if isinstance(judging, Bench):
        return judge(looking.appraise(invocation, reference), judging, asked.wishes, asked.purpose)
    assert judging is not None
    question = FitQuestion(reference, asked.wishes, asked.purpose, asked.engine)
    return ask_server(judging, lambda there: there.fit(question))


def _answer(invocation: Invocation, found: Judgement, *, as_json: bool) -> dict[str, Any]:
    if found.table is not None:
        return _several(invocation, found, found.table, as_json=as_json)
    assert found.plan is not None
    model = found.appraisal.models[0]
    if as_json:
        last_run = plan_documents.run_document(found.last_run)
        form = {**_document(model, [found.plan]), "last_run": last_run}
        return {"asked": found.appraisal.asked, "forms": [form], "kernels": plan_documents.gain_document(found.kernels)}
    _print_one(invocation, model, found)
    return {}


def _several(invocation: Invocation, judged: Judgement, found: Table, *, as_json: bool) -> dict[str, Any]:
    appraisal = judged.appraisal
    by_label = {model.label: model for model in appraisal.models}
    if as_json:
        forms = [_document(by_label[row.form.label], row.plans) for row in found.rows]
        best = None if found.best is None else by_label[found.rows[found.best].form.label].ref
        gain = plan_documents.gain_document(judged.kernels)
        return {"asked": appraisal.asked, "forms": forms, "best": best, "kernels": gain}
    _print_table(invocation, appraisal, found)
    if found.best is not None:
        best_row = found.rows[found.best]
        invocation.note("* is the best choice: zhibei fit {ref}", ref=by_label[best_row.form.label].ref)
        if judged.kernels is not None:
            told = plan_text.gain_text(invocation, judged.kernels)
            invocation.note("Of that one: {gain}.", gain=told.rstrip(".。"))
    elif judged.plan is not None:
        changes = [plan_text.change_text(invocation, change) for change in judged.plan.changes]
        for line in plan_text.change_lines(invocation, changes):
            invocation.printer.data(line)
    return {}


def _print_one(invocation: Invocation, found: Appraised, judged: Judgement) -> None:
    from zhibei.planner.fit import loss_of

    printer, plan = invocation.printer, judged.plan
    assert plan is not None
    info = found.model.info
    printer.data(printer.styled(_headline(found), "bold"))
    printer.data(plan_text.verdict_line(invocation, plan))
    printer.data("")
    loss = loss_of(info, found.label)
    runs, gain = plan_text.run_lines(invocation, judged.last_run), plan_text.gain_text(invocation, judged.kernels)
    for line in plan_text.plan_lines(invocation, plan, basis=found.basis, loss=loss, runs=runs, gain=gain):
        printer.data(line)
    if not found.is_here and plan.is_runnable:
        invocation.note("Fetch it: zhibei pull {ref}", ref=found.ref)


def _headline(found: Appraised) -> str:
    """``qwen2.5:7b  ·  7.6B parameters, Q4_K_M, 4.4 GiB``."""
    info = found.model.info
    kind = found.label or (info.quantisation if info is not None else None)
    count = format_count(info.num_parameters) if info is not None and info.num_parameters else ""
    facts = ", ".join(filter(None, (count, kind, format_bytes(found.model.size_bytes))))
    return f"{printable(found.ref)}  ({printable(facts)})"


def _print_table(invocation: Invocation, appraisal: Appraisal, found: Table) -> None:
    printer = invocation.printer
    info = appraisal.models[0].model.info
    count = format_count(info.num_parameters) if info is not None and info.num_parameters else ""
    printer.data(printer.styled(printable(appraisal.asked) + (f"  ({count})" if count else ""), "bold"))
    for line in plan_text.table_lines(invocation, found):
        printer.data(line)
    for line in (*plan_text.legend_lines(invocation), *plan_text.basis_lines(invocation, appraisal)):
        printer.note(line)


def _document(found: Appraised, plans: Sequence[Plan]) -> dict[str, Any]:
    from zhibei.planner.fit import loss_of

    info = found.model.info
    return {
        "ref": found.ref,
        "name": found.model.name,
        "label": found.label,
        "basis": found.basis,
        "is_here": found.is_here,
        "size_bytes": found.model.size_bytes,
        "num_parameters": info.num_parameters if info is not None else None,
        "quantisation": found.label or (info.quantisation if info is not None else None),
        "loss": loss_of(info, found.label),
        "plans": [plan_documents.plan_document(plan) for plan in plans],
    }
