"""Reading ahead: the same bytes, a bound on them, and a failure only after what came before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from zhibei.store.readahead import read_ahead


class Stream:
    def __init__(self, num_pieces: int, *, fails: bool = False) -> None:
        self.num_read = 0
        self.is_closed = False
        self._num_pieces = num_pieces
        self._fails = fails

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(self._num_pieces):
                self.num_read += 1
                yield bytes([number])
            if self._fails:
                raise KeyError("cut")
        finally:
            await asyncio.sleep(0)
            self.is_closed = True


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_the_same_pieces() -> None:
    stream = Stream(100)
    assert b"".join([piece async for piece in read_ahead(stream.pieces(), 4)]) == bytes(range(100))
    assert stream.is_closed


async def test_no_more_than_the_bound_is_in_memory() -> None:
    stream = Stream(100)
    async with aclosing(read_ahead(stream.pieces(), 4)) as pieces:
        for number in range(20):
            assert await anext(pieces) == bytes([number])
            await settle()
            assert stream.num_read == number + 1 + 4
    assert stream.is_closed


async def test_what_came_before_a_failure_is_not_lost() -> None:
    seen = bytearray()
    with pytest.raises(KeyError):
        async for piece in read_ahead(Stream(10, fails=True).pieces(), 16):
            seen += piece
            await settle()
    assert seen == bytes(range(10))


async def test_closing_before_the_end_or_the_beginning() -> None:
    stream = Stream(10)
    pieces = read_ahead(stream.pieces(), 2)
    await anext(pieces)
    await pieces.aclose()
    assert stream.is_closed and stream.num_read < 10
    await read_ahead(Stream(10).pieces()).aclose()


async def test_a_consumer_that_is_cancelled_while_it_waits() -> None:
    closed = asyncio.Event()

    async def silent() -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            closed.set()

    async def consume() -> None:
        async with aclosing(read_ahead(silent())) as pieces:
            async for _ in pieces:
                pass

    task = asyncio.create_task(consume())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
