"""A model in several quantisations and contexts: which plans are made, and which is the best choice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.plans_made import GIB, HERE, model_of, plan_of
from zhibei.models import ModelInfo, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.fit import Form, Row, best_of, contexts, loss_of, table, task_of
from zhibei.planner.plan import plan
from zhibei.plans import Plan, Verdict

FORMS = tuple(Form(label, model_of(label, round(8 * bits * 10**8))) for label, bits in (("F16", 20), ("Q8_0", 10), ("Q4_K_M", 6)))


def test_all_forms_are_planned_with_all_contexts_smallest_first() -> None:
    asked: list[tuple[str, int | None]] = []

    def make(model: StoredModel, wishes: LoadOptions) -> Plan:
        asked.append((model.source, wishes.ctx_size))
        return plan_of("runs")

    found = table(FORMS, LoadOptions(parallel=2), make)
    assert [row.form.label for row in found.rows] == ["Q4_K_M", "Q8_0", "F16"]
    assert found.contexts == (4096, 8192, 32768, 131072)
    assert asked[:4] == [("hf:o/n:Q4_K_M", ctx_size) for ctx_size in found.contexts]
    assert len(asked) == 12


@pytest.mark.parametrize(
    ("trained", "wanted", "expected"),
    [
        (131072, None, (4096, 8192, 32768, 131072)),
        (32768, None, (4096, 8192, 32768)),
        (2048, None, (2048,)),
        (8192, None, (4096, 8192)),
        (None, None, (4096, 8192, 32768)),
        (131072, 500, (500,)),
    ],
)
def test_contexts_up_to_the_models_own(trained: int | None, wanted: int | None, expected: tuple[int, ...]) -> None:
    assert contexts(ModelInfo("gguf", "llama", context_length=trained), wanted) == expected


@pytest.mark.parametrize(
    ("verdicts", "best"),
    [
        (("runs_well", "runs_well", "runs_well"), "Q8_0"),  # no one can tell it from 16 bits, and it is half as large
        (("runs_well", "runs", "does_not_fit"), "Q4_K_M"),
        (("runs", "runs", "does_not_fit"), "Q8_0"),
        (("runs_slowly", "runs_slowly", "runs_slowly"), "Q4_K_M"),
        (("does_not_fit", "does_not_fit", "unsupported"), None),
    ],
)
def test_the_best_runs_best_then_loses_least_then_is_smallest(verdicts: tuple[Verdict, ...], best: str | None) -> None:
    labels = ("Q4_K_M", "Q8_0", "F16")
    rows = [
        Row(Form(label, model_of(label, size * GIB)), loss_of(model_of(label, GIB).info, label), (plan_of(verdict),))
        for label, size, verdict in zip(labels, (5, 8, 16), verdicts, strict=True)
    ]
    found = best_of(rows, (8192,))
    assert (None if found is None else labels[found]) == best


def test_slow_ones_below_the_line_of_life_are_not_the_best() -> None:
    rows = [
        Row(Form(label, model_of(label, size)), None, (plan_of("runs_slowly"),)) for label, size in (("Q2_K", 3), ("Q4_K_M", 5))
    ]
    assert best_of(rows, (8192,)) == 1


def test_the_choice_is_made_by_a_context_of_usual_length() -> None:
    long_fails = (plan_of("runs_well"), plan_of("runs_well"), plan_of("does_not_fit"))
    rows = [Row(FORMS[1], 0.001, long_fails), Row(FORMS[2], 0.02, (plan_of("runs"),) * 3)]
    assert best_of(rows, (4096, 8192, 32768)) == 0


def test_loss_is_none_where_it_is_not_known() -> None:
    info = model_of("Q4_K_M", GIB).info
    assert 0.02 < (loss_of(info, "Q4_K_M") or 0) < 0.04
    assert loss_of(info, "BF16") == 0.0
    assert loss_of(info, "Q9_X") is None
    assert loss_of(None, "Q4_K_M") is None
    assert info is not None
    assert loss_of(replace(info, num_parameters=None), None) is None


@pytest.mark.parametrize(
    ("facts", "purpose", "expected"),
    [
        ({}, None, ("generate", "chat")),
        ({}, "code", ("generate", "code")),
        ({"is_causal": False}, None, ("embed", "embed")),
        ({"pooling": "mean"}, None, ("embed", "embed")),
        ({"pooling": "rank"}, None, ("rerank", "embed")),
        ({"pooling": "none"}, None, ("generate", "chat")),
        ({}, "rerank", ("rerank", "embed")),
    ],
)
def test_what_a_model_is_for(facts: dict[str, object], purpose: str | None, expected: tuple[str, str]) -> None:
    assert task_of(ModelInfo("gguf", "x", **facts), purpose) == expected  # type: ignore[arg-type]


def test_with_the_real_planner_more_context_never_takes_less() -> None:
    def make(model: StoredModel, wishes: LoadOptions) -> Plan:
        return plan(model, HERE, "llama.cpp", "generate", wishes, with_changes=False)

    found = table(FORMS, LoadOptions(parallel=1), make)
    for row in found.rows:
        needed = [one.needed_bytes for one in row.plans]
        assert needed == sorted(needed)
        assert row.plans[0].needed_bytes > row.form.model.size_bytes * 0.95
    assert found.best is not None
