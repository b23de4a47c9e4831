"""The event loop that programs of ours run on: the fastest there is for this system."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def new() -> asyncio.AbstractEventLoop:
    """As ``asyncio.new_event_loop``."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """As ``asyncio.run``."""
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)
