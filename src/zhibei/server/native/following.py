"""Streams that have no end of their own: events of the server, and lines of logs. They end when the server stops."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

from zhibei.server.ask import Ask
from zhibei.server.metrics import is_stopping

T = TypeVar("T")
Line = dict[str, Any]

LOOK_S = 0.5
_MAX_BEHIND = 1000


class Feed:
    """Tells followers what happens from now on. Who reads too slowly misses the oldest, and is told how many."""

    def __init__(self) -> None:
        self._followers: dict[int, _Follower] = {}
        self._num = 0

    def tell(self, line: Line) -> None:
        """A line for all followers."""
        for follower in self._followers.values():
            follower.push(line)

    async def follow(self) -> AsyncGenerator[Line, None]:
        """Each line that is told from now on."""
        self._num += 1
        number, follower = self._num, _Follower()
        self._followers[number] = follower
        try:
            while True:
                await follower.ready.wait()
                yield follower.pop()
        finally:
            del self._followers[number]


class _Follower:
    def __init__(self) -> None:
        self.lines: deque[Line] = deque()
        self.num_missed = 0
        self.ready = asyncio.Event()

    def push(self, line: Line) -> None:
        if len(self.lines) >= _MAX_BEHIND:
            self.lines.popleft()
            self.num_missed += 1
        self.lines.append(line)
        self.ready.set()

    def pop(self) -> Line:
        if self.num_missed:
            missed, self.num_missed = self.num_missed, 0
            return {"event": "missed", "count": missed}
        line = self.lines.popleft()
        if not self.lines:
            self.ready.clear()
        return line


async def until_stopping(ask: Ask, events: AsyncGenerator[T, None]) -> AsyncGenerator[T | None, None]:
    """None, so that a response begins at once; then the events until the server stops, so that nobody is waited for."""
    async with aclosing(events):
        yield None
        pending: asyncio.Task[T] | None = None
        try:
            while True:
                pending = asyncio.ensure_future(_next(events))
                while not (await asyncio.wait((pending,), timeout=LOOK_S))[0]:
                    if is_stopping(ask.drain):
                        return
                try:
                    event = pending.result()
                except StopAsyncIteration:
                    return
                yield event
        finally:
            if pending is not None:
                pending.cancel()
                await asyncio.wait((pending,))


async def _next(events: AsyncGenerator[T, None]) -> T:
    return await events.__anext__()
