"""Reads a stream a little ahead of its consumer, so that what came before a failure is consumed before the failure shows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

NUM_AHEAD = 16


async def read_ahead(pieces: AsyncGenerator[bytes, None], num_ahead: int = NUM_AHEAD) -> AsyncGenerator[bytes, None]:
    """The same pieces, at most ``num_ahead`` of them in memory; closing closes ``pieces``, and waits for that."""
    waiting: deque[bytes] = deque()
    has_news, has_room = asyncio.Event(), asyncio.Event()

    async def fill() -> None:
        async with aclosing(pieces):
            async for piece in pieces:
                waiting.append(piece)
                has_news.set()
                while len(waiting) >= num_ahead:
                    has_room.clear()
                    await has_room.wait()

    task = asyncio.create_task(fill())
    task.add_done_callback(lambda _: has_news.set())
    try:
        while True:
            while waiting:
                has_room.set()
                yield waiting.popleft()
            if task.done():
                await task
                return
            has_news.clear()
            await has_news.wait()
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()
