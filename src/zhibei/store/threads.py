"""Blocking work of the store on a thread, so that the event loop stays free while a disk or a hash is busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def in_thread_until(stop: Callable[[], object], work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """As ``in_thread``; ``stop`` is called on cancellation, to make ``work`` end soon."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop()
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()
        raise


async def in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run ``work`` on a thread. If the caller is cancelled, the cancellation waits until the thread is done with it."""
    return await in_thread_until(_nothing, work, *args, **kwargs)


def _nothing() -> None:
    return None
