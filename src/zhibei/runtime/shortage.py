"""Whether an engine that did not start ran out of memory, by what it said. Pure."""

from __future__ import annotations

from zhibei.engines.endings import KILLED_FOR_MEMORY
from zhibei.errors import EngineStartFailed

# What the engine, its libraries and the drivers write; and how the system ends what takes too much.
_SAID = (
    "insufficient memory",
    "failed to allocate",
    "unable to allocate",
    "cannot allocate memory",
    "out of memory",
    "outofmemory",
    "bad_alloc",
    "memoryerror",
    "cudamalloc failed",
    "failed to mmap",
)
_KILLED = "signal 9"


def lacks_memory(error: EngineStartFailed) -> bool:
    """Whether its end or its last lines tell of too little memory, or may: who was killed often was for that."""
    return str(error.values.get("code", "")) == _KILLED or says_so(error)


def says_so(error: EngineStartFailed) -> bool:
    """Whether there is no doubt about it."""
    said = "\n".join((str(error.values.get("code", "")), *error.log_tail)).lower()
    return error.values.get("how") == KILLED_FOR_MEMORY or any(words in said for words in _SAID)
