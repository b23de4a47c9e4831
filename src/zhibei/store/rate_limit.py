"""A limit on how many bytes a second are taken from the line, shared by everything that downloads."""

from __future__ import annotations

import asyncio
import time

_BURST_S = 0.25
_LEAST_PER_CONNECTION = 1024 * 1024


class RateLimit:
    """``bytes_per_s`` None: no limit. Who takes too much waits until it is made good."""

    def __init__(self, bytes_per_s: int | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    def most_connections(self, wanted: int) -> int:
        """How many connections may fetch at once: each reads ahead, which would be a burst where little is allowed."""
        if self._bytes_per_s is None:
            return wanted
        return max(1, min(wanted, self._bytes_per_s // _LEAST_PER_CONNECTION))

    async def take(self, num_bytes: int) -> None:
        """Count bytes that have come, and wait if they came too soon."""
        if self._bytes_per_s is None:
            return
        now_s = time.monotonic()
        self._free_at_s = max(self._free_at_s, now_s - _BURST_S) + num_bytes / self._bytes_per_s
        if self._free_at_s > now_s:
            await asyncio.sleep(self._free_at_s - now_s)
