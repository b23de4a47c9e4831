"""One line for each request: who asked what, how it ended, how long it took. Owns the lines' two shapes.

A line has the pattern of a route, never the path or query; the model's own name; counts of tokens; the key's id. Never a
prompt, an answer or a key. Control characters are escaped, so that nobody writes lines of their own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from zhibei.events import Finished
from zhibei.server.ask import Ask
from zhibei.server.metrics import is_stopping, outcome_of

LogFormat = Literal["text", "json", "off"]
Write = Callable[[str], None]
_MAX_MESSAGE_CHARS = 8_000


@dataclass(slots=True)
class _Course:
    model: str | None = None
    num_prompt_tokens: int | None = None
    num_generated_tokens: int | None = None
    num_cached_tokens: int | None = None
    first_token_s: float | None = None
    outcome: str | None = None
    error: str | None = None


class RequestLog:
    """Writes a line when a request is answered; a ``server.ask.Watcher``."""

    def __init__(
        self, write: Write, form: LogFormat = "text", now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    ) -> None:
        self._write = write
        self._form = form
        self._now = now
        self._courses: dict[str, _Course] = {}

    def answered(self, ask: Ask, method: str, route: str, status: int, took_s: float) -> None:
        """The end of a request: its line."""
        course = self._courses.pop(ask.id, None) or _Course()
        outcome = course.outcome
        if status == 0 and outcome is None:
            outcome = "cut" if is_stopping(ask.drain) else "left"
        fields: dict[str, object] = {
            "time": _moment(self._now()),
            "id": ask.id,
            "method": method[:16],
            "route": route or None,
            "status": status or None,
            "seconds": round(took_s, 4),
            "model": course.model,
            "prompt_tokens": course.num_prompt_tokens,
            "generated_tokens": course.num_generated_tokens,
            "cached_tokens": course.num_cached_tokens or None,
            "first_token_seconds": None if course.first_token_s is None else round(course.first_token_s, 4),
            "outcome": outcome,
            "error": course.error,
            "key": ask.caller.id or None,
        }
        told = {name: value for name, value in fields.items() if value is not None}
        self._write(json.dumps(told) if self._form == "json" else _text(told))

    def began(self, ask: Ask, model: str) -> None:
        """Nothing worth a word."""

    def admitted(self, ask: Ask, model: str, name: str, waited_s: float) -> None:
        """A model is at hand."""
        self._course(ask).model = name

    def first_token(self, ask: Ask, model: str, after_s: float) -> None:
        """The first piece of an answer."""
        course = self._course(ask)
        course.first_token_s = course.first_token_s or after_s

    def finished(self, ask: Ask, model: str, end: Finished, took_s: float) -> None:
        """An answer is complete; a request may have several."""
        course, usage = self._course(ask), end.usage
        course.num_prompt_tokens = (course.num_prompt_tokens or 0) + usage.num_prompt_tokens
        course.num_generated_tokens = (course.num_generated_tokens or 0) + usage.num_generated_tokens
        course.num_cached_tokens = (course.num_cached_tokens or 0) + usage.num_cached_tokens

    def failed(self, ask: Ask, model: str, error: BaseException) -> None:
        """It ended otherwise."""
        course = self._course(ask)
        course.outcome = outcome_of(ask, error)
        if isinstance(error, Exception):
            course.error = type(error).__name__

    def _course(self, ask: Ask) -> _Course:
        return self._courses.setdefault(ask.id, _Course())


@contextmanager
def program_log(write: Write, form: LogFormat) -> Iterator[None]:
    """While the block lasts, what the program itself has to say (warnings and worse) is written in the same form."""
    logger, handler = logging.getLogger("zhibei"), _Lines(write, form)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class _Lines(logging.Handler):
    def __init__(self, write: Write, form: LogFormat) -> None:
        super().__init__(logging.WARNING)
        self._line = write
        self._form = form

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()[:_MAX_MESSAGE_CHARS]
        level = record.levelname.lower()
        time = _moment(datetime.fromtimestamp(record.created, timezone.utc))
        if self._form == "json":
            self._line(json.dumps({"time": time, "level": level, "logger": record.name, "message": message}))
        else:
            # Tracebacks of ours have lines; each is marked as one that belongs to the first.
            self._line("\n    ".join(printable(line) for line in f"{time} {level} {message}".splitlines()))


def printable(text: str) -> str:
    """The text without anything that moves a cursor or begins a line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _moment(time: datetime) -> str:
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_PLACED = ("time", "status", "method", "route", "seconds")


def _text(told: dict[str, object]) -> str:
    """``TIME STATUS METHOD ROUTE SECONDS name=value …``."""
    head = f"{told['time']} {told.get('status', '-')} {told['method']} {told.get('route', '-')} {told['seconds']}s"
    rest = [f"{name}={value}" for name, value in told.items() if name not in _PLACED]
    return printable(" ".join((head, *rest)))
