"""Long work as a person sees it: bars on a terminal, a line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Protocol

from zhibei.cli.invocation import Invocation
from zhibei.cli.pace import Figures, Tally
from zhibei.cli.render import printable
from zhibei.errors import SourceError
from zhibei.events import Checked, CheckEvent, Inspected, Notice, Progress, Pulled, PullEvent
from zhibei.models import StoredModel
from zhibei.units import format_bytes, format_duration

_LINE_EVERY_S = 5.0

Step = Inspected | Progress | Notice


class View(Protocol):
    """Shows work between ``with`` and its end."""

    def __enter__(self) -> View:
        """Begin."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the screen tidy."""
        ...

    def take(self, step: Step) -> None:
        """Show what the work says."""
        ...


async def follow_pull(
    invocation: Invocation,
    events: AsyncIterator[PullEvent | CheckEvent],
    opening: str | None = None,
    view: View | None = None,
) -> StoredModel:
    """Show a pull until it is done, and return the model. ``opening`` is said once the work has really begun.

    Args:
        view: shows it, instead of what suits the screen.
    """
    with view or open_view(invocation) as shown:
        async for event in events:
            if opening is not None:
                invocation.printer.note(opening)
                opening = None
            if isinstance(event, Pulled):
                return event.model
            if not isinstance(event, Checked):
                shown.take(event)
    raise SourceError(
        "The download ended before the model was complete.", hint="Run the command again; it continues where it stopped."
    )


def open_view(invocation: Invocation, *, total_bytes: int | None = None, is_passing: bool = False) -> View:
    """What suits the screen. ``total_bytes``: of all files, where that is known; ``is_passing``: nothing is left of it."""
    if invocation.printer.quiet:
        return TalkView(invocation)
    if not invocation.printer.err_is_terminal:
        return LineView(invocation, total_bytes=total_bytes)
    from zhibei.cli.bars import BarView

    return BarView(invocation, total_bytes=total_bytes, is_passing=is_passing)


class TalkView:
    """Shows no progress. What else there is to say is said with the printer, which may be quiet."""

    def __init__(self, invocation: Invocation) -> None:
        self.invocation = invocation

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def take(self, step: Step) -> None:
        """Say it."""
        match step:
            case Notice():
                self.invocation.notice(step)
            case Inspected():
                self.begin(step)
            case Progress():
                self.show(step)

    def begin(self, found: Inspected) -> None:
        """Say what the model is."""
        facts = [found.info.name, found.info.architecture, found.info.quantisation] if found.info else []
        size = format_bytes(found.total_bytes) if found.total_bytes is not None else None
        words = ", ".join(fact for fact in (*facts, size) if fact)
        self.invocation.printer.note(printable(f"{found.name}: {words}" if words else found.name))

    def show(self, progress: Progress) -> None:
        """Show how far the work is."""


class LineView(TalkView):
    """For logs: a plain line when the work begins, every few seconds, and when a file is complete."""

    def __init__(
        self, invocation: Invocation, clock: Callable[[], float] = time.monotonic, *, total_bytes: int | None = None
    ) -> None:
        super().__init__(invocation)
        self._clock = clock
        self._tally = Tally(total_bytes)
        self._growing: set[str] = set()
        self._shown_s: float | None = None

    def begin(self, found: Inspected) -> None:
        """A line for the model; counting begins."""
        super().begin(found)
        self._tally = Tally(found.total_bytes)
        self._growing.clear()

    def show(self, progress: Progress) -> None:
        """Print a line if it is time for one."""
        now_s = self._clock()
        self._tally.take(progress, now_s)
        is_complete = progress.total is not None and progress.done >= progress.total
        if is_complete and progress.what not in self._growing:
            # It was here before, or that has been said.
            return
        if not is_complete:
            self._growing.add(progress.what)
            if self._shown_s is not None and now_s - self._shown_s < _LINE_EVERY_S:
                return
        else:
            self._growing.remove(progress.what)
        self._shown_s = now_s
        self.invocation.printer.note(printable(self._line(progress)))

    def _line(self, progress: Progress) -> str:
        if progress.unit == "files":
            return f"{progress.what}: {progress.done}/{progress.total or '?'}"
        whole = self._tally.whole if self._tally.has_several else None
        line = f"{progress.what}: {self._words(self._tally.file(progress.what))}"
        return line if whole is None else f"{line}; {self.invocation.text('in all')}: {self._words(whole)}"

    def _words(self, figures: Figures) -> str:
        words = [format_bytes(figures.done)]
        if figures.total is not None:
            words = [f"{percent(figures)} ({format_bytes(figures.done)} / {format_bytes(figures.total)})"]
        if figures.rate_bytes_per_s:
            words.append(f"{format_bytes(int(figures.rate_bytes_per_s))}/s")
        if figures.remaining_s:
            words.append(self.invocation.text("{time} left", time=format_duration(figures.remaining_s)))
        return ", ".join(words)


def percent(figures: Figures) -> str:
    """``45%``, rounded down: 100% is all."""
    return f"{100 * figures.done // max(1, figures.total or 1)}%"
