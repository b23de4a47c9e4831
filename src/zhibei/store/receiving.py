"""Takes the body of a response straight from its connection into blocks of memory, and gives the connection back.

An HTTP library hands a body over in small pieces and copies each of them more than once; at the speed of a fast line that costs
more than everything else. Once the headers are read and the length is known, the rest is nothing but bytes: they are read
into blocks here, and then the library has its connection again, for the next request.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncGenerator

import aiohttp

from zhibei.store.options import Timers

BLOCK_BYTES = 1024 * 1024
_NUM_AHEAD = 1
_HAND_OVER_S = 0.25


def receive(response: aiohttp.ClientResponse, timers: Timers) -> AsyncGenerator[memoryview, None] | None:
    """The body in blocks: full ones while they come fast, else what has come in a quarter of a second.

    None where that cannot be done. What came before a cut is handed over before the cut shows. To be closed, and before the
    response is.

    Raises:
        aiohttp.ClientError, OSError: the connection was cut.
        asyncio.TimeoutError: it stalled.
    """
    num_bytes = _length(response)
    if num_bytes is None or response.connection is None or response.connection.transport is None:
        return None
    return _blocks(response, num_bytes, timers)


async def _blocks(response: aiohttp.ClientResponse, num_bytes: int, timers: Timers) -> AsyncGenerator[memoryview, None]:
    receiver, first = _take_over(response, num_bytes)
    if first:
        yield memoryview(first)
    if receiver is None:
        return
    stall = _Stall(timers, receiver.num_missing)
    while True:
        while receiver.ready:
            yield receiver.next_block()
        if receiver.num_missing == 0 or receiver.is_lost:
            break
        if stall.is_reached():
            raise asyncio.TimeoutError
        since_s = time.monotonic()
        await receiver.wait(min(_HAND_OVER_S, timers.stall_s))
        stall.count(time.monotonic() - since_s, receiver.num_missing)
    receiver.give_back(response)
    if receiver.error is not None:
        raise receiver.error


def _take_over(response: aiohttp.ClientResponse, num_bytes: int) -> tuple[_Receiver | None, bytes]:
    """Put a receiver in the library's place. Nothing is awaited meanwhile, so that no byte goes to the wrong one."""
    first = bytearray()
    while piece := response.content.read_nowait():
        first += piece
    connection = response.connection
    if connection is None or connection.transport is None or connection.protocol is None or len(first) >= num_bytes:
        return None, bytes(first)
    # Pausing also stops the library's own timer for silence.
    connection.protocol.pause_reading()
    receiver = _Receiver(connection.protocol, connection.transport, num_bytes - len(first))
    connection.transport.set_protocol(receiver)
    connection.transport.resume_reading()
    return receiver, bytes(first)


class _Receiver(asyncio.BufferedProtocol):
    """Fills blocks from a transport, and stops reading when enough of them wait."""

    def __init__(self, library: asyncio.Protocol, transport: asyncio.Transport, num_bytes: int) -> None:
        self.num_missing = num_bytes
        self.is_lost = False
        self.error: BaseException | None = None
        self.ready: deque[memoryview] = deque()
        self._library = library
        self._transport = transport
        self._waiter: asyncio.Future[None] | None = None
        self._begin_block()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._block[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._end += nbytes
        self.num_missing -= nbytes
        if self._end < len(self._block):
            return
        self._hand_over()
        if len(self.ready) >= _NUM_AHEAD or not self.num_missing:
            self._transport.pause_reading()
        self._begin_block()

    def eof_received(self) -> bool:
        """Nothing more will come: the connection may close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; so it is for the library."""
        self.is_lost, self.error = True, exc
        self._hand_over()
        self._library.connection_lost(exc)

    def next_block(self) -> memoryview:
        """What has come first of all that waits."""
        block = self.ready.popleft()
        if self.num_missing and not self.is_lost and len(self.ready) < _NUM_AHEAD:
            self._transport.resume_reading()
        return block

    async def wait(self, timeout_s: float) -> None:
        """Return when a block is full or the connection is gone; after the time, with what has come by then."""
        self._waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._waiter,), timeout=timeout_s)
        self._waiter = None
        self._hand_over()

    def give_back(self, response: aiohttp.ClientResponse) -> None:
        """Let the library have its connection again, the body being read."""
        if self.is_lost or self._transport.is_closing():
            return
        self._transport.set_protocol(self._library)
        response.content.feed_eof()

    def _begin_block(self) -> None:
        # Never empty: a loop may ask for room before it notices that reading is paused.
        self._block = memoryview(bytearray(min(BLOCK_BYTES, self.num_missing) or 1))
        self._begin = self._end = 0

    def _hand_over(self) -> None:
        if self._end > self._begin:
            self.ready.append(self._block[self._begin : self._end])
            self._begin = self._end
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Stall:
    """Counts the time in which too little comes. Slow is no stall."""

    def __init__(self, timers: Timers, num_missing: int) -> None:
        self._timers = timers
        self._waited_s = 0.0
        self._num_missing = num_missing

    def count(self, waited_s: float, num_missing: int) -> None:
        """Waited so long, and so many bytes are missing now."""
        if self._num_missing - num_missing >= self._timers.stall_bytes:
            self._waited_s, self._num_missing = 0.0, num_missing
        else:
            self._waited_s += waited_s

    def is_reached(self) -> bool:
        """Whether it has been too long."""
        return self._waited_s > self._timers.stall_s


def _length(response: aiohttp.ClientResponse) -> int | None:
    """The bytes of a body that comes as it is; None: it is chunked, or of unknown length."""
    text = response.headers.get("Content-Length", "")
    if "Transfer-Encoding" in response.headers or not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return None
    return int(text)
