"""A download as a person sees it: a bar on a terminal, a line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from zhibei.cli.invocation import Invocation
from zhibei.cli.render import printable
from zhibei.errors import SourceError
from zhibei.events import Inspected, Notice, Progress, Pulled, PullEvent
from zhibei.models import StoredModel
from zhibei.units import format_bytes, format_duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_LINE_EVERY_S = 5.0


class View(Protocol):
    """Shows progress between ``with`` and its end."""

    def __enter__(self) -> View:
        """Begin."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the screen tidy."""
        ...

    def show(self, progress: Progress) -> None:
        """Show how far the work is."""
        ...


async def follow_pull(invocation: Invocation, events: AsyncIterator[PullEvent], opening: str | None = None) -> StoredModel:
    """Show a pull until it is done, and return the model. ``opening`` is said once the work has really begun."""
    with _view(invocation) as view:
        async for event in events:
            if opening is not None:
                invocation.printer.note(opening)
                opening = None
            match event:
                case Progress():
                    view.show(event)
                case Notice():
                    invocation.notice(event)
                case Inspected():
                    _tell_model(invocation, event)
                case Pulled(stored):
                    return stored
    raise SourceError(
        "The download ended before the model was complete.", hint="Run the command again; it continues where it stopped."
    )


def _tell_model(invocation: Invocation, found: Inspected) -> None:
    info = found.info
    facts = [info.name, info.architecture, info.quantisation] if info else []
    size = format_bytes(found.total_bytes) if found.total_bytes is not None else None
    words = ", ".join(fact for fact in (*facts, size) if fact)
    invocation.printer.note(printable(f"{found.name}: {words}" if words else found.name))


def _view(invocation: Invocation) -> View:
    if invocation.printer.quiet:
        return _Silent()
    return _BarView(invocation) if invocation.printer.err_is_terminal else LineView(invocation)


class _Silent:
    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def show(self, progress: Progress) -> None:
        return None


class LineView(_Silent):
    """For logs: a plain line when something begins, every few seconds, and at its end."""

    def __init__(self, invocation: Invocation, clock: Callable[[], float] = time.monotonic) -> None:
        self._invocation = invocation
        self._clock = clock
        self._what: str | None = None
        self._began_s = 0.0
        self._began_at = 0
        self._shown_s = 0.0

    def show(self, progress: Progress) -> None:
        """Print a line if it is time for one."""
        now_s = self._clock()
        complete = progress.total is not None and progress.done >= progress.total
        if progress.what != self._what:
            self._what, self._began_s, self._began_at = progress.what, now_s, progress.done
        elif now_s - self._shown_s < _LINE_EVERY_S and not complete:
            return
        self._shown_s = now_s
        self._invocation.printer.note(printable(self._line(progress, now_s - self._began_s)))

    def _line(self, progress: Progress, elapsed_s: float) -> str:
        if progress.unit == "files":
            return f"{progress.what}: {progress.done}/{progress.total or '?'}"
        if progress.total is None:
            line = f"{progress.what}: {format_bytes(progress.done)}"
        else:
            percent = 100 * progress.done // max(1, progress.total)
            line = f"{progress.what}: {percent}% ({format_bytes(progress.done)} / {format_bytes(progress.total)})"
        rate = (progress.done - self._began_at) / elapsed_s if elapsed_s > 0 else 0
        if rate <= 0:
            return line
        line += f", {format_bytes(int(rate))}/s"
        left = (progress.total or 0) - progress.done
        return line + ", " + self._invocation.text("{time} left", time=format_duration(left / rate)) if left > 0 else line


class _BarView(_Silent):
    """For a terminal: a bar with size, rate and time left. Needs rich, which is imported only here."""

    def __init__(self, invocation: Invocation) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars

        console = Console(file=invocation.printer.err, no_color=not invocation.printer.color, highlight=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
        )
        self._bars: Bars = Bars(*columns, console=console, expand=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> View:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Move the bar."""
        what = printable(progress.what)
        if what not in self._tasks:
            # A resumed download starts where it was: what is there already must not count as speed.
            self._tasks[what] = self._bars.add_task(what, total=progress.total, completed=progress.done)
        self._bars.update(self._tasks[what], completed=progress.done, total=progress.total)
