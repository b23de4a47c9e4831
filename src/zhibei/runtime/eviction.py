"""Which idle models must stop so that another fits. Pure: numbers in, names out.

The first to go is the one that has been idle for the most of its own load times: one that took 60 seconds to load stays
until it has been idle thirty times as long as one that took two. Where loads cost the same, it is the least recently used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# A load that takes less is none to be spared; and its time is that of other things.
MIN_LOAD_S = 1.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running model. ``last_used_s`` is on the caller's clock; only idle ones may be stopped, ``leaving`` ones are already.

    ``gpu_bytes``: what it takes of each graphics processor, beside ``num_bytes`` of main memory. ``load_s``: what it took to
    load it.
    """

    key: str
    num_bytes: int
    last_used_s: float
    idle: bool
    leaving: bool = False
    gpu_bytes: tuple[int, ...] = ()
    load_s: float = 0.0

    def staleness(self, now_s: float) -> float:
        """How long it has been idle, in its own load times."""
        return (now_s - self.last_used_s) / max(self.load_s, MIN_LOAD_S)


@dataclass(frozen=True, slots=True)
class Eviction:
    """What must happen first.

    ``fits``: there is room once those in ``stop`` are gone and, with ``wait``, those that are leaving; else with ``wait``
    there will be room once busy models are idle, and without it there cannot be.
    """

    stop: tuple[str, ...] = ()
    fits: bool = True
    wait: bool = False


class _Missing:
    """What is missing: bytes of main memory and of each graphics processor, and places. Less than nothing is left over."""

    def __init__(self, need: int, free: int | None, places: int | None, gpus: Iterable[int]) -> None:
        self._amounts = [0 if free is None else need - free, 0 if places is None else 1 - places, *gpus]

    def __bool__(self) -> bool:
        return any(amount > 0 for amount in self._amounts)

    def take(self, candidate: Candidate, sign: int = -1) -> None:
        """It will be gone; with the other sign: it stays after all."""
        freed = (candidate.num_bytes, 1, *candidate.gpu_bytes)
        for number, amount in enumerate(freed[: len(self._amounts)]):
            self._amounts[number] += sign * amount


def choose(
    need_bytes: int,
    free_bytes: int | None,
    num_places: int | None,
    running: Sequence[Candidate],
    need_gpu_bytes: Sequence[int] = (),
    free_gpu_bytes: Sequence[int] = (),
    *,
    now_s: float = 0.0,
) -> Eviction:
    """The stalest idle models first, and no more of them than needed.

    Args:
        need_bytes: what the new model takes.
        free_bytes: what is free now; None: not known, so memory does not decide.
        num_places: models that may still be started without stopping one; None: no limit.
        running: all running models that may ever leave.
        need_gpu_bytes: what it takes of each graphics processor.
        free_gpu_bytes: what is free there now; processors of which nothing is said do not decide.
        now_s: on the candidates' clock.
    """
    gpus = [need - free for need, free in zip(need_gpu_bytes, free_gpu_bytes, strict=False)]
    missing = _Missing(need_bytes, free_bytes, num_places, gpus)
    leaving = [c for c in running if c.leaving]
    wait = bool(leaving) and bool(missing)
    for candidate in leaving:
        missing.take(candidate)
    stop: list[Candidate] = []
    for candidate in sorted((c for c in running if c.idle), key=lambda c: (-c.staleness(now_s), c.last_used_s)):
        if not missing:
            break
        stop.append(candidate)
        missing.take(candidate)
    if not missing:
        for candidate in reversed(stop.copy()):
            # One that was taken before a larger one may not be needed any more.
            missing.take(candidate, 1)
            if missing:
                missing.take(candidate)
            else:
                stop.remove(candidate)
        return Eviction(tuple(candidate.key for candidate in stop), wait=wait)
    for candidate in (c for c in running if not c.idle and not c.leaving):
        missing.take(candidate)
    return Eviction(fits=False, wait=not missing)
