"""Generations by caller and key: who sees what, how they end, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from zhibei.chat import TokenLogprob
from zhibei.errors import Busy, EngineDied
from zhibei.events import Finished, GenerationEvent, TextDelta, Usage
from zhibei.server.kobold import runs as module
from zhibei.server.kobold.runs import Aborted, Runs

END = Finished(("stop",), Usage(1, 1))


class Source:
    """Events that wait for their turn, and a note of how it ended."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.is_closed = False

    async def events(self) -> AsyncGenerator[GenerationEvent, None]:
        try:
            yield TextDelta("one", 0, (TokenLogprob("one", -1.0),))
            await self.go.wait()
            yield TextDelta("two")
            yield END
        finally:
            self.is_closed = True


async def test_a_run_is_found_while_it_lasts_and_by_its_caller_alone() -> None:
    runs, source = Runs(), Source()
    run = runs.begin("ann", "K")
    assert runs.find("ann", "K") is None
    events = runs.follow(run, source.events())
    assert isinstance(await anext(events), TextDelta)
    assert runs.find("ann", "K") is run and run.text == "one"
    assert runs.find("ann", None) is run
    assert runs.find("bob", "K") is None and runs.find("bob", None) is None
    assert runs.find("ann", "L") is None
    source.go.set()
    assert [event async for event in events] == [TextDelta("two"), END]
    assert runs.find("ann", "K") is None
    assert source.is_closed
    last = runs.last("ann")
    assert (last.num_runs, last.end, last.genkey, len(last.logprobs)) == (1, END, "K", 1)
    assert runs.last("bob").num_runs == 0


async def test_without_a_key_the_keyless_one_is_meant_or_the_only_one() -> None:
    runs, sources = Runs(), [Source() for _ in range(4)]
    made = []
    for source, genkey in zip(sources, ("K", None, "K", None), strict=True):
        run = runs.begin("ann", genkey)
        events = runs.follow(run, source.events())
        await anext(events)
        made.append((run, events))
    assert runs.find("ann", None) is None
    assert runs.find("ann", "K") is made[2][0]
    await made[3][1].aclose()
    assert runs.find("ann", None) is made[1][0]
    await made[1][1].aclose()
    assert runs.find("ann", None) is None
    await made[2][1].aclose()
    assert runs.find("ann", None) is made[0][0]
    await made[0][1].aclose()
    assert runs.find("ann", None) is None
    assert all(source.is_closed for source in sources)


async def test_an_abort_is_an_end_and_closes_the_work() -> None:
    runs, source = Runs(), Source()
    run = runs.begin("", None)
    events = runs.follow(run, source.events())
    await anext(events)
    run.abort()
    assert [event async for event in events] == [Aborted()]
    assert source.is_closed and run.text == "one"


async def test_a_failure_comes_through_and_leaves_nothing() -> None:
    async def failing() -> AsyncGenerator[GenerationEvent, None]:
        yield TextDelta("one")
        raise EngineDied("It died.")

    runs = Runs()
    run = runs.begin("", "K")
    with pytest.raises(EngineDied):
        async for _ in runs.follow(run, failing()):
            assert runs.find("", "K") is run
    assert runs.find("", "K") is None


async def test_a_consumer_that_is_cancelled_closes_the_work() -> None:
    runs, source = Runs(), Source()
    seen = asyncio.Event()

    async def consume() -> None:
        async for _ in runs.follow(runs.begin("", "K"), source.events()):
            seen.set()

    task = asyncio.create_task(consume())
    await seen.wait()
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled() and source.is_closed and runs.find("", "K") is None


async def test_there_is_an_end_to_how_many_run_and_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RUNS", 1)
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    runs, source = Runs(), Source()
    events = runs.follow(runs.begin("a", None), source.events())
    await anext(events)
    with pytest.raises(Busy):
        runs.begin("b", None)
    await events.aclose()
    for caller in "bcd":
        source = Source()
        source.go.set()
        assert [event async for event in runs.follow(runs.begin(caller, None), source.events())][-1] == END
    assert [runs.last(caller).num_runs for caller in "abcd"] == [0, 0, 1, 1]
