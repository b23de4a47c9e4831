"""Which running engine would do for a request that wants another context length. Pure.

Two copies of one model that differ in nothing but their context would only waste memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from zhibei.runtime.asking import Asked
from zhibei.runtime.starting import Wanted

USUAL_CTX = 4096
"""What a request that does not say how long its context must be may count on, where the model was trained for as much."""


def suiting(asked: Asked, running: Iterable[tuple[str, Wanted]]) -> tuple[Wanted | None, tuple[str, ...]]:
    """The running one to use, and the keys of those that give way to a new one; none do where one can be used.

    It is the very one that is asked for, else the one with the longest context, if that is long enough. A pinned one stays.
    """
    alike = _alike(asked, running)
    same = next((wanted for key, wanted in alike if key == asked.key), None)
    longest = max((wanted for _, wanted in alike), key=_ctx_size, default=None)
    if same is not None or longest is None or _ctx_size(longest) >= _needed(asked):
        return same or longest, ()
    return None, tuple(key for key, wanted in alike if not wanted.wishes.pin)


def _alike(asked: Asked, running: Iterable[tuple[str, Wanted]]) -> list[tuple[str, Wanted]]:
    """Those that differ from what is asked in their context at most."""
    load = replace(asked.load, ctx_size=None)
    return [
        (key, wanted)
        for key, wanted in running
        if (wanted.model.name, wanted.task) == (asked.model.name, asked.task)
        and wanted.model.files == asked.model.files
        and replace(wanted.load, ctx_size=None) == load
    ]


def _needed(asked: Asked) -> int:
    trained = asked.model.info.context_length if asked.model.info is not None else None
    return asked.load.ctx_size or min(USUAL_CTX, trained or USUAL_CTX)


def _ctx_size(wanted: Wanted) -> int:
    return wanted.plan.spec.ctx_size if wanted.plan.spec is not None else 0
