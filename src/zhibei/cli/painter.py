"""Markdown on a terminal while it is being written. Finished blocks scroll away as they are; of the open one only the
lines that changed are drawn again, so nothing flickers. Needs rich, so only the view imports this.
"""

from __future__ import annotations

import asyncio
import time
from io import StringIO
from typing import Any, ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown
from rich.syntax import Syntax
from rich.theme import Theme

from zhibei.cli.blocks import Blocks
from zhibei.cli.printer import Printer

_THEME = Theme({"markdown.code": "bold cyan", "markdown.item.number": "none", "markdown.item.bullet": "none"})
_FRAME_S = 0.05
# Of the time between two frames, drawing may take this share: the processor is needed for the model.
_DRAWING_SHARE = 0.1


class _LeftHeading(Heading):
    """A heading at the left edge, without a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self.text.copy()
        text.justify = "left"
        text.stylize("bold underline" if self.tag == "h1" else "bold")
        yield text


class _PlainCode(CodeBlock):
    """Code with colours only: no frame, no margin, so that it can be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(str(self.text).rstrip(), self.lexer_name, theme="ansi_dark", word_wrap=True, background_color="default")


class _Markdown(Markdown):
    elements: ClassVar = {**Markdown.elements, "heading_open": _LeftHeading, "fence": _PlainCode, "code_block": _PlainCode}


class Painter:
    """Paints one answer. Must be used inside a running event loop, which paces the frames."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._blocks = Blocks()
        self._shown: list[str] = []
        self._gap = False
        self._frame: asyncio.TimerHandle | None = None
        self._cost_s = 0.0

    def feed(self, text: str) -> None:
        """Take more text; it is drawn at the next frame."""
        for block in self._blocks.feed(text):
            self._commit(block)
        if self._frame is None and self._blocks.open:
            delay = max(_FRAME_S, self._cost_s / _DRAWING_SHARE)
            self._frame = asyncio.get_running_loop().call_later(delay, self.draw)

    def finish(self) -> None:
        """Draw what is left."""
        self._drop_frame()
        last = self._blocks.finish()
        if last:
            self._commit(last)

    def draw(self) -> None:
        """Draw a frame now."""
        self._drop_frame()
        began_s = time.perf_counter()
        self._paint(self._lines(self._blocks.open))
        self._cost_s = time.perf_counter() - began_s

    def _commit(self, block: str) -> None:
        self._drop_frame()
        self._paint(self._lines(block))
        self._printer.stream("\n")
        self._shown = []
        self._gap = True

    def _drop_frame(self) -> None:
        if self._frame is not None:
            self._frame.cancel()
            self._frame = None

    def _lines(self, block: str) -> list[str]:
        page = StringIO()
        colors: dict[str, Any] = {} if self._printer.color else {"color_system": None}
        console = Console(
            file=page, force_terminal=True, width=self._printer.width, highlight=False, legacy_windows=False, **colors
        )
        console.print(_Markdown(block), end="")
        return [line.rstrip() for line in page.getvalue().strip("\n").split("\n")]

    def _paint(self, lines: list[str]) -> None:
        """Make the screen show ``lines`` where it shows ``self._shown``; the cursor is at the end of the last line."""
        if lines == self._shown:
            return
        if not self._shown:
            self._printer.stream(("\n" if self._gap else "") + "\n".join(lines))
            self._gap = False
        else:
            # Lines that have left the screen cannot be drawn again; they stay as they are.
            start = max(_num_equal(self._shown, lines), len(self._shown) - self._printer.height + 1)
            if len(lines) < len(self._shown):
                # The cursor must end behind the last line, so that one is drawn again.
                start = min(start, len(lines) - 1)
            up = len(self._shown) - 1 - start
            if up < 0:
                self._printer.stream("\n" + "\n".join(lines[start:]))
            else:
                rise = f"\x1b[{up}A" if up else ""
                self._printer.stream(f"\r{rise}\x1b[J" + "\n".join(lines[start:]))
        self._shown = lines


def _num_equal(old: list[str], new: list[str]) -> int:
    for index, (before, after) in enumerate(zip(old, new, strict=False)):
        if before != after:
            return index
    return min(len(old), len(new))
