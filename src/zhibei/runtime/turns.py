"""Whose turn it is among those who wait. Pure: a queue in the order of arrival in, the same in the order of serving out.

An owner's own requests stay in their order. Among owners the one comes first who has the fewest requests running on the
model that its next request is for; of equals the one who was served least recently; of those the one who came first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

MAX_REMEMBERED = 1024


class Waiting(Protocol):
    """A request that waits."""

    @property
    def key(self) -> str:
        """Of the model it is for."""
        ...

    @property
    def owner(self) -> str:
        """Who asked."""
        ...


W = TypeVar("W", bound=Waiting)


def in_turn(queue: Sequence[W], num_running: Callable[[str, str], int], last_served: Mapping[str, int]) -> list[W]:
    """The queue in the order in which it is served.

    Args:
        num_running: (owner, key) → how many requests of the owner run on the model now.
        last_served: owner → a number that grows with each that is served.
    """
    lines: dict[str, deque[tuple[int, W]]] = {}
    for number, waiting in enumerate(queue):
        lines.setdefault(waiting.owner, deque()).append((number, waiting))
    if len(lines) < 2:
        return list(queue)
    picked = dict.fromkeys(lines, 0)

    def rank(owner: str) -> tuple[int, int, int]:
        number, first = lines[owner][0]
        return picked[owner] + num_running(owner, first.key), last_served.get(owner, -1), number

    found: list[W] = []
    while lines:
        owner = min(lines, key=rank)
        found.append(lines[owner].popleft()[1])
        picked[owner] += 1
        if not lines[owner]:
            del lines[owner]
    return found


def with_served(last_served: Mapping[str, int], owner: str, number: int) -> dict[str, int]:
    """The same, and that ``owner`` was served with this number; who was not for long is forgotten."""
    found = {other: when for other, when in last_served.items() if other != owner}
    if len(found) >= MAX_REMEMBERED:
        del found[min(found, key=found.__getitem__)]
    return {**found, owner: number}


def share(max_queue: int, owner: str) -> int:
    """How many requests of one owner may wait: three quarters of the queue; all of it for one who is nobody in particular."""
    return max(1, max_queue * 3 // 4) if owner else max_queue
