"""What of llama.cpp's log may be kept: all but the places where it repeats what a request said. Knows no process."""

from __future__ import annotations

import re

_STAMPED = re.compile(r"\d+\.\d+\.\d+\.\d+ [A-Z] ")
# A request that failed, with its words in the reason; what is kept of it ends here.
_FAILED = re.compile(r'got exception:( \{"error":\{"code":\d+)?')
# A schema's grammar that does not parse is printed whole, over many lines that have no stamp.
_GRAMMAR = "error parsing grammar:"
_CUT = " …"


class LogLines:
    """One log, line by line."""

    def __init__(self) -> None:
        self._is_in_grammar = False

    def kept(self, line: str) -> str | None:
        """What may be kept of the next line; None: nothing."""
        is_stamped = _STAMPED.match(line) is not None
        if self._is_in_grammar and not is_stamped:
            return None
        self._is_in_grammar = not is_stamped and _GRAMMAR in line
        if self._is_in_grammar:
            return line[: line.index(_GRAMMAR) + len(_GRAMMAR)] + _CUT
        found = _FAILED.search(line) if is_stamped else None
        return line if found is None else line[: found.end()] + _CUT
