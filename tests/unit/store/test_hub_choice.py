"""Which hub answers sooner: asked once, remembered for a week, and never a reason to fail."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from zhibei.errors import ModelNotFound, Offline, SourceError
from zhibei.refs import ModelRef
from zhibei.store import hub_choice
from zhibei.store.hub_choice import remember, remembered, soonest
from zhibei.store.sources.base import StartOver
from zhibei.store.ways import Way

DAY_S = 24 * 3600
HF, MS = (Way(ModelRef(hub, "o/n"), None) for hub in ("hf", "ms"))


class Clock:
    """The time of day, as the test has it."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "hub.json"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(1_800_000_000.0)
    monkeypatch.setattr(hub_choice, "time", made)
    return made


def test_it_is_remembered_for_a_week(path: Path, clock: Clock) -> None:
    assert remembered(path) is None
    remember(path, "ms")
    assert remembered(path) == "ms"
    clock.now_s += 7 * DAY_S - 1
    assert remembered(path) == "ms"
    clock.now_s += 2
    assert remembered(path) is None


def test_a_note_from_the_future_does_not_count(path: Path, clock: Clock) -> None:
    remember(path, "hf")
    clock.now_s -= DAY_S
    assert remembered(path) is None


def test_the_last_note_counts(path: Path, clock: Clock) -> None:
    remember(path, "hf")
    remember(path, "ms")
    assert remembered(path) == "ms"
    assert [found.name for found in path.parent.iterdir()] == ["hub.json"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"5",
        b"[]",
        b'"hf"',
        b"{}",
        b'{"hub": "hf"}',
        b'{"hub": "hf", "at_s": "yesterday"}',
        b'{"hub": "hf", "at_s": null}',
        b'{"hub": "hf", "at_s": NaN}',
        b'{"hub": "hf", "at_s": Infinity}',
        b'{"hub": "hf", "at_s": 1' + b"0" * 400 + b"}",
        b"\xff\xfe",
        b"[" * 4096,
        b" " * 5000 + b'{"hub": "hf", "at_s": 1800000000}',
    ],
)
def test_a_broken_note_is_none(path: Path, clock: Clock, text: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(text)
    assert remembered(path) is None


def test_a_disk_that_does_not_allow_it_is_no_failure(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "state").write_bytes(b"a file in its place")
    remember(tmp_path / "state" / "hub.json", "hf")
    assert remembered(tmp_path / "state" / "hub.json") is None
    (tmp_path / "hub.json").mkdir()
    remember(tmp_path / "hub.json", "hf")
    assert remembered(tmp_path / "hub.json") is None


def test_the_note_holds_no_more_than_is_needed(path: Path, clock: Clock) -> None:
    remember(path, "hf")
    found: dict[str, Any] = json.loads(path.read_text())
    assert found == {"hub": "hf", "at_s": clock.now_s}


class Hubs:
    """Hubs that answer when the test lets them, or fail at once."""

    def __init__(self, *, failing: dict[str, Exception] | None = None) -> None:
        self.gates = {"hf": asyncio.Event(), "ms": asyncio.Event()}
        self.failing = failing or {}
        self.cancelled: list[str] = []

    async def ask(self, way: Way) -> None:
        hub = str(way.ref.source)
        if hub in self.failing:
            raise self.failing[hub]
        try:
            await self.gates[hub].wait()
        except asyncio.CancelledError:
            self.cancelled.append(hub)
            raise


@pytest.mark.parametrize(("first", "second"), [(HF, MS), (MS, HF)])
async def test_the_first_that_answers_is_taken_and_the_other_is_left_alone(first: Way, second: Way) -> None:
    hubs = Hubs()
    hubs.gates[str(first.ref.source)].set()
    assert await soonest((HF, MS), hubs.ask) == first
    assert hubs.cancelled == [second.ref.source]


@pytest.mark.parametrize("error", [ModelNotFound("No."), SourceError("No."), Offline("No."), StartOver()])
async def test_one_that_fails_is_not_the_sooner_one(error: Exception) -> None:
    hubs = Hubs(failing={"hf": error})
    hubs.gates["ms"].set()
    assert await soonest((HF, MS), hubs.ask) == MS


async def test_where_none_has_it_there_is_no_winner() -> None:
    assert await soonest((HF, MS), Hubs(failing={"hf": Offline("No."), "ms": ModelNotFound("No.")}).ask) is None


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_choice, "_PATIENCE_S", 0.0)
    hubs = Hubs()
    assert await soonest((HF, MS), hubs.ask) is None
    assert set(hubs.cancelled) <= {"hf", "ms"}


async def test_who_stops_asking_leaves_nothing_running() -> None:
    hubs = Hubs()
    asking = asyncio.ensure_future(soonest((HF, MS), hubs.ask))
    for _ in range(3):
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert sorted(hubs.cancelled) == ["hf", "ms"]
