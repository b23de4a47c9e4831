"""Which idle models must stop so that another fits. Pure: numbers in, names out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running model. ``last_used_s`` is on the caller's clock; only idle ones may be stopped, ``leaving`` ones are already."""

    key: str
    num_bytes: int
    last_used_s: float
    idle: bool
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Eviction:
    """What must happen first.

    ``fits``: there is room once those in ``stop`` are gone and, with ``wait``, those that are leaving; else with ``wait``
    there will be room once busy models are idle, and without it there cannot be.
    """

    stop: tuple[str, ...] = ()
    fits: bool = True
    wait: bool = False


def choose(need_bytes: int, free_bytes: int | None, num_places: int | None, running: Sequence[Candidate]) -> Eviction:
    """Least recently used idle models first, and no more of them than needed.

    Args:
        need_bytes: what the new model takes.
        free_bytes: what is free now; None: not known, so memory does not decide.
        num_places: models that may still be started without stopping one; None: no limit.
        running: all running models.
    """
    stop: list[Candidate] = []
    missing_bytes = 0 if free_bytes is None else need_bytes - free_bytes
    missing_places = 0 if num_places is None else 1 - num_places
    leaving = [c for c in running if c.leaving]
    wait = bool(leaving) and (missing_bytes > 0 or missing_places > 0)
    missing_bytes -= sum(c.num_bytes for c in leaving)
    missing_places -= len(leaving)
    for candidate in sorted((c for c in running if c.idle), key=lambda c: c.last_used_s):
        if missing_bytes <= 0 and missing_places <= 0:
            break
        stop.append(candidate)
        missing_bytes -= candidate.num_bytes
        missing_places -= 1
    if missing_bytes <= 0 and missing_places <= 0:
        for candidate in reversed(stop.copy()):
            # One that was taken before a larger one may not be needed any more.
            if missing_bytes + candidate.num_bytes <= 0 and missing_places + 1 <= 0:
                stop.remove(candidate)
                missing_bytes += candidate.num_bytes
                missing_places += 1
        return Eviction(tuple(candidate.key for candidate in stop), wait=wait)
    busy = [c for c in running if not c.idle and not c.leaving]
    enough = missing_bytes <= sum(c.num_bytes for c in busy) and missing_places <= len(busy)
    return Eviction(fits=False, wait=enough)
