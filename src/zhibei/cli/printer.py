"""The one writer to the two streams. stdout is data, stderr is talk; whether there is colour or talk is decided once.

Knows nothing of languages: what it is given is printed.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any, TextIO

_FALLBACK_SIZE = (80, 24)
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class OutputClosed(Exception):
    """Whoever read our output has stopped reading: there is nothing left to do."""


class Printer:
    """Writes. ``quiet`` drops all talk but errors; ``color`` False drops all styles."""

    def __init__(self, *, quiet: bool = False, color: bool = True, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.quiet = quiet
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self.color = color
        self._transient_shown = False
        for stream in (self.out, self.err):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

    @property
    def out_is_terminal(self) -> bool:
        """Whether a person sees stdout."""
        return self.out.isatty()

    @property
    def err_is_terminal(self) -> bool:
        """Whether a person sees stderr."""
        return self.err.isatty()

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 where there is none."""
        return self._size()[0]

    @property
    def height(self) -> int:
        """Rows of the terminal; 24 where there is none."""
        return self._size()[1]

    def _size(self) -> tuple[int, int]:
        for stream in (self.out, self.err):
            try:
                size = os.get_terminal_size(stream.fileno())
            except (OSError, ValueError):
                continue
            return size.columns or _FALLBACK_SIZE[0], size.lines or _FALLBACK_SIZE[1]
        return _FALLBACK_SIZE

    def data(self, text: str) -> None:
        """A line of data."""
        self.stream(text + "\n")

    def json(self, document: Any) -> None:
        """Data as a JSON document."""
        self.stream(json.dumps(document, ensure_ascii=False, indent=2) + "\n")

    def stream(self, text: str) -> None:
        """A piece of data, shown at once."""
        self.clear_transient()
        try:
            self.out.write(text)
            self.out.flush()
        except BrokenPipeError:
            raise OutputClosed from None

    def note(self, text: str) -> None:
        """A line of talk; nothing when quiet."""
        if not self.quiet:
            self._talk(text + "\n")

    def error(self, text: str) -> None:
        """A line of talk that even quiet does not drop."""
        self._talk(text + "\n")

    def transient(self, text: str) -> None:
        """A line of talk that the next output replaces; only where a person sees it."""
        if self.quiet or not self.err_is_terminal:
            return
        self._talk("\r\x1b[K" + text)
        self._transient_shown = True

    def clear_transient(self) -> None:
        """Take the transient line away."""
        if self._transient_shown:
            self._transient_shown = False
            self._talk("\r\x1b[K")

    def styled(self, text: str, style: str, *, err: bool = False) -> str:
        """The text in a style (bold, dim, red …) if the stream it is for shows colours."""
        shown = self.err_is_terminal if err else self.out_is_terminal
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.color and shown else text

    def _talk(self, text: str) -> None:
        self.clear_transient()
        try:
            self.err.write(text)
            self.err.flush()
        except BrokenPipeError:
            pass
