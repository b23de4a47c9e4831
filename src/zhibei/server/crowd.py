"""How many requests for models are under way. Turns away at the door those that the queue would refuse all the same.

A refusal that has to be read, understood and queued first costs several times as much, just when there is no time for it.
Those that may come in do so one after the other: a hundred at once would hold up every refusal behind them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zhibei.errors import Busy

# Who is told to come back does not know when a place is free, and nobody has looked at what it wanted.
_RETRY_S = 1


class Crowd:
    """Counts them, against what can be answered or wait at once."""

    def __init__(self, max_under_way: Callable[[], int]) -> None:
        self._max_under_way = max_under_way
        self._num_under_way = 0
        self._turnstile = asyncio.Lock()

    async def turn(self) -> None:
        """Come in alone; between any two, all connections are looked at."""
        async with self._turnstile:
            await asyncio.sleep(0)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request while it lasts.

        Raises:
            Busy: all places are taken, those in the queue too.
        """
        most = self._max_under_way()
        if self._num_under_way >= most:
            raise Busy(
                "Too many requests are under way ({most}).",
                hint="Try again in a moment, or raise server.max_queue.",
                retry_after_s=_RETRY_S,
                most=most,
            )
        self._num_under_way += 1
        try:
            yield
        finally:
            self._num_under_way -= 1
