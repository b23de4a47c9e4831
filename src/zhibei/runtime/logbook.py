"""What engines wrote, line by line, kept in memory for each model: the newest lines, and no more than fits.

A model's lines outlive its engine. Knows no pool and no engine; all of it runs on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime, timezone

MAX_LINES = 5_000
MAX_BYTES = 1 << 20
MAX_LINE_CHARS = 4_096
MAX_MODELS = 32


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line and when it was written."""

    at: datetime
    text: str


class _Page:
    """The lines of one model. ``num_dropped`` are gone: the first that is kept has this number."""

    def __init__(self) -> None:
        self.lines: deque[LogLine] = deque()
        self.num_bytes = 0
        self.num_dropped = 0

    @property
    def end(self) -> int:
        return self.num_dropped + len(self.lines)

    def append(self, line: LogLine, max_lines: int, max_bytes: int) -> None:
        self.lines.append(line)
        self.num_bytes += _size(line)
        while len(self.lines) > max_lines or (self.num_bytes > max_bytes and len(self.lines) > 1):
            self.num_bytes -= _size(self.lines.popleft())
            self.num_dropped += 1


class Logbook:
    """Engines' own lines."""

    def __init__(
        self,
        *,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
        max_models: int = MAX_MODELS,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        """The bounds are for each model; of more than ``max_models`` those that wrote last are kept."""
        self._max_lines, self._max_bytes, self._max_models = max_lines, max_bytes, max_models
        self._now = now
        self._pages: dict[str, _Page] = {}
        self._changed = asyncio.Event()

    def write(self, name: str, text: str) -> None:
        """Keep what an engine wrote, as many lines as it has."""
        # The last of the table wrote last.
        page = self._pages[name] = self._pages.pop(name) if name in self._pages else _Page()
        for line in text.splitlines():
            kept = line if len(line) <= MAX_LINE_CHARS else line[: MAX_LINE_CHARS - 1] + "…"
            page.append(LogLine(self._now(), kept), self._max_lines, self._max_bytes)
        while len(self._pages) > self._max_models:
            del self._pages[next(iter(self._pages))]
        self._changed.set()
        self._changed = asyncio.Event()

    def names(self) -> tuple[str, ...]:
        """The models that wrote something, in order."""
        return tuple(sorted(self._pages))

    def lines(self, name: str, num_lines: int | None = None) -> tuple[LogLine, ...]:
        """The kept lines of a model, oldest first; the last ``num_lines`` of them. Empty where it wrote none."""
        page = self._pages.get(name)
        kept = tuple(page.lines) if page is not None else ()
        return kept if num_lines is None else kept[len(kept) - min(num_lines, len(kept)) :]

    def follow(self, name: str, num_lines: int | None = 0) -> AsyncGenerator[LogLine, None]:
        """The last ``num_lines`` (None: all that are kept) and then each line that is new from now on, until it is closed.

        Whoever reads too slowly misses lines, and makes nobody wait.
        """
        page = self._pages.get(name)
        end = page.end if page is not None else 0
        return self._follow(name, page, end - len(self.lines(name, num_lines)))

    async def _follow(self, name: str, page: _Page | None, next_line: int) -> AsyncGenerator[LogLine, None]:
        while True:
            changed, current = self._changed, self._pages.get(name)
            if current is not page:
                # It was dropped for others, and has written again; or it had not written yet.
                page, next_line = current, 0
            if page is None or next_line >= page.end:
                await changed.wait()
                continue
            next_line = max(next_line, page.num_dropped)
            line = page.lines[next_line - page.num_dropped]
            next_line += 1
            yield line


def _size(line: LogLine) -> int:
    return len(line.text.encode("utf-8", "replace")) + 1
