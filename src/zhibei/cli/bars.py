"""Bars on a terminal: one for each file in work, and one for all of them where there are several. Needs rich."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.file_proxy import FileProxy
from rich.progress import BarColumn, ProgressColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table

from zhibei.cli.invocation import Invocation
from zhibei.cli.pace import Figures, Tally
from zhibei.cli.progress import TalkView, View, percent
from zhibei.cli.render import GAP, columns, cut, cut_middle, pad, printable
from zhibei.events import Inspected, Progress
from zhibei.units import format_bytes, format_duration

_FREE_COLUMNS = 3
_LEAST_NAME, _MOST_NAME = 12, 32
_LEAST_BAR = 8
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.\w+$", re.ASCII)
_PERCENT, _SIZE, _RATE, _LEFT = 4, 13, 10, 7


class _Bars(Bars):
    """Leaves the last columns free: where a terminal shows ``^C`` there, it begins no new line, which would be counted wrong."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield _Narrower(self.make_tasks_table(self.tasks))


@dataclass(frozen=True, slots=True)
class _Narrower:
    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.table, options.update(width=max(1, options.max_width - _FREE_COLUMNS)))


class BarView(TalkView):
    """See the module. ``is_passing``: the bars are taken away at the end."""

    def __init__(self, invocation: Invocation, *, total_bytes: int | None = None, is_passing: bool = False) -> None:
        super().__init__(invocation)
        printer = invocation.printer
        self._console = Console(file=printer.err, no_color=not printer.color, highlight=False)
        width = self._console.width - _FREE_COLUMNS
        rest = width - (_PERCENT + _RATE + _LEFT + 3 * len(GAP))
        self._has_size = rest >= _LEAST_NAME + len(GAP) + _SIZE
        if self._has_size:
            rest -= len(GAP) + _SIZE
        has_bar = rest >= _LEAST_NAME + 1 + _LEAST_BAR
        self._name_columns = max(_LEAST_NAME, min(_MOST_NAME, rest // 2 if has_bar else rest))
        name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
        facts = TextColumn("{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True))
        shown: list[ProgressColumn] = [name, BarColumn(bar_width=None), facts] if has_bar else [name, facts]
        self._bars = _Bars(*shown, console=self._console, expand=has_bar, transient=is_passing)
        self._tally = Tally(total_bytes)
        self._tasks: dict[str, TaskID] = {}
        self._whole: TaskID | None = None
        self._err = printer.err

    def __enter__(self) -> View:
        # What is said meanwhile is to stand above the bars, not between them.
        self.invocation.printer.err = FileProxy(self._console, self._err)
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()
        self.invocation.printer.err = self._err

    def begin(self, found: Inspected) -> None:
        """Say what the model is; counting begins."""
        super().begin(found)
        for task in (*self._tasks.values(), *((self._whole,) if self._whole is not None else ())):
            self._bars.remove_task(task)
        self._tally, self._tasks, self._whole = Tally(found.total_bytes), {}, None

    def show(self, progress: Progress) -> None:
        """Move the bars."""
        self._tally.take(progress, time.monotonic())
        if progress.unit != "bytes":
            figures = Figures(progress.done, progress.total)
            self._move(progress.what, figures, f"{progress.done}/{progress.total or '?'}")
            return
        whole = self._tally.whole if self._tally.has_several else None
        if whole is not None:
            self._move_whole(whole)
        figures = self._tally.file(progress.what)
        if figures.is_complete and whole is not None:
            self._drop(progress.what)
        else:
            self._move(progress.what, figures, self._facts(figures))

    def _move_whole(self, whole: Figures) -> None:
        if self._whole is None:
            label = pad(cut_middle(self.invocation.text("in all"), self._name_columns), self._name_columns)
            self._whole = self._bars.add_task(label, completed=whole.done, total=whole.total, facts=self._facts(whole))
        else:
            self._bars.update(self._whole, completed=whole.done, total=whole.total, facts=self._facts(whole))

    def _move(self, what: str, figures: Figures, facts: str) -> None:
        task = self._tasks.get(what)
        if task is None:
            name = pad(_label(what, self._name_columns), self._name_columns)
            self._tasks[what] = self._bars.add_task(name, completed=figures.done, total=figures.total, facts=facts)
        else:
            self._bars.update(task, completed=figures.done, total=figures.total, facts=facts)

    def _drop(self, what: str) -> None:
        task = self._tasks.pop(what, None)
        if task is not None:
            self._bars.remove_task(task)

    def _facts(self, figures: Figures) -> str:
        """Percentage, size, rate and time left, each at its place."""
        size = format_bytes(figures.done) if figures.total is None else _share(figures.done, figures.total)
        rate = figures.rate_bytes_per_s
        facts = [
            pad(percent(figures) if figures.total is not None else "", _PERCENT, right=True),
            pad(size, _SIZE, right=True),
            pad(f"{format_bytes(int(rate))}/s" if rate is not None else "", _RATE, right=True),
            pad(format_duration(figures.remaining_s) if figures.remaining_s else "", _LEFT, right=True),
        ]
        return GAP.join(facts if self._has_size else [facts[0], *facts[2:]])


def _label(what: str, width: int) -> str:
    """A file's name in so many columns. Of several that are one model, the number comes first, for a cut would take it away."""
    name = printable(what)
    numbers = _SHARD.search(name)
    if numbers is None or columns(name) <= width:
        return cut_middle(name, width)
    return cut(f"{int(numbers[1])}/{int(numbers[2])} {name}", width)


def _share(done: int, total: int) -> str:
    """``0.3/1.2 GiB``: both in the unit of the whole."""
    text, _, unit = format_bytes(total).partition(" ")
    digits = 1 if "." in text else 0
    share = float(text) * min(1.0, done / max(1, total))
    return f"{share:.{digits}f}/{text} {unit}"
