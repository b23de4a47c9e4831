"""Work to HTTP: events as a stream of bytes, or a result as one body. Owns what happens when either side goes away.

A response begins with the first event, so that a failure before it has a status of its own. Where the first event takes
long (a model is loading, a prompt is long), a stream begins after ``QUIET_S`` with comments, and a failure that comes
later is an event. The client's leaving ends the work in whatever state it is: queued, loading, prefill or decoding.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

from starlette.responses import Response

from zhibei import errors as e
from zhibei.server.ask import ASK_KEY, Ask
from zhibei.server.errors import log, unexpected
from zhibei.server.guard import Message, Receive, Scope, Send

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)
Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]

QUIET_S = 15.0
STALL_S = 60.0


class Encoder(Protocol[E_contra]):
    """How a dialect writes its events."""

    @property
    def media_type(self) -> bytes:
        """The stream's content type."""
        ...

    def event(self, event: E_contra) -> bytes:
        """One event."""
        ...

    def failure(self, error: bytes) -> bytes:
        """An error envelope, as the last thing of a stream that did not succeed."""
        ...

    def end(self) -> bytes:
        """The mark of success."""
        ...

    def idle(self) -> bytes:
        """Something that means nothing, so that the connection is not taken for dead; empty if there is no such thing."""
        ...


class _Raw(Response):
    """A response that sends itself; Starlette's own would measure a body that is not there yet."""

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(headers)


class EventStream(_Raw, Generic[E]):
    """Events as they come."""

    def __init__(self, events: AsyncGenerator[E, None], encoder: Encoder[E], headers: Headers | None = None) -> None:
        """``headers`` as a function is asked when the response begins: at the first event, or at the first sign of life."""
        super().__init__(None if callable(headers) else headers)
        self._late_headers = headers if callable(headers) else None
        self._events = events
        self._encoder = encoder
        self._started = False
        self._sending = False
        self._num_sent = 0
        self._beat: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the events end, the client leaves or time runs out."""
        ask: Ask = scope[ASK_KEY]
        worker = _Worker(ask)
        beat = asyncio.get_running_loop().call_later(QUIET_S, self._start_beat, send)
        stalls = _Stalls(self, worker)
        try:
            await worker.run(self._pump(send), receive)
        except Exception as error:  # the request edge, once a response is under way
            await self._stop_beat()
            if not self._started:
                raise
            named = error if isinstance(error, e.ZhibeiError) else unexpected(error, ask.id)
            await _send(send, self._encoder.failure(ask.say(named).body), more=False)
        finally:
            beat.cancel()
            stalls.stop()
            await self._stop_beat()

    async def _pump(self, send: Send) -> None:
        """Send each event as it comes; then the mark of success."""
        encode = self._encoder.event
        async with aclosing(self._events) as events:
            async for event in events:
                if not self._num_sent:
                    await self._begin(send)
                self._sending = True
                await send({"type": "http.response.body", "body": encode(event), "more_body": True})
                self._sending = False
                self._num_sent += 1
        if not self._num_sent:
            await self._begin(send)
        await _send(send, self._encoder.end(), more=False)

    async def _begin(self, send: Send) -> None:
        """Make sure the response has begun, and that nothing but events is sent from now on."""
        await self._stop_beat()
        if not self._started:
            await self._start(send)

    async def _start(self, send: Send) -> None:
        self._started = True
        if self._late_headers is not None:
            self.init_headers(self._late_headers())
        headers = [*self.raw_headers, (b"content-type", self._encoder.media_type), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    def _start_beat(self, send: Send) -> None:
        if self._encoder.idle():
            self._beat = asyncio.get_running_loop().create_task(self._keep_alive(send))

    async def _keep_alive(self, send: Send) -> None:
        await self._start(send)
        while True:
            await _send(send, self._encoder.idle(), more=True)
            await asyncio.sleep(QUIET_S)

    async def _stop_beat(self) -> None:
        beat, self._beat = self._beat, None
        if beat is not None:
            beat.cancel()
            await asyncio.wait((beat,))

    @property
    def progress(self) -> tuple[bool, int]:
        """Whether it waits for the client to read, and how much it has sent."""
        return self._sending, self._num_sent


class WholeAnswer(_Raw):
    """One body, made by work that stops if the client leaves."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, bytes]], headers: Headers | None = None) -> None:
        """``headers`` as a function is asked when the work is done."""
        super().__init__(None if callable(headers) else headers)
        self._late_headers = headers if callable(headers) else None
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the work, then send its result; failures are the guard's to answer."""
        worker = _Worker(scope[ASK_KEY])
        body = b""

        async def work() -> None:
            nonlocal body
            body = await self._work()

        if await worker.run(work(), receive) == "gone":
            return
        if self._late_headers is not None:
            self.init_headers(self._late_headers())
        headers = [*self.raw_headers, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Worker:
    """Runs work for a request, and ends it early if there is no more use for it."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._task: asyncio.Task[None] | None = None
        self._why = "done"
        self._cut: e.ZhibeiError | None = None

    async def run(self, work: Coroutine[Any, Any, None], receive: Receive) -> str:
        """``done`` or ``gone`` (nobody listens). Raises what the work raises, or why it was cut."""
        loop = asyncio.get_running_loop()
        task = self._task = loop.create_task(work)
        listener = loop.create_task(_disconnected(receive))
        listener.add_done_callback(lambda done: None if done.cancelled() else self.end("gone"))
        try:
            with self._ask.drain.cutting(self.cut, self._ask.caller.id):
                await asyncio.wait((task,))
        finally:
            listener.cancel()
            task.cancel()
            await asyncio.wait((task, listener))
        if task.cancelled():
            if self._why == "cut" and self._cut is not None:
                raise self._cut
            return self._why
        error = task.exception()
        if error is not None:
            raise error
        return "done"

    def cut(self, error: e.ZhibeiError) -> None:
        """Stop the work; the client is told the error."""
        self._cut = self._cut or error
        self.end("cut")

    def end(self, why: str) -> None:
        """Stop the work; the first reason counts."""
        if self._task is not None and not self._task.done():
            self._why = why if self._why == "done" else self._why
            self._task.cancel()


class _Stalls:
    """Looks now and then whether a stream waits for a client that no longer reads."""

    def __init__(self, stream: EventStream[Any], worker: _Worker) -> None:
        self._stream = stream
        self._worker = worker
        self._seen: tuple[bool, int] | None = None
        self._timer = asyncio.get_running_loop().call_later(STALL_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._stream.progress
        if now[0] and now == self._seen:
            log.info("a client stopped reading its stream; it was cut")
            self._worker.end("gone")
            return
        self._seen = now
        self._timer = asyncio.get_running_loop().call_later(STALL_S, self._look)


async def _disconnected(receive: Receive) -> None:
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return


async def _send(send: Send, data: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})
