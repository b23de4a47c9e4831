"""How pulls fetch: timers, retries, limits, hubs. Values only, quick to import."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zhibei.settings import outgoing_proxy
from zhibei.store.sources.base import HUBS, Chooser, Hub, prefer_four_bits

MAX_CONNECTIONS = 128
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Timers:
    """How long to wait. A body is stalled when fewer than ``stall_bytes`` came in ``stall_s``; a slow one is not."""

    connect_s: float = 20.0
    header_s: float = 60.0
    stall_s: float = 30.0
    stall_bytes: int = 1024


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a passing failure is tried again: ``attempts`` in a row, with growing, random pauses."""

    attempts: int = 6
    connect_attempts: int = 2
    first_s: float = 0.5
    longest_s: float = 15.0

    def pause_s(self, num_failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.longest_s, self.first_s * 2.0 ** (num_failures - 1)) * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """What a Fetcher is given: timers, retries, the proxy for a URL, a name service other than the system's.

    ``connections`` is the most that one file is fetched over at once, ``max_bytes_per_s`` the most that a pull takes of the
    line (None: all), ``ca_file`` certificates to trust beside the system's. ``is_offline``: every request is refused.
    """

    timers: Timers = Timers()
    retries: Retries = Retries()
    proxy_for: Callable[[str], str | None] = outgoing_proxy
    lookup: Lookup | None = None
    connections: int = MAX_CONNECTIONS
    max_bytes_per_s: int | None = None
    ca_file: Path | None = None
    is_offline: bool = False


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How pulls fetch, and what a test replaces. ``poll_s``: how often a pull that waits for another one looks.

    ``pip_environment`` None: the process's own.
    """

    fetch: FetchOptions = FetchOptions()
    pip_environment: Mapping[str, str] | None = field(default=None, repr=False)
    poll_s: float = 0.2
    hubs: Mapping[str, Hub] = field(default_factory=lambda: HUBS)
    choose: Chooser = prefer_four_bits
