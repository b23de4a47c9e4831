"""Work to HTTP, in every state a request can be in when one side goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import orjson
import pytest

from support.asgi import Client, http_scope
from zhibei.errors import Busy, EngineDied
from zhibei.server import streams
from zhibei.server.auth import Keeper
from zhibei.server.drain import Drain
from zhibei.server.guard import AsgiApp, Guard
from zhibei.server.streams import EventStream, WholeAnswer
from zhibei.settings import ServerSettings


class Words:
    """An encoder of text."""

    media_type = b"text/plain"

    def event(self, event: str) -> bytes:
        return event.encode()

    def failure(self, error: bytes) -> bytes:
        return b"<" + orjson.loads(error)["error"]["code"].encode() + b">"

    def end(self) -> bytes:
        return b"."

    def idle(self) -> bytes:
        return b"~"


class Source:
    """Events that wait where they are told to; notes how it ended."""

    def __init__(self, *steps: str | asyncio.Event | BaseException) -> None:
        self.steps = steps
        self.waiting = asyncio.Event()
        self.ended = ""

    async def events(self) -> AsyncGenerator[str, None]:
        try:
            for step in self.steps:
                if isinstance(step, str):
                    yield step
                elif isinstance(step, asyncio.Event):
                    self.waiting.set()
                    await step.wait()
                else:
                    raise step
            self.ended = "done"
        except (asyncio.CancelledError, GeneratorExit):
            self.ended = "closed"
            raise


def stream(source: Source) -> AsgiApp:
    return EventStream(source.events(), Words(), {"x-own": "1"})


def whole(source: Source) -> AsgiApp:
    async def work() -> bytes:
        return "".join([event async for event in source.events()]).encode()

    return WholeAnswer(work)


class Exchange:
    """A request to ``response`` behind a guard, under way."""

    def __init__(self, response: AsgiApp) -> None:
        self.client = Client([b""])
        self.drain = Drain()
        guard = Guard(response, ServerSettings(), keeper=Keeper(None), drain=self.drain)
        scope = http_scope("POST", "/v1/chat/completions", {"host": "localhost"})
        self.task = asyncio.ensure_future(guard(scope, self.client.receive, self.client.send))

    async def until(self, true: Callable[[], bool]) -> None:
        async def look() -> None:
            while not true():
                await asyncio.sleep(0.001)

        await asyncio.wait_for(look(), 5)

    async def finish(self) -> Any:
        await asyncio.wait_for(self.task, 5)
        return self.client.reply


async def test_a_stream_that_succeeds() -> None:
    reply = await Exchange(stream(Source("a", "b", "c"))).finish()
    assert (reply.status, reply.body, reply.complete) == (200, b"abc.", True)
    assert (reply.headers["content-type"], reply.headers["x-own"]) == ("text/plain", "1")
    assert "content-length" not in reply.headers


async def test_each_event_is_sent_when_it_comes() -> None:
    gate = asyncio.Event()
    exchange = Exchange(stream(Source("a", "b", gate, "c", "d")))
    await exchange.until(lambda: exchange.client.reply.body == b"ab")
    gate.set()
    reply = await exchange.finish()
    assert reply.pieces == [b"a", b"b", b"c", b"d", b"."]


async def test_a_stream_without_events_is_empty() -> None:
    reply = await Exchange(stream(Source())).finish()
    assert (reply.status, reply.body) == (200, b".")


@pytest.mark.parametrize("make", [stream, whole])
async def test_a_failure_before_the_first_event_has_a_status(make: Callable[[Source], AsgiApp]) -> None:
    reply = await Exchange(make(Source(Busy("Full.", retry_after_s=4)))).finish()
    assert (reply.status, reply.headers["retry-after"], reply.code) == (503, "4", "busy")
    reply = await Exchange(make(Source(RuntimeError("secret")))).finish()
    assert (reply.status, reply.code, b"secret" in reply.body) == (500, "internal_error", False)


async def test_a_failure_under_way_is_an_event_and_not_the_mark_of_success() -> None:
    for error, code in ((EngineDied("It died."), b"<engine_died>"), (RuntimeError("secret"), b"<internal_error>")):
        reply = await Exchange(stream(Source("a", "b", error))).finish()
        assert (reply.status, reply.body, reply.complete) == (200, b"ab" + code, True)


async def test_a_failure_in_the_middle_of_a_whole_answer_has_a_status() -> None:
    reply = await Exchange(whole(Source("a", EngineDied("It died.")))).finish()
    assert (reply.status, reply.code) == (502, "engine_died")


@pytest.mark.parametrize("make", [stream, whole])
@pytest.mark.parametrize("before", [(), ("a", "b")])
async def test_work_stops_when_the_client_leaves(make: Callable[[Source], AsgiApp], before: tuple[str, ...]) -> None:
    source = Source(*before, asyncio.Event())
    exchange = Exchange(make(source))
    await source.waiting.wait()
    exchange.client.leave()
    reply = await exchange.finish()
    assert source.ended == "closed"
    assert not reply.complete and b"." not in reply.body


async def test_work_stops_when_the_client_leaves_while_it_is_being_written_to() -> None:
    source = Source(*["x"] * 1000)
    exchange = Exchange(stream(source))
    exchange.client.reading.clear()
    exchange.client.leave()
    await exchange.finish()
    assert source.ended == "closed"


@pytest.mark.parametrize("make", [stream, whole])
async def test_work_stops_when_the_request_is_cancelled(make: Callable[[Source], AsgiApp]) -> None:
    source = Source("a", asyncio.Event())
    exchange = Exchange(make(source))
    await source.waiting.wait()
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    assert source.ended == "closed"


async def test_a_long_wait_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "QUIET_S", 0.01)
    gate = asyncio.Event()
    exchange = Exchange(stream(Source(gate, "a")))
    await exchange.until(lambda: exchange.client.reply.body == b"~~~")
    gate.set()
    reply = await exchange.finish()
    assert reply.body.strip(b"~") == b"a."


async def test_a_failure_after_a_long_wait_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "QUIET_S", 0.01)
    gate = asyncio.Event()
    exchange = Exchange(stream(Source(gate, EngineDied("It died."))))
    await exchange.until(lambda: b"~" in exchange.client.reply.body)
    gate.set()
    reply = await exchange.finish()
    assert (reply.status, reply.body.strip(b"~"), reply.complete) == (200, b"<engine_died>", True)


async def test_a_client_that_stops_reading_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STALL_S", 0.02)
    gate = asyncio.Event()
    source = Source("a", gate, "b", "c", asyncio.Event())
    exchange = Exchange(stream(source))
    await exchange.until(lambda: exchange.client.reply.body == b"a")
    exchange.client.reading.clear()
    gate.set()
    await exchange.until(lambda: source.ended == "closed")
    exchange.client.reading.set()
    await exchange.finish()


async def test_a_slow_engine_is_not_a_client_that_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STALL_S", 0.001)
    looks: list[object] = []
    look = streams._Stalls._look
    monkeypatch.setattr(streams._Stalls, "_look", lambda stalls: (looks.append(None), look(stalls)))
    gate = asyncio.Event()
    exchange = Exchange(stream(Source("a", gate, "b")))
    await exchange.until(lambda: len(looks) > 5)
    gate.set()
    assert (await exchange.finish()).body == b"ab."


async def test_a_server_that_stops_ends_streams_with_an_error() -> None:
    source = Source("a", asyncio.Event())
    exchange = Exchange(stream(source))
    await source.waiting.wait()
    await exchange.until(lambda: exchange.client.reply.body == b"a")
    exchange.drain.cut()
    reply = await exchange.finish()
    assert (reply.body, reply.complete, source.ended) == (b"a<busy>", True, "closed")


async def test_a_server_that_stops_refuses_what_has_not_begun() -> None:
    for make in (stream, whole):
        source = Source(asyncio.Event())
        exchange = Exchange(make(source))
        await source.waiting.wait()
        exchange.drain.cut()
        reply = await exchange.finish()
        assert (reply.status, source.ended) == (503, "closed") and "retry-after" in reply.headers


async def test_drain_waits_for_what_runs_and_only_so_long() -> None:
    gate = asyncio.Event()
    exchange = Exchange(stream(Source("a", gate)))
    await exchange.until(lambda: exchange.client.reply.body == b"a")
    exchange.drain.begin()
    assert await exchange.drain.wait_idle(0.01) is False
    gate.set()
    assert await exchange.drain.wait_idle(5) is True
    assert (await exchange.finish()).body == b"a."
