"""The text of Linux's ``/proc/cpuinfo``: one line ``name : value`` for each fact, again for every processor. Pure.

Apart from the probe of processors, which is more than a worker needs that wants to know an instruction set.
"""

from __future__ import annotations

import re


def value(text: str | None, name: str) -> str | None:
    """What the first line ``name : value`` says."""
    match = re.search(rf"^{name}[ \t]*:[ \t]*(\S[^\n]*)$", text or "", re.MULTILINE)
    return match[1].strip() if match else None


def words(text: str | None, name: str) -> frozenset[str]:
    """The words of the first line ``name : words``."""
    return frozenset((value(text, name) or "").split())
