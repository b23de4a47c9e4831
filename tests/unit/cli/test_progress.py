"""Progress in a log: when a line comes, and what it says."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import pytest

from zhibei.cli.invocation import Invocation
from zhibei.cli.printer import Printer
from zhibei.cli.progress import LineView, follow_pull, open_view
from zhibei.errors import SourceError
from zhibei.events import Inspected, Notice, Progress, PullEvent
from zhibei.i18n import Translator
from zhibei.settings import resolve


@pytest.fixture
def err() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def invocation(err: io.StringIO) -> Invocation:
    return Invocation(Printer(out=io.StringIO(), err=err), Translator("en"), resolve(environ={}), {})


def test_a_line_at_the_beginning_every_few_seconds_and_at_the_end(invocation: Invocation, err: io.StringIO) -> None:
    now = 0.0
    view = LineView(invocation, clock=lambda: now)
    for second, done in ((0, 1024), (1, 2048), (4, 3072), (6, 4096), (8, 9216), (9, 10240)):
        now = float(second)
        view.show(Progress("model.gguf", done, 10240))
    assert err.getvalue().splitlines() == [
        "model.gguf: 10% (1.0 KiB / 10.0 KiB)",
        "model.gguf: 40% (4.0 KiB / 10.0 KiB), 512 B/s, 12s left",
        "model.gguf: 100% (10.0 KiB / 10.0 KiB), 1.0 KiB/s",
    ]


def test_what_is_not_known_is_not_said(invocation: Invocation, err: io.StringIO) -> None:
    now = 0.0
    view = LineView(invocation, clock=lambda: now)
    view.show(Progress("a\x1b[2Jb", 2048, None))
    now = 5.0
    view.show(Progress("files", 1, 3, unit="files"))
    assert err.getvalue() == "a[2Jb: 2.0 KiB\nfiles: 1/3\n"


def test_of_several_files_the_whole_is_told_too(invocation: Invocation, err: io.StringIO) -> None:
    now = 0.0
    view = LineView(invocation, clock=lambda: now)
    view.take(Inspected("two:latest", None, 4096))
    view.show(Progress("there-before", 1024, 1024))
    view.show(Progress("first", 0, 1024))
    now = 1.0
    view.show(Progress("first", 1024, 1024))
    view.show(Progress("first", 1024, 1024))
    view.show(Progress("second", 1024, 2048))
    now = 6.0
    view.show(Progress("second", 1524, 2048))
    assert err.getvalue().splitlines() == [
        "two:latest: 4.0 KiB",
        "first: 0% (0 B / 1.0 KiB); in all: 25% (1.0 KiB / 4.0 KiB)",
        "first: 100% (1.0 KiB / 1.0 KiB), 1.0 KiB/s; in all: 50% (2.0 KiB / 4.0 KiB), 1.0 KiB/s, 2.0s left",
        "second: 74% (1.5 KiB / 2.0 KiB), 100 B/s, 5.2s left; in all: 87% (3.5 KiB / 4.0 KiB), 254 B/s, 2.1s left",
    ]


def test_no_progress_for_who_wants_quiet(err: io.StringIO) -> None:
    quiet = Invocation(Printer(quiet=True, out=io.StringIO(), err=err), Translator("en"), resolve(environ={}), {})
    with open_view(quiet) as view:
        view.take(Inspected("one:latest", None, 10))
        view.take(Progress("one.gguf", 1, 10))
        view.take(Notice("Careful."))
    assert err.getvalue() == ""


async def test_a_pull_that_ends_without_a_model_is_an_error(invocation: Invocation, err: io.StringIO) -> None:
    async def events() -> AsyncIterator[PullEvent]:
        yield Notice("Careful with {what}.", (("what", "this"),))

    with pytest.raises(SourceError):
        await follow_pull(invocation, events(), "Beginning.")
    assert err.getvalue() == "Beginning.\nnotice: Careful with this.\n"
