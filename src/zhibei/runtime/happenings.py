"""What happens in the pool, told to those who watch it: metrics, live views, event streams. Values, and who is told.

Nobody who is told can disturb the pool: callbacks run after it, each on its own, on the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from zhibei.runtime.scheduler import RefuseReason

UnloadReason = Literal["idle", "evicted", "asked", "closing"]
"""``idle``: its time was over. ``evicted``: another model needed the room. ``asked``: by hand, or its engine was broken."""
RefusalReason = RefuseReason


@dataclass(frozen=True, slots=True)
class LoadBegan:
    """A model is being loaded."""

    name: str


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A model is ready. ``load_s``: seconds from the start; ``num_bytes``: what it takes, as far as known."""

    name: str
    load_s: float
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """A model's engine has stopped."""

    name: str
    why: UnloadReason


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A model could not be loaded. ``problem``: English words."""

    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class EngineCrashed:
    """An engine ended by itself, while it was loaded or later."""

    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was turned away by the queue."""

    name: str
    why: RefusalReason


@dataclass(frozen=True, slots=True)
class QueueLength:
    """So many requests wait now."""

    num: int


Happening = LoadBegan | ModelLoaded | ModelUnloaded | LoadFailed | EngineCrashed | Refused | QueueLength
Watcher = Callable[[Happening], None]


class Watchers:
    """Those who are told."""

    def __init__(self) -> None:
        self._watchers: dict[int, Watcher] = {}
        self._ids = itertools.count()

    def add(self, watcher: Watcher) -> Callable[[], None]:
        """Tell it from now on; what is returned ends that, and may be called twice."""
        number = next(self._ids)
        self._watchers[number] = watcher

        def end() -> None:
            self._watchers.pop(number, None)

        return end

    def tell(self, happening: Happening) -> None:
        """Tell all, soon and in order. What one of them raises is the event loop's to report."""
        if self._watchers:
            loop = asyncio.get_running_loop()
            for number in self._watchers:
                loop.call_soon(self._call, number, happening)

    def _call(self, number: int, happening: Happening) -> None:
        watcher = self._watchers.get(number)
        if watcher is not None:
            watcher(happening)
