"""Which idle models must stop so that another fits. Pure: numbers in, names out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running model. ``last_used_s`` is on the caller's clock; only idle ones may be stopped."""

    key: str
    num_bytes: int
    last_used_s: float
    idle: bool


@dataclass(frozen=True, slots=True)
class Eviction:
    """``stop`` these and it fits; ``wait``: it will fit once busy models are idle; neither: it cannot fit."""

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
    stop: list[str] = []
    missing_bytes = 0 if free_bytes is None else need_bytes - free_bytes
    missing_places = 0 if num_places is None else 1 - num_places
    for candidate in sorted((c for c in running if c.idle), key=lambda c: c.last_used_s):
        if missing_bytes <= 0 and missing_places <= 0:
            break
        stop.append(candidate.key)
        missing_bytes -= candidate.num_bytes
        missing_places -= 1
    if missing_bytes <= 0 and missing_places <= 0:
        return Eviction(tuple(stop))
    busy = [c for c in running if not c.idle]
    enough = missing_bytes <= sum(c.num_bytes for c in busy) and missing_places <= len(busy)
    return Eviction(fits=False, wait=bool(busy) and enough)
