"""The lines of ``pull --json``: how often progress comes, and that its last state is never lost."""

from __future__ import annotations

import io
import json
from typing import Any

from zhibei.cli.invocation import Invocation
from zhibei.cli.json_lines import JsonView
from zhibei.cli.printer import Printer
from zhibei.events import Inspected, Notice, Progress
from zhibei.i18n import Translator
from zhibei.settings import resolve


class Screen:
    """A view whose clock stands where the test puts it, and what it printed."""

    def __init__(self, lang: str = "en") -> None:
        self.now_s = 0.0
        self._out = io.StringIO()
        invocation = Invocation(Printer(out=self._out, err=io.StringIO()), Translator(lang), resolve(environ={}), {})
        self.view = JsonView(invocation, "x:y", clock=lambda: self.now_s)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._out.getvalue().splitlines()]


def test_progress_comes_a_few_times_a_second() -> None:
    screen = Screen()
    with screen.view as view:
        view.take(Inspected("x:y", None, 1000))
        for step in range(1001):
            screen.now_s = step / 1000
            view.take(Progress("file", step, 1000))
    assert [line.get("done") for line in screen.lines] == [None, 0, 250, 500, 750, 1000]
    last = screen.lines[-1]
    assert last == {
        "event": "progress",
        "reference": "x:y",
        "file": "file",
        "unit": "bytes",
        "done": 1000,
        "total": 1000,
        "rate_bytes_per_s": 1000.0,
        "remaining_s": 0.0,
        "whole": {"done": 1000, "total": 1000, "rate_bytes_per_s": 1000.0, "remaining_s": 0.0},
    }


def test_what_was_kept_back_comes_before_anything_else_and_at_the_end() -> None:
    screen = Screen()
    with screen.view as view:
        view.take(Progress("file", 0, 10))
        view.take(Progress("file", 5, 10))
        view.take(Notice("{what} is odd.", (("what", "This"),)))
        view.take(Progress("file", 7, 10))
    assert [(line["event"], line.get("done", line.get("message"))) for line in screen.lines] == [
        ("progress", 0),
        ("progress", 5),
        ("notice", "This is odd."),
        ("progress", 7),
    ]
    assert screen.lines[0]["whole"] is None


def test_files_instead_of_bytes_and_names_with_anything_in_them() -> None:
    screen = Screen()
    screen.view.take(Progress("a\nb\x1b[2J模", 1, 3, unit="files"))
    (line,) = screen.lines
    assert (line["file"], line["unit"], line["done"], line["total"]) == ("a\nb\x1b[2J模", "files", 1, 3)
    assert line["rate_bytes_per_s"] is line["remaining_s"] is line["whole"] is None
