"""Cutting Markdown, while it is being written, into blocks that later text cannot change. Pure text; no screen."""

from __future__ import annotations

import re

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_LIST = re.compile(r"\s{0,3}(?:[-*+]|\d{1,9}[.)])(?:\s|$)")
_MAYBE_LIST = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)]?)?")
_HEADING = re.compile(r" {0,3}#{1,6}\s")


class Blocks:
    """Takes text in pieces; gives each block once it is complete, and the one that is still open."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._partial = ""
        self._fence: str | None = None

    @property
    def open(self) -> str:
        """The text of the block that may still change."""
        return "\n".join([*self._lines, self._partial]).strip("\n")

    def feed(self, text: str) -> list[str]:
        """Take more text; returns the blocks that are now complete."""
        *complete, self._partial = (self._partial + text).split("\n")
        found: list[str] = []
        for line in complete:
            found += self._take(line)
        if self._is_decided() and self._begins_block(self._partial):
            found.append(self._cut())
        return [block for block in found if block]

    def finish(self) -> str:
        """The last block; nothing is open after it."""
        last = self.open
        self._lines, self._partial, self._fence = [], "", None
        return last

    def _take(self, line: str) -> list[str]:
        if self._fence is not None:
            self._lines.append(line)
            if _closes(line, self._fence):
                self._fence = None
                return [] if self._is_list() else [self._cut()]
            return []
        done = [self._cut()] if self._begins_block(line) else []
        self._lines.append(line)
        opening = _FENCE.match(line)
        if opening:
            self._fence = opening[1]
        elif _HEADING.match(line) and not self._is_list():
            done.append(self._cut())
        return done

    def _is_decided(self) -> bool:
        """Whether enough of the line after an empty one is there to tell if it goes on with the block."""
        after_empty = bool(self._lines) and not self._lines[-1].strip() and self._fence is None
        return after_empty and _MAYBE_LIST.fullmatch(self._partial) is None

    def _begins_block(self, line: str) -> bool:
        if not self._lines or not line.strip():
            return False
        if self._lines[-1].strip():
            return bool(_HEADING.match(line) or _FENCE.match(line)) and not self._is_list()
        return not (self._is_list() and (line[0].isspace() or _LIST.match(line)))

    def _is_list(self) -> bool:
        first = next((line for line in self._lines if line.strip()), "")
        return _LIST.match(first) is not None

    def _cut(self) -> str:
        block = "\n".join(self._lines).strip("\n")
        self._lines = []
        return block


def _closes(line: str, fence: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(fence) and set(stripped) == {fence[0]}
