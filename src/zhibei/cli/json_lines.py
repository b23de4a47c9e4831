"""What ``pull --json`` prints while it goes: one JSON object a line. Owns the names of events and of their fields."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from zhibei.cli import documents
from zhibei.cli.invocation import Invocation
from zhibei.cli.pace import Figures, Tally
from zhibei.cli.progress import Step, View
from zhibei.events import Inspected, Notice, Progress
from zhibei.models import StoredModel

_PROGRESS_EVERY_S = 0.25

_FIGURES = "done, total, rate_bytes_per_s, remaining_s"
# Event → (fields beside "event" and "reference", meaning). docs/reference/cli.md is made from it.
EVENTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "inspected": (
        ("name", "total_bytes", "info"),
        "What the model is, before its bytes have come. `info` is what its header says, as `show --json` has it.",
    ),
    "progress": (
        ("file", "unit", "done", "total", "rate_bytes_per_s", "remaining_s", "whole"),
        "How far one file is, at most four times a second. `unit` is `bytes` or `files`; `whole` has "
        f"{_FIGURES} of all files together. What is not known is null; what was there before does not count as speed.",
    ),
    "notice": (("message",), "Something a person should know; work goes on."),
    "pulled": (
        ("name", "size_bytes", "files", "…"),
        "The model is in the store, complete and verified. Its fields are those of `show --json`. The last line of a reference.",
    ),
}


class JsonView:
    """Prints the events of one pull."""

    def __init__(self, invocation: Invocation, reference: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._invocation = invocation
        self._reference = reference
        self._clock = clock
        self._tally = Tally()
        self._waiting: Progress | None = None
        self._shown_s: float | None = None

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()

    def take(self, step: Step) -> None:
        """Print it, or keep it back until it is time for the next one."""
        if isinstance(step, Progress):
            now_s = self._clock()
            self._tally.take(step, now_s)
            self._waiting = step
            if self._shown_s is None or now_s - self._shown_s >= _PROGRESS_EVERY_S:
                self._shown_s = now_s
                self._flush()
            return
        self._flush()
        if isinstance(step, Notice):
            self._print("notice", message=self._invocation.translator.notice(step))
        elif isinstance(step, Inspected):
            self._tally = Tally(step.total_bytes)
            self._print("inspected", name=step.name, total_bytes=step.total_bytes, info=documents.info(step.info))

    def pulled(self, stored: StoredModel) -> None:
        """Print the end."""
        self._flush()
        self._print("pulled", **documents.model_details(stored))

    def _flush(self) -> None:
        """Print the progress that was kept back."""
        progress, self._waiting = self._waiting, None
        if progress is None:
            return
        whole: Figures | None = None
        own = Figures(progress.done, progress.total)
        if progress.unit == "bytes":
            own, whole = self._tally.file(progress.what), self._tally.whole
        self._print(
            "progress",
            file=progress.what,
            unit=progress.unit,
            **_figures(own),
            whole=None if whole is None else _figures(whole),
        )

    def _print(self, event: str, **fields: Any) -> None:
        document = {"event": event, "reference": self._reference, **fields}
        self._invocation.printer.data(json.dumps(document, ensure_ascii=False))


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "done": figures.done,
        "total": figures.total,
        "rate_bytes_per_s": _rounded(figures.rate_bytes_per_s),
        "remaining_s": _rounded(figures.remaining_s),
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)
