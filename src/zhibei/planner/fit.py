"""One model in several quantisations and contexts: which of them run, and which is the best choice. Pure.

How one of them runs is the business of ``plan``; what a quantisation costs, of ``quality``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from zhibei.models import ModelInfo, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner import quality
from zhibei.plans import VERDICTS, Plan, Task

CONTEXTS = (4096, 8192, 32768)
# Under half a per cent of perplexity nobody tells two quantisations apart: then the smaller one is the better choice.
UNNOTICED_LOSS = 0.005
_USUAL_CTX = 8192

MakePlan = Callable[[StoredModel, LoadOptions], Plan]


@dataclass(frozen=True, slots=True)
class Form:
    """One quantisation of a model. ``label`` None: there is but one."""

    label: str | None
    model: StoredModel


@dataclass(frozen=True, slots=True)
class Row:
    """How a form runs with each context. ``loss``: relative increase of perplexity over 16 bits; None: nobody measured it."""

    form: Form
    loss: float | None
    plans: tuple[Plan, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """All forms with all contexts, the smallest form first. ``best``: index of the row to take; None: none runs."""

    contexts: tuple[int, ...]
    rows: tuple[Row, ...]
    best: int | None


def table(forms: Sequence[Form], wishes: LoadOptions, make_plan: MakePlan) -> Table:
    """The table of a model's forms. A wanted context is the only one in it."""
    info = next((form.model.info for form in forms if form.model.info is not None), None)
    wanted = contexts(info, wishes.ctx_size)
    rows = tuple(
        Row(
            form,
            loss_of(form.model.info, form.label),
            tuple(make_plan(form.model, replace(wishes, ctx_size=ctx_size)) for ctx_size in wanted),
        )
        for form in sorted(forms, key=lambda form: form.model.size_bytes)
    )
    return Table(wanted, rows, best_of(rows, wanted))


def contexts(info: ModelInfo | None, wanted: int | None) -> tuple[int, ...]:
    """The contexts to show: the usual ones up to what the model was trained for, and that one."""
    if wanted is not None:
        return (wanted,)
    longest = info.context_length if info is not None else None
    if longest is None:
        return CONTEXTS
    return (*(ctx_size for ctx_size in CONTEXTS if ctx_size < longest), longest)


def best_of(rows: Sequence[Row], wanted: Sequence[int]) -> int | None:
    """The row to take: that runs best with a context of usual length, of those the one that loses least, then the smallest.

    Where all are slow, the fastest that is worth having.
    """
    column = max((number for number, ctx_size in enumerate(wanted) if ctx_size <= _USUAL_CTX), default=0)

    def key(index: int) -> tuple[int, float, int]:
        row, plan = rows[index], rows[index].plans[column]
        loss = max(row.loss if row.loss is not None else 1.0, UNNOTICED_LOSS)
        if plan.verdict == "runs_slowly":
            loss = float(not _is_worthwhile(row))
        return -VERDICTS.index(plan.verdict), loss, row.form.model.size_bytes

    runnable = [index for index, row in enumerate(rows) if row.plans[column].is_runnable]
    return min(runnable, key=key, default=None)


def _is_worthwhile(row: Row) -> bool:
    info = row.form.model.info
    kind = row.form.label or (info.quantisation if info is not None else None)
    if info is None or kind is None or not info.num_parameters:
        return True
    return quality.is_worthwhile(quality.Candidate(info.num_parameters, kind))


def loss_of(info: ModelInfo | None, label: str | None) -> float | None:
    """What the quantisation of a form costs; None where its parameters or its type are not known."""
    kind = label or (info.quantisation if info is not None else None)
    if info is None or kind is None or not info.num_parameters:
        return None
    return 0.0 if kind.upper() in ("F16", "BF16", "F32") else quality.loss(kind, info.num_parameters)


def task_of(info: ModelInfo | None, purpose: str | None) -> tuple[Task, str]:
    """What the engine does, and what for: as it was said, else what the model was made for."""
    if purpose == "rerank" or (purpose is None and info is not None and info.pooling == "rank"):
        return "rerank", "embed"
    is_encoder = info is not None and (info.is_causal is False or info.pooling not in (None, "none"))
    if purpose == "embed" or (purpose is None and is_encoder):
        return "embed", "embed"
    return "generate", purpose or "chat"
