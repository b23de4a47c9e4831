"""Which running engine would do for another context length."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from zhibei.models import ModelInfo, StoredFile, StoredModel
from zhibei.options import LoadOptions, Sampling
from zhibei.plans import EngineSpec, Plan, Task
from zhibei.runtime.alike import suiting
from zhibei.runtime.asking import Asked
from zhibei.runtime.naming import Wishes
from zhibei.runtime.starting import Wanted

WISHES = Wishes(LoadOptions(), Sampling(), "5m")
INFO = ModelInfo("gguf", "llama", context_length=32768)
MODEL = StoredModel("a:latest", (StoredFile("model", Path("/a"), 1),), INFO, "test", datetime.now(timezone.utc))
SPEC = EngineSpec("echo", "x", "x", "generate", 128, 1, 1, 1, None, None, "f16", "f16", "auto", None, 0)


def running(ctx_size: int, task: Task = "generate", model: StoredModel = MODEL, **load: object) -> tuple[str, Wanted]:
    options = LoadOptions(ctx_size=ctx_size, **load)  # type: ignore[arg-type]
    plan = Plan("fits", replace(SPEC, ctx_size=ctx_size), (), 0)  # type: ignore[arg-type]
    return asked(ctx_size, model, task, **load).key, Wanted(model, plan, task, options, WISHES)


def asked(ctx_size: int | None, model: StoredModel = MODEL, task: Task = "generate", **load: object) -> Asked:
    return Asked(model, task, LoadOptions(ctx_size=ctx_size, **load), WISHES)  # type: ignore[arg-type]


@pytest.mark.parametrize(("wanted", "found"), [(2048, 8192), (8192, 8192), (4096, 4096), (None, 8192)])
def test_the_same_or_the_longest_that_is_long_enough(wanted: int | None, found: int) -> None:
    chosen, gone = suiting(asked(wanted), [running(4096), running(8192)])
    assert chosen is not None and chosen.load.ctx_size == found and gone == ()


def test_shorter_ones_give_way() -> None:
    short = running(2048)
    assert suiting(asked(4096), [short]) == (None, (short[0],))
    assert suiting(asked(None), [short]) == (None, (short[0],))


def test_a_model_that_was_trained_for_less_needs_no_more() -> None:
    small = replace(MODEL, info=replace(INFO, context_length=512))
    assert suiting(asked(None, small), [running(512, model=small)])[0] is not None


def test_others_are_left_alone() -> None:
    others = [
        running(8192, "embed"),
        running(8192, threads=3),
        running(8192, kernels=False),
        running(8192, model=replace(MODEL, name="b:latest")),
        running(1024, model=replace(MODEL, files=(StoredFile("model", Path("/b"), 2),))),
    ]
    assert suiting(asked(4096), others) == (None, ())
