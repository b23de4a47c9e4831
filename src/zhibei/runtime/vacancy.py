"""Memory that one more model could take beside those that are there. Pure; the scheduler and plans decide by it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zhibei.runtime.scheduler import Model


def room_bytes(models: Iterable[Model], free_bytes: int | None, total_bytes: int | None) -> int | None:
    """Memory that one more model could take beside ``models``; None: not known.

    What starting models will take is still free; and the system calls the weights of running models free, as far as they are
    mapped from their files, because it could drop and read them again. So no more is given than is left of the total.
    A running model counts for what was planned, or for what it was seen to take where that is more (``Model.held_bytes``).
    """
    if free_bytes is None:
        return None
    running = tuple(models)
    room = free_bytes - sum(model.num_bytes for model in running if model.phase == "starting")
    if total_bytes is not None:
        room = min(room, total_bytes - sum(model.held_bytes for model in running))
    return max(0, room)


def room_gpu_bytes(models: Iterable[Model], free_bytes: Iterable[int]) -> tuple[int, ...]:
    """Memory of each graphics processor that one more model could take beside those that are starting."""
    starting = [model.gpu_bytes for model in models if model.phase == "starting"]
    return tuple(
        max(0, free - sum(taken[number] for taken in starting if number < len(taken))) for number, free in enumerate(free_bytes)
    )
