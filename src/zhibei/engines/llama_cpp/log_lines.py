"""What of llama.cpp's log may be kept, all but what a request said; and what it says of a chat template. Knows no process."""

from __future__ import annotations

import re
from collections.abc import Iterable

_STAMPED = re.compile(r"\d+\.\d+\.\d+\.\d+ [A-Z] ")
# A request that failed, with its words in the reason; what is kept of it ends here.
_FAILED = re.compile(r'got exception:( \{"error":\{"code":\d+)?')
# A schema's grammar that does not parse is printed whole, over many lines that have no stamp.
_GRAMMAR = "error parsing grammar:"
_CUT = " …"
_TEMPLATE = re.compile(r"(?:common_chat_templates_init: error|chat template parsing error): (.+)")
_MAX_PROBLEM_CHARS = 200


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


def template_problem(lines: Iterable[str]) -> str | None:
    """Why a model could not be loaded with its chat template; None: that was not why."""
    found = next((match for line in lines if (match := _TEMPLATE.search(line))), None)
    return None if found is None else found[1].strip()[:_MAX_PROBLEM_CHARS]
