"""``zhibei top``: what it makes of two looks, what it prints once, and the live view driven by its own pilot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from textual.widgets import DataTable, Label, RichLog

from support.program import Program
from support.serving import MODEL, serving, stored_model
from zhibei.cli import top_text
from zhibei.cli.overview import Look, overview
from zhibei.cli.top_view import TopView
from zhibei.errors import ModelNotFound, SourceError
from zhibei.i18n import Translator
from zhibei.plans import Resident
from zhibei.runtime.logbook import Logbook, LogLine
from zhibei.service import PoolState

GIB = 1 << 30


def resident(name: str, **changes: Any) -> Resident:
    made = Resident(name, "echo", "generate", "ready", None, 4096, 4, 0, GIB, None, None)
    return replace(made, **changes)


def state(*residents: Resident, num_waiting: int = 0) -> PoolState:
    return PoolState(residents, num_waiting, 6 * GIB, 16 * GIB)


def english(template: str, /, **values: object) -> str:
    return template.format_map(values) if values else template


def test_rates_are_what_was_written_between_two_looks() -> None:
    before = Look(state(resident("a:1", num_generated_tokens=100), resident("b:1", num_generated_tokens=50)), 10.0)
    now = Look(
        state(
            resident("a:1", num_generated_tokens=180, num_leases=2, num_requests=7),
            resident("b:1", num_generated_tokens=10),
            resident("c:1", num_generated_tokens=10),
            num_waiting=3,
        ),
        12.0,
    )
    seen = overview(now, before)
    assert [row.tokens_per_s for row in seen.rows] == [40.0, 0.0, None]
    assert (seen.tokens_per_s, seen.num_running, seen.num_waiting, seen.num_requests) == (40.0, 2, 3, 7)
    assert seen.used_bytes == 10 * GIB and seen.used_share == 10 / 16
    assert overview(now, None).tokens_per_s is None


def test_nothing_counted_of_an_answer_under_way_is_not_nought() -> None:
    before, now = (Look(state(resident("a:1", num_leases=1)), at) for at in (0.0, 1.0))
    assert overview(now, before).rows[0].tokens_per_s is None


@pytest.mark.parametrize(
    ("sort", "names"),
    [("name", ["a", "b", "c"]), ("memory", ["b", "a", "c"]), ("requests", ["c", "a", "b"])],
)
def test_orders(sort: Any, names: list[str]) -> None:
    models = (resident("c", num_requests=9), resident("a"), resident("b", measured_bytes=2 * GIB))
    assert [row.resident.name for row in overview(Look(state(*models), 0.0), None, sort).rows] == names


def test_unknown_memory_is_not_drawn() -> None:
    seen = overview(Look(PoolState((), 0, None, None), 0.0), None)
    assert seen.used_share is None
    assert top_text.lines(seen, english) == ["0 running, 0 waiting, 0 served  ·  - tokens/s", "No model is loaded."]


def test_when_a_model_goes_is_told() -> None:
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def told(**changes: Any) -> str:
        (row,) = overview(Look(state(resident("a:1", **changes)), 0.0), None).rows
        return top_text.cells(row, english, now)[-1]

    assert told(expires_at=now + timedelta(seconds=125)) == "2:05"
    assert told(expires_at=now + timedelta(hours=3)) == "3 h"
    assert (told(), told(pinned=True), told(num_leases=1)) == ("stays", "pinned", "in use")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "[ready]"),
        ({"state": "stopping"}, "[stopping]"),
        ({"state": "failed", "num_crashes": 2}, "[[failed], 2 crashes]"),
        ({"state": "new\x1b[2J"}, None),
    ],
)
def test_states_are_told_in_the_persons_language(changes: dict[str, Any], told: str | None) -> None:
    def other(template: str, /, **values: object) -> str:
        return f"[{english(template, **values)}]"

    words = top_text.state_words(resident("a:1", **changes), other)
    # One that is not known is shown as it came, without what a terminal would obey.
    assert words == told if told is not None else words.startswith("new") and "\x1b" not in words


def test_without_a_server_or_a_terminal(program: Program, tmp_path: Path) -> None:
    assert "No server is running." in program("top").err
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        program.extra["ZHIBEI_PORT"] = str(server.port)
        ran = program("top")
        assert ran.code == 2 and "zhibei top --once" in ran.err


def test_once_and_json(program: Program, tmp_path: Path) -> None:
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        program.extra["ZHIBEI_PORT"] = str(server.port)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "one two"}]}
        assert httpx.post(server.url + "/v1/chat/completions", json=body).status_code == 200
        lines = program("top", "--once", "--every", "0.2").out.splitlines()
        assert lines[0].startswith("0 running, 0 waiting,") and "memory " in lines[0]
        assert lines[2].split()[:3] == ["NAME", "STATE", "MEMORY"] and lines[3].startswith(MODEL)
        found = json.loads(program("top", "--json", "--every", "0.2").out)
        assert [model["name"] for model in found["models"]] == [MODEL] and found["num_waiting"] == 0


class Watched:
    """As much of a service as the view asks for."""

    def __init__(self, *residents: Resident) -> None:
        self.residents: Sequence[Resident] = residents
        self.book = Logbook()
        self.stopped: list[str] = []
        self.problem: SourceError | None = None

    async def pool(self) -> PoolState:
        if self.problem is not None:
            raise self.problem
        return state(*self.residents, num_waiting=2)

    async def logs(self, name: str, *, num_lines: int = 100, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        async for line in self.book.follow(name, num_lines):
            yield line

    async def stop_model(self, name: str) -> None:
        self.stopped.append(name)
        if all(each.name != name for each in self.residents):
            raise ModelNotFound("gone")
        self.residents = [each for each in self.residents if each.name != name]


def shown(view: TopView) -> list[list[str]]:
    table = view.query_one(DataTable)
    return [[str(cell) for cell in table.get_row_at(number)] for number in range(table.row_count)]


async def until(pilot: Any, true: Any) -> None:
    async def look() -> None:
        while not true():
            await pilot.pause()

    await asyncio.wait_for(look(), 20)


async def test_the_live_view_shows_orders_follows_and_stops() -> None:
    server = Watched(resident("a:1", num_requests=1), resident("b:1", num_requests=5, num_crashes=2, measured_bytes=2 * GIB))
    server.book.write("a:1", "a line of [a]\n\x1b[31mred")
    server.book.write("b:1", "a line of b")
    view = TopView(server, english, 3600)  # type: ignore[arg-type]
    async with view.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: len(shown(view)) == 2)
        assert [row[0] for row in shown(view)] == ["a:1", "b:1"] and shown(view)[1][1] == "ready, 2 crashes"
        assert "2 waiting, 6 served" in str(view.query_one("#figures", Label).render())
        log = view.query_one(RichLog)
        await until(pilot, lambda: len(log.lines) == 2)
        assert log.lines[0].text.endswith("a line of [a]") and "\x1b" not in log.lines[1].text
        await pilot.press("o")
        await until(pilot, lambda: [row[0] for row in shown(view)] == ["b:1", "a:1"])
        assert view.chosen == "a:1"
        await pilot.press("up")
        await until(pilot, lambda: [line.text[10:] for line in log.lines] == ["a line of b"])
        server.book.write("b:1", "one more")
        await until(pilot, lambda: len(log.lines) == 2)
        await pilot.press("s")
        await until(pilot, lambda: [row[0] for row in shown(view)] == ["a:1"])
        assert server.stopped == ["b:1"]
        await pilot.press("q")
    assert view.return_code == 0


async def test_a_server_that_goes_and_comes_back_is_told() -> None:
    server = Watched(resident("a:1"))
    view = TopView(server, Translator("zh").text, 3600)  # type: ignore[arg-type]
    async with view.run_test() as pilot:
        await until(pilot, lambda: len(shown(view)) == 1)
        problem = view.query_one("#problem", Label)
        server.problem = SourceError("No Zhibei server answers at {url}.", url="http://h:1")
        await view.look()
        assert problem.display and "http://h:1 上没有指北服务器应答。" in str(problem.render())
        server.problem = None
        await view.look()
        assert not problem.display
