"""The text form of a recipe for a model: FROM, PARAMETER, TEMPLATE, SYSTEM, ADAPTER, MESSAGE, LICENSE. Pure.

Read a line at a time; a value in double quotes ends with the line, one in three of them where three more come. Names of
instructions are taken in any case. What is wrong is said with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from zhibei.errors import BadRequest
from zhibei.i18n import Phrase
from zhibei.options import LoadOptions, Sampling

MAX_CHARS = 1_048_576
MAX_LINES = 50_000
MAX_STOPS = 64
_ROLES = ("system", "user", "assistant")
_LINE = re.compile(r"\s*([A-Za-z]+)(?:[ \t]+(.*))?", re.DOTALL)
_PARAMETER = re.compile(r"(\S+)\s+(.*)", re.DOTALL)
_TRUTH = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
_INT32 = 2**31 - 1
_SAMPLING: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0.0, 100.0),
    "top_k": (int, 0, _INT32),
    "top_p": (float, 0.0, 1.0),
    "min_p": (float, 0.0, 1.0),
    "typical_p": (float, 0.0, 1.0),
    "repeat_penalty": (float, 0.01, 100.0),
    "repeat_last_n": (int, -1, _INT32),
    "presence_penalty": (float, -2.0, 2.0),
    "frequency_penalty": (float, -2.0, 2.0),
    "seed": (int, -1, 2**32 - 1),
    "mirostat": (int, 0, 2),
    "mirostat_tau": (float, 0.0, 100.0),
    "mirostat_eta": (float, 0.0, 1.0),
}
# name here → (field of LoadOptions, kind, least, most)
_LOAD: dict[str, tuple[str, type, float, float]] = {
    "num_ctx": ("ctx_size", int, 1, _INT32),
    "num_batch": ("batch_size", int, 1, 1_048_576),
    "num_gpu": ("gpu_layers", int, -1, 100_000),
    "main_gpu": ("main_gpu", int, 0, 255),
    "num_thread": ("threads", int, 1, 4096),
    "use_mmap": ("mmap", bool, 0, 1),
    "use_mlock": ("mlock", bool, 0, 1),
}
IDLE = ("num_keep", "tfs_z", "penalize_newline", "numa", "low_vram", "f16_kv", "logits_all", "vocab_only", "draft_num_predict")
"""Parameters that Ollama knows and that have no meaning here."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What PARAMETER lines say. ``ignored``: those that have no meaning here. ``max_tokens`` 0: as many as there is room for."""

    sampling: Sampling = Sampling()
    load: LoadOptions = LoadOptions()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Modelfile:
    """A recipe. ``messages`` are (role, text) with which every conversation begins; ``licence`` may have several texts."""

    base: str | None = None
    adapters: tuple[str, ...] = ()
    parameters: Parameters = Parameters()
    template: str | None = None
    system: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    licence: tuple[str, ...] = ()


def parse(text: str) -> Modelfile:
    """Read a recipe.

    Raises:
        BadRequest: it cannot be read; the line is in the words.
    """
    if len(text) > MAX_CHARS or text.count("\n") > MAX_LINES:
        raise BadRequest("The Modelfile is too long.", param="modelfile")
    reading = _Reading(text.replace("\r\n", "\n").split("\n"))
    while (step := reading.next()) is not None:
        reading.take(*step)
    return reading.done()


def parameters_from(values: dict[str, Any]) -> Parameters:
    """The same from JSON: a value per name, and for ``stop`` a list of them.

    Raises:
        BadRequest: one is unknown or out of range.
    """
    pairs: list[tuple[str, object, str]] = []
    for name, value in values.items():
        where = Phrase("parameters.{name}", name=name[:40])
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                pairs.append((name.lower(), item, where))
    return _collect(pairs)


def parameter_lines(found: Parameters) -> tuple[tuple[str, str], ...]:
    """(name, value) of what is set, as PARAMETER lines have them; texts in quotes."""
    lines: list[tuple[str, str]] = []
    for name, (field, *_) in _LOAD.items():
        value = getattr(found.load, field)
        if value is not None:
            lines.append((name, _plain(value)))
    if found.max_tokens is not None:
        lines.append(("num_predict", str(found.max_tokens or -1)))
    for item in fields(Sampling):
        value = getattr(found.sampling, item.name)
        if item.name in _SAMPLING and value is not None:
            lines.append((item.name, _plain(value)))
    lines += [("stop", quoted(stop)) for stop in found.stop]
    return tuple(lines)


def show(recipe: Modelfile) -> str:
    """The text that ``parse`` reads as this recipe."""
    lines = [f"FROM {recipe.base}"]
    lines += [f"ADAPTER {adapter}" for adapter in recipe.adapters]
    if recipe.template is not None:
        lines.append(f"TEMPLATE {quoted(recipe.template)}")
    if recipe.system is not None:
        lines.append(f"SYSTEM {quoted(recipe.system)}")
    lines += [f"PARAMETER {name} {value}" for name, value in parameter_lines(recipe.parameters)]
    lines += [f"MESSAGE {role} {quoted(text)}" for role, text in recipe.messages]
    lines += [f"LICENSE {quoted(text)}" for text in recipe.licence]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A value as ``parse`` takes it: in quotes, three of them where one would not do."""
    if '"' not in text and "\n" not in text:
        return f'"{text}"'
    if '"""' in text:
        # Three quotes within would end it too early; a line as it stands needs none around it.
        return text if "\n" not in text and text == text.strip() and not text.startswith('"') else f'"""{text}"""'
    return f'"""{text}"""'


_INSTRUCTIONS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE")


class _Reading:
    """One recipe, as far as it has been read."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._at = 0
        self._number = 0
        self._once: dict[str, str] = {}
        self._many: dict[str, list[str]] = {"ADAPTER": [], "LICENSE": []}
        self._messages: list[tuple[str, str]] = []
        self._parameters: list[tuple[str, object, str]] = []

    def next(self) -> tuple[str, str, str] | None:
        """The next instruction, its name where it has one, and its value; None at the end."""
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            if line.strip() and not line.lstrip().startswith("#"):
                self._number = self._at
                return self._read(line)
        return None

    def take(self, word: str, head: str, value: str) -> None:
        """Keep an instruction."""
        if word == "PARAMETER":
            self._parameters.append((head.lower(), value, _where(self._number)))
        elif word == "MESSAGE":
            if head.lower() not in _ROLES:
                raise _bad(self._number, Phrase("the role of a message is system, user or assistant"))
            self._messages.append((head.lower(), value))
        elif word in self._many:
            self._many[word].append(value)
        elif word == "FROM" and word in self._once:
            raise _bad(self._number, Phrase("there is more than one FROM"))
        else:
            self._once[word] = value

    def done(self) -> Modelfile:
        """The whole."""
        if "FROM" not in self._once:
            raise BadRequest("The Modelfile has no FROM line.", param="modelfile")
        return Modelfile(
            self._once["FROM"],
            tuple(self._many["ADAPTER"]),
            _collect(self._parameters),
            self._once.get("TEMPLATE"),
            self._once.get("SYSTEM"),
            tuple(self._messages),
            tuple(self._many["LICENSE"]),
        )

    def _read(self, line: str) -> tuple[str, str, str]:
        match = _LINE.fullmatch(line)
        word = match[1].upper() if match is not None else ""
        if match is None or word not in _INSTRUCTIONS:
            raise _bad(self._number, Phrase("{word!r} is not an instruction", word=line.strip()[:40]))
        head, rest = "", match[2] or ""
        if word in ("PARAMETER", "MESSAGE"):
            pair = _PARAMETER.fullmatch(rest.strip())
            if pair is None:
                raise _bad(self._number, Phrase("{word} needs a name and a value", word=word))
            head, rest = pair[1], pair[2]
        value = self._value(rest)
        if not value and word != "SYSTEM":
            raise _bad(self._number, Phrase("{word} has no value", word=word))
        return word, head, value

    def _value(self, rest: str) -> str:
        text = rest.strip()
        if text.startswith('"""'):
            return self._long_value(rest.lstrip()[3:])
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text

    def _long_value(self, text: str) -> str:
        pieces = [text]
        while '"""' not in pieces[-1]:
            if self._at >= len(self._lines):
                raise _bad(self._number, Phrase("the three quotes are never closed"))
            pieces.append(self._lines[self._at])
            self._at += 1
        value, _, behind = "\n".join(pieces).rpartition('"""')
        if behind.strip():
            raise _bad(self._number, Phrase("there is something behind the three quotes"))
        return value


def _collect(pairs: Iterable[tuple[str, object, str]]) -> Parameters:
    sampling: dict[str, Any] = {}
    load: dict[str, Any] = {}
    stops: list[str] = []
    ignored: list[str] = []
    max_tokens: int | None = None
    for name, value, where in pairs:
        if name == "stop":
            if not isinstance(value, str) or not 0 < len(value) <= 1024 or "\0" in value:
                raise _wrong(where, Phrase("a stop text has 1 to 1024 characters"))
            stops.append(value)
        elif name == "num_predict":
            max_tokens = max(0, int(_number(value, int, -2, _INT32, where)))
        elif name in _SAMPLING:
            found = _number(value, *_SAMPLING[name], where)
            sampling[name] = None if name == "seed" and found < 0 else found
        elif name in _LOAD:
            field, kind, least, most = _LOAD[name]
            chosen = _number(value, kind, least, most, where)
            load[field] = None if field == "gpu_layers" and chosen < 0 else chosen
        elif name in IDLE:
            ignored.append(name)
        else:
            raise _wrong(where, Phrase("there is no parameter {name!r}", name=name[:40]))
    if len(stops) > MAX_STOPS:
        raise BadRequest("There are more than {most} stop texts.", param="parameters", most=MAX_STOPS)
    unique = tuple(dict.fromkeys(stops))
    return Parameters(Sampling(**sampling), LoadOptions(**load), unique, max_tokens, tuple(dict.fromkeys(ignored)))


def _number(value: object, kind: type, least: float, most: float, where: str) -> Any:
    problem = Phrase("{value!r} is not a value from {least} to {most}", value=str(value)[:40], least=least, most=most)
    if kind is bool:
        found = value if isinstance(value, bool) else _TRUTH.get(str(value).lower())
        if found is None:
            raise _wrong(where, Phrase("{value!r} is neither true nor false", value=str(value)[:40]))
        return found
    if isinstance(value, bool):
        raise _wrong(where, problem)
    try:
        number = float(value) if isinstance(value, (int, float, str)) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not least <= number <= most or (kind is int and number != int(number)):
        raise _wrong(where, problem)
    return int(number) if kind is int else number


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _where(number: int) -> str:
    return Phrase("line {number}", number=number)


def _bad(number: int, problem: str) -> BadRequest:
    return _wrong(_where(number), problem)


def _wrong(where: str, problem: str) -> BadRequest:
    return BadRequest("The Modelfile cannot be read ({where}): {problem}.", param="modelfile", where=where, problem=problem)
