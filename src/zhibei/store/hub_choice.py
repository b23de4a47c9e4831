"""Which hub answers sooner from here: found out by asking both, and remembered for a while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from zhibei.errors import ZhibeiError
from zhibei.i18n import N_
from zhibei.store.sources.base import StartOver
from zhibei.store.ways import Way

HUB_TITLES = {"hf": "Hugging Face", "ms": N_("ModelScope")}
_REMEMBERED_S = 7 * 24 * 3600.0
_PATIENCE_S = 8.0


def remembered(path: Path) -> str | None:
    """The hub that was sooner last time; None if that is long ago or not known."""
    try:
        with path.open("rb") as stream:
            table = json.loads(stream.read(4096))
        hub, at_s = str(table["hub"]), float(table["at_s"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    return hub if 0 <= time.time() - at_s < _REMEMBERED_S else None


def remember(path: Path, hub: str) -> None:
    """Note the hub that was sooner, as far as the disk allows."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"hub": hub, "at_s": time.time()}), encoding="utf-8")


async def soonest(ways: tuple[Way, ...], ask: Callable[[Way], Awaitable[object]]) -> Way | None:
    """The way whose source first says that it has the model; None if none does in good time."""
    asked = {asyncio.ensure_future(_succeeds(ask, way)): way for way in ways}
    deadline = time.monotonic() + _PATIENCE_S
    waiting = set(asked)
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return None
            for task in done:
                if task.result():
                    return asked[task]
        return None
    finally:
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)


async def _succeeds(ask: Callable[[Way], Awaitable[object]], way: Way) -> bool:
    try:
        await ask(way)
    except (ZhibeiError, StartOver):
        return False
    return True
