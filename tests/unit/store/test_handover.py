"""Events handed over by a task of its own: the same ones, in step, and cleaned up however the loop over them ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from support.models import model_bytes
from zhibei.store.handover import hand_over
from zhibei.store.library import Library


class Source:
    """Counts what was made, and notes that it was closed."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.num_made = 0
        self.is_closed = False
        self._fails_at = fails_at

    async def events(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(5):
                if number == self._fails_at:
                    raise KeyError(number)
                self.num_made += 1
                yield number
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            self.is_closed = True


async def test_all_events_come_in_order() -> None:
    source = Source()
    assert [event async for event in hand_over(source.events())] == list(range(5))
    assert source.is_closed


async def test_work_stands_still_until_the_next_event_is_asked_for() -> None:
    source = Source()
    async with aclosing(hand_over(source.events())) as events:
        async for event in events:
            for _ in range(20):
                await asyncio.sleep(0)
            assert source.num_made == event + 1


async def test_a_failure_comes_through_after_the_events_before_it() -> None:
    source, seen = Source(fails_at=2), []
    with pytest.raises(KeyError):
        async for event in hand_over(source.events()):
            seen.append(event)
    assert seen == [0, 1] and source.is_closed


async def test_closing_early_waits_for_the_cleaning_up() -> None:
    source = Source()
    async with aclosing(hand_over(source.events())) as events:
        await anext(events)
    assert source.is_closed


async def test_cancelling_the_loop_cleans_up() -> None:
    source, started = Source(), asyncio.Event()

    async def follow() -> None:
        async for _ in hand_over(source.events()):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(follow())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not source.is_closed:
        await asyncio.sleep(0)


async def test_an_iterator_that_is_never_begun_or_closed_at_once_is_no_trouble() -> None:
    await hand_over(Source().events()).aclose()


def test_a_pull_that_is_dropped_by_an_exception_is_cleaned_up_without_noise(tmp_path: Path) -> None:
    (tmp_path / "M.gguf").write_bytes(model_bytes(5000))
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from zhibei.events import Progress; from zhibei.refs import ModelRef; from zhibei.store.library import Library\n"
        "async def main():\n"
        "    async for event in Library(Path(sys.argv[1])).pull(ModelRef.parse(sys.argv[2]), copy=True):\n"
        "        if isinstance(event, Progress) and event.done: raise ZeroDivisionError('mine')\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, str(tmp_path / "home"), str(tmp_path / "M.gguf")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONASYNCIODEBUG": "0"})
    assert result.stderr.strip().endswith("ZeroDivisionError: mine")
    assert "asyncgen" not in result.stderr and "never retrieved" not in result.stderr and "RuntimeError" not in result.stderr
    (part,) = Library(tmp_path / "home").leftovers()
    assert part.kind == "part" and part.size_bytes > 0
