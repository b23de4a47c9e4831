"""The errors for requests that the queue turns away, and when it is worth to try again. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zhibei.errors import Busy, DoesNotFit, ShareFull, ZhibeiError
from zhibei.runtime.scheduler import RefuseReason
from zhibei.units import format_bytes

MAX_RETRY_S = 60


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of how things will go on. ``load_left_s``: until the model is loaded; ``request_s``: of a usual request."""

    load_left_s: float | None = None
    request_s: float | None = None
    num_slots: int = 1


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the settings allow."""

    max_queue: int
    max_models: int
    max_wait_s: float


def retry_after_s(outlook: Outlook) -> int:
    """Whole seconds after which a place is likely to be free: 1 where nothing is known, and never more than a minute.

    While the model loads: the rest of the load. Else the time in which one of its slots comes free.
    """
    if outlook.load_left_s is not None:
        wait_s = outlook.load_left_s
    else:
        wait_s = (outlook.request_s or 0.0) / max(1, outlook.num_slots)
    return max(1, min(MAX_RETRY_S, math.ceil(wait_s)))


def refusal(name: str, reason: RefuseReason, needed_bytes: int, bounds: Bounds, outlook: Outlook) -> ZhibeiError:
    """The error for a request for model ``name``. Failed starts and unstable engines have errors of their own."""
    if reason == "draining":
        return Busy("The service is stopping.", hint="Try again when it is back.", retry_after_s=5)
    if reason == "no_memory":
        return DoesNotFit(
            "{model} needs {needed} of memory, which is not free now.",
            hint="Close other programs, or stop other models: zhibei ps, zhibei stop NAME.",
            model=name,
            needed=format_bytes(needed_bytes),
        )
    if reason == "no_place":
        return DoesNotFit(
            "{model} cannot be loaded: no more than {max_models} models may run at once, and those that run are pinned.",
            hint="Raise max_models, pin fewer models, or stop one: zhibei stop NAME.",
            model=name,
            max_models=bounds.max_models,
        )
    wait_s = retry_after_s(outlook)
    if reason == "too_late":
        return Busy(
            "{model} was not free within {max_wait_s} seconds.",
            hint="Try again later, or raise server.max_wait_s.",
            retry_after_s=wait_s,
            model=name,
            max_wait_s=math.ceil(bounds.max_wait_s),
        )
    if reason == "share_full":
        return ShareFull(
            "Too many of your requests are waiting; the rest of the queue is for others.",
            hint="Wait for some of them to end.",
            retry_after_s=wait_s,
        )
    return Busy(
        "Too many requests are waiting ({max_queue}).",
        hint="Try again in a moment, or raise server.max_queue.",
        retry_after_s=wait_s,
        max_queue=bounds.max_queue,
    )
