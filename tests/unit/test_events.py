"""Events, plans and what can be read off them."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from pathlib import Path

import pytest

from zhibei import events, models, options, plans
from zhibei.events import Checked, Notice, Timings
from zhibei.models import Leftover, StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.plans import MemoryLine, Plan

RECORDS = [
    item
    for module in (events, models, options, plans)
    for item in vars(module).values()
    if dataclasses.is_dataclass(item) and isinstance(item, type)
]


def test_a_notice_is_a_template() -> None:
    assert str(Notice("{n} files are left.", (("n", 2),))) == "2 files are left."
    assert str(Notice("All is well {so far}.")) == "All is well {so far}."


def test_speeds_are_only_known_where_time_was_measured() -> None:
    timings = Timings(100, 0.5, 10, 2.0)
    assert (timings.prompt_tokens_per_s, timings.generation_tokens_per_s) == (200.0, 5.0)
    nothing = Timings(0, 0.0, 0, 0.0)
    assert (nothing.prompt_tokens_per_s, nothing.generation_tokens_per_s) == (None, None)


def test_load_options_over_defaults() -> None:
    mine = LoadOptions(ctx_size=0, mmap=False, lora=(("a", 1.0),))
    defaults = LoadOptions(ctx_size=4096, mmap=True, threads=4, lora=(("b", 2.0),), tensor_split=(1.0,))
    assert mine.over(defaults) == LoadOptions(ctx_size=0, mmap=False, threads=4, lora=(("a", 1.0),), tensor_split=(1.0,))
    assert LoadOptions().over(defaults) == defaults


def test_a_stored_model_knows_its_files() -> None:
    files = (
        StoredFile("licence", Path("/l"), 1),
        StoredFile("shard", Path("/m-1"), 10),
        StoredFile("shard", Path("/m-2"), 20),
        StoredFile("projector", Path("/p"), 5),
    )
    model = StoredModel("a:b", files, None, "test", datetime.now(timezone.utc))
    assert model.size_bytes == 36
    assert model.model_path == Path("/m-1")
    assert model.paths("shard") == (Path("/m-1"), Path("/m-2"))
    assert model.paths("adapter") == ()


def test_a_check_and_a_leftover_say_no_more_than_is_known() -> None:
    assert Checked("a:latest", None) == Checked("a:latest", None, ())
    left = Leftover("view", Path("/v"), 0)
    assert (left.origin, left.total_bytes, left.is_active) == (None, None, False)


def test_the_total_of_a_plan() -> None:
    assert Plan("runs", None, (MemoryLine("weights", "cpu", 5), MemoryLine("compute", "gpu0", 7)), None).total_bytes == 12


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_records_are_frozen_and_slotted(record: type) -> None:
    assert record.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(record)
