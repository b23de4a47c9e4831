"""The end of a server's life: no new requests, time for those under way, then a marked end. Owns which requests run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zhibei.errors import Busy, ZhibeiError

RETRY_AFTER_S = 30
Cut = Callable[[ZhibeiError], None]
"""Ends a request; its client is told the error."""


class Drain:
    """Counts requests, turns new ones away once it has begun, and can cut those that are still running."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._num_requests = 0
        self._idle = asyncio.Event()
        self._cuts: dict[Cut, str] = {}
        self._is_cut = False

    @property
    def num_requests(self) -> int:
        """Requests under way."""
        return self._num_requests

    def begin(self) -> None:
        """Take no new requests."""
        self._begun.set()
        if self._num_requests == 0:
            self._idle.set()

    async def begun(self) -> None:
        """Wait until it has begun."""
        await self._begun.wait()

    def check(self) -> None:
        """Return if new requests are taken.

        Raises:
            Busy: the server is stopping.
        """
        if self._begun.is_set():
            raise stopping()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request while it lasts."""
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1
            if self._begun.is_set() and self._num_requests == 0:
                self._idle.set()

    @contextmanager
    def cutting(self, cut: Cut, owner: str = "") -> Iterator[None]:
        """Have ``cut`` called if time runs out, or its owner may no longer ask, while the block lasts."""
        self._cuts[cut] = owner
        try:
            if self._is_cut:
                cut(stopping())
            yield
        finally:
            self._cuts.pop(cut, None)

    def owners(self) -> frozenset[str]:
        """Whose requests could be cut."""
        return frozenset(self._cuts.values())

    def cut_owner(self, owner: str, error: ZhibeiError) -> None:
        """End what runs for one owner."""
        for cut in [cut for cut, whose in self._cuts.items() if whose == owner]:
            cut(error)

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no request is under way; False if that takes longer than ``timeout_s``."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True

    def cut(self) -> None:
        """End what still runs."""
        self._is_cut = True
        for cut in tuple(self._cuts):
            cut(stopping())


def stopping() -> Busy:
    """What a client is told by a server that stops."""
    return Busy("The server is stopping.", hint="Try again when it is back.", retry_after_s=RETRY_AFTER_S)
