"""Runs an iterator of events in a task of its own, and hands its events over one at a time.

A person's loop may end by an exception or simply stop, without closing the iterator. Nested async generators that are dropped
so are closed in any order; a task is cancelled, and cleans up from the inside out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

_T = TypeVar("_T")
_PATIENCE_S = 5.0


async def hand_over(events: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
    """The same events. Work stands still until the next one is asked for; closing ends it, and waits for its end."""
    queue: asyncio.Queue[_T] = asyncio.Queue()

    async def work() -> None:
        async with aclosing(events):
            async for event in events:
                queue.put_nowait(event)
                await queue.join()

    task = asyncio.create_task(work())
    try:
        while True:
            asked = asyncio.ensure_future(queue.get())
            try:
                await asyncio.wait((asked, task), return_when=asyncio.FIRST_COMPLETED)
            finally:
                is_there = asked.done()
                asked.cancel()
            if not is_there:
                await task
                return
            yield asked.result()
            queue.task_done()
    finally:
        while not task.done():
            task.cancel()
            # Again after a while: asyncio.wait_for of Python 3.11 and older can swallow a cancellation.
            await asyncio.wait((task,), timeout=_PATIENCE_S)
        if not task.cancelled():
            task.exception()
