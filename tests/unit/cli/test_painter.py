"""The painter against a small model of a terminal: what is on the screen at the end, and how little was drawn for it."""

from __future__ import annotations

import asyncio
import io
import re

import pytest

from zhibei.cli.painter import Painter
from zhibei.cli.printer import Printer

COLUMNS, ROWS = 40, 10


class Screen(io.StringIO):
    """Understands what the painter may write: text, line ends, return, cursor up, erase below, styles."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = [""]
        self.row = self.column = 0
        self.num_drawn = 0
        self.highest_rise = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for piece in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", text):
            self._take(piece)
        return len(text)

    def _take(self, piece: str) -> None:
        if piece == "\n":
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.lines):
                self.lines.append("")
        elif piece == "\r":
            self.column = 0
        elif piece.startswith("\x1b[") and piece.endswith("A"):
            rise = int(piece[2:-1])
            self.highest_rise = max(self.highest_rise, rise)
            self.row -= rise
            assert self.row >= len(self.lines) - ROWS, "drew above the top of the screen"
        elif piece == "\x1b[J":
            self.lines = [*self.lines[: self.row], self.lines[self.row][: self.column]]
        elif not piece.startswith("\x1b"):
            line = self.lines[self.row]
            self.lines[self.row] = line[: self.column] + piece + line[self.column + len(piece) :]
            self.column += len(piece)
            self.num_drawn += len(piece)
            assert self.column <= COLUMNS


class FixedPrinter(Printer):
    """A printer for a terminal of a known size."""

    def _size(self) -> tuple[int, int]:
        return COLUMNS, ROWS


async def paint(text: str, *, size: int, frames: bool) -> Screen:
    """Feed the text in pieces, with or without time for a frame between them."""
    screen = Screen()
    painter = Painter(FixedPrinter(out=screen, err=screen))
    for start in range(0, len(text), size):
        painter.feed(text[start : start + size])
        if frames:
            painter.draw()
        await asyncio.sleep(0)
    painter.finish()
    return screen


TEXT = """# A title

A paragraph that is long enough to be wrapped over several lines of the screen, with **bold** words.

- one
- two

```python
def f():
    return 1
```

The end.
"""


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("frames", [True, False])
async def test_the_screen_at_the_end_does_not_depend_on_the_pieces(size: int, frames: bool) -> None:
    screen = await paint(TEXT, size=size, frames=frames)
    assert [line.rstrip() for line in screen.lines] == [
        "A title", "",
        "A paragraph that is long enough to be", "wrapped over several lines of the", "screen, with bold words.", "",
        " • one", " • two", "", "def f():", "    return 1", "", "The end.", "",
    ]  # fmt: skip


async def test_lines_that_stay_the_same_are_not_drawn_again() -> None:
    screen = await paint("word " * 100, size=5, frames=True)
    shown = sum(len(line) for line in screen.lines)
    assert screen.highest_rise <= 1
    assert screen.num_drawn < shown * COLUMNS


async def test_a_block_that_is_higher_than_the_screen() -> None:
    text = "```\n" + "".join(f"line {number}\n" for number in range(50)) + "```\n"
    screen = await paint(text, size=3, frames=True)
    assert screen.lines[:50] == [f"line {number}" for number in range(50)]


async def test_chinese() -> None:
    screen = await paint("中文的一段话，没有空格，所以要在任何两个字之间换行，这样才能看得清楚。\n", size=1, frames=True)
    assert "".join(screen.lines) == "中文的一段话，没有空格，所以要在任何两个字之间换行，这样才能看得清楚。"
