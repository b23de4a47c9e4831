"""What values options and settings take: ranges and words, and the complaint when a text is none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from zhibei.errors import BadRequest
from zhibei.units import parse_bytes

_LEAST_RATE = 1024


class Kind(Protocol):
    """What values an option takes."""

    @property
    def metavar(self) -> str:
        """How help writes a value."""
        ...

    def read(self, text: str, name: str) -> object:
        """The value of a text; raises BadRequest, which calls the option ``name``."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number in a range."""

    low: int
    high: int
    metavar: str = "N"

    def read(self, text: str, name: str) -> int:
        """The number."""
        try:
            number = int(text)
        except ValueError:
            raise BadRequest("{name} takes a whole number, not {text!r}.", param=name, name=name, text=text) from None
        if not self.low <= number <= self.high:
            raise _out_of_range(name, str(self.low), str(self.high), text)
        return number


@dataclass(frozen=True, slots=True)
class Real:
    """A number in a range."""

    low: float
    high: float
    metavar: str = "X"

    def read(self, text: str, name: str) -> float:
        """The number."""
        try:
            number = float(text)
        except ValueError:
            raise BadRequest("{name} takes a number, not {text!r}.", param=name, name=name, text=text) from None
        if not self.low <= number <= self.high:
            raise _out_of_range(name, f"{self.low:g}", f"{self.high:g}", text)
        return number


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:
        """The words."""
        return "|".join(self.words)

    def read(self, text: str, name: str) -> str:
        """The word."""
        if text.lower() not in self.words:
            raise BadRequest(
                "{name} takes one of {words}, not {text!r}.", param=name, name=name, words=", ".join(self.words), text=text
            )
        return text.lower()


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off; ``--name`` and, where ``off`` names it, its contrary."""

    off: str | None = None
    metavar: str = "on|off"

    def read(self, text: str, name: str) -> bool:
        """The state."""
        if text.lower() not in ("on", "off"):
            raise BadRequest("{name} takes on or off, not {text!r}.", param=name, name=name, text=text)
        return text.lower() == "on"


@dataclass(frozen=True, slots=True)
class Words:
    """Any text that is not empty."""

    metavar: str = "TEXT"

    def read(self, text: str, name: str) -> str:
        """The text."""
        if not text:
            raise BadRequest("{name} cannot be empty.", hint="Give it a value, or leave it out.", param=name, name=name)
        return text


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes a second, kept as text, as the setting has it."""

    metavar: str = "RATE"

    def read(self, text: str, name: str) -> str:
        """The text, if it is a rate."""
        try:
            num_bytes = parse_bytes(text)
        except BadRequest:
            raise BadRequest(
                "{name} takes bytes a second, not {text!r}.",
                hint="Write it like 5M, 800K or 2MiB.",
                param=name,
                name=name,
                text=text,
            ) from None
        if num_bytes < _LEAST_RATE:
            raise BadRequest("{name} cannot be less than {least}.", param=name, name=name, least="1KiB")
        return text


def _out_of_range(name: str, low: str, high: str, text: str) -> BadRequest:
    return BadRequest("{name} must be from {low} to {high}, not {text}.", param=name, name=name, low=low, high=high, text=text)
