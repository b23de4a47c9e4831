"""Which ``pattern`` of a JSON schema an engine can be held to. Pure; knows nothing of schemas.

llama.cpp turns a pattern into a grammar with a scanner of its own (``_pattern_to_rule`` in
common/json-schema-to-grammar.cpp). What that scanner does not know, it answers with "any string"; and a few things it
knows make it hang, break the JSON, or mean something else. Only what it keeps exactly passes here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NoReturn

MAX_PATTERN_LENGTH = 2048
MAX_PATTERN_DEPTH = 32
MAX_OPTIONAL_ITEMS = 32
MAX_REPETITIONS = 2000
MAX_PATTERN_COST = 6000

_ESCAPED_LITERALS = frozenset("^$.[](){}|*+?-")
_COUNTS = re.compile(r"\{([0-9]{1,9})(?:(,)([0-9]{1,9})?)?\}", re.ASCII)
_HEX = {"x": 2, "u": 4}
_BREAK_JSON = frozenset({*range(0x20), 0x22, 0x5C})
_CLASS_HINTS = {
    "d": "Write [0-9].",
    "w": "Write [A-Za-z0-9_].",
    "s": "Write a space in place of it.",
    "/": "Write / without a backslash.",
}


@dataclass(frozen=True, slots=True)
class PatternProblem:
    """Why a pattern cannot be used, in English.

    ``ignored``: llama.cpp would accept any string in its place. Else the pattern is wrong, or would do harm.
    """

    problem: str
    hint: str | None = None
    ignored: bool = False


def check_pattern(pattern: str) -> PatternProblem | None:
    """What is wrong with a regular expression; None if an engine keeps exactly to it."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        return PatternProblem("the pattern is longer than 2048 characters")
    anchored = len(pattern) >= 2 and pattern.startswith("^") and pattern.endswith("$")
    body = pattern[1:-1] if anchored else pattern.removeprefix("^").removesuffix("$")
    try:
        _Scanner(body).scan()
    except _Found as found:
        if anchored or not found.problem.ignored:
            return PatternProblem(found.problem.problem, found.problem.hint, found.problem.ignored or not anchored)
    if not anchored:
        hint = "Describe the whole text, from ^ to $. Where anything may stand around it, write .* there."
        return PatternProblem("the pattern does not begin with ^ and end with $", hint, ignored=True)
    return None


class _Found(Exception):
    """Leaves the scanner with the first problem."""

    def __init__(self, problem: PatternProblem) -> None:
        super().__init__(problem.problem)
        self.problem = problem


def _wrong(problem: str, hint: str | None = None) -> NoReturn:
    raise _Found(PatternProblem(problem, hint))


def _ignored(problem: str, hint: str | None = None) -> NoReturn:
    raise _Found(PatternProblem(problem, hint, ignored=True))


@dataclass(slots=True)
class _Item:
    """What a quantifier would repeat: a character, a class or a group.

    ``nullable``: it can match nothing. ``cost``: how many repetitions it stands for, multiplied out.
    """

    kind: Literal["plain", "escaped", "wide", "class", "group", "repeated"]
    nullable: bool = False
    cost: int = 1
    alone: bool = True


@dataclass(slots=True)
class _Group:
    """An open group. ``nullable`` is of the alternative being read; ``any_nullable`` of those before it."""

    nullable: bool = True
    any_nullable: bool = False
    cost: int = 0
    last: _Item | None = None


class _Scanner:
    """Reads the text between ^ and $ once, from left to right, with a stack of its own."""

    def __init__(self, body: str) -> None:
        self._body = body
        self._at = 0
        self._open = [_Group()]
        self._num_optional = 0

    def scan(self) -> None:
        while self._at < len(self._body):
            self._step(self._body[self._at])
        if len(self._open) > 1:
            _wrong("a parenthesis in the pattern is never closed")
        self._close_alternative(self._open[0])
        if self._open[0].cost > MAX_PATTERN_COST:
            _wrong("the repetitions of the pattern add up to more than 6000")

    def _step(self, char: str) -> None:
        if char == "(":
            self._open_group()
        elif char == ")":
            self._close_group()
        elif char == "|":
            self._close_alternative(self._open[-1])
            self._at += 1
        elif char in "*+?{":
            self._quantify(char)
        elif char in "^$":
            _ignored("^ or $ stands inside the pattern", "Write \\^ or \\$ for the character itself.")
        elif char in "]}":
            _ignored(f"a {char} stands alone in the pattern", "Put a backslash before it.")
        elif char == "[":
            self._read_class()
        elif char == "\\":
            self._read_escape()
        else:
            self._read_plain(char)

    def _add(self, item: _Item) -> None:
        group = self._open[-1]
        if item.kind in ("plain", "escaped", "wide") and group.last is not None:
            item.alone = group.last.kind not in ("plain", "escaped", "wide")
        self._settle(group)
        group.last = item

    @staticmethod
    def _settle(group: _Group) -> None:
        """The last item will not be repeated any more."""
        if group.last is not None:
            group.nullable = group.nullable and group.last.nullable
            group.cost += group.last.cost
            group.last = None

    def _close_alternative(self, group: _Group) -> None:
        self._settle(group)
        group.any_nullable = group.any_nullable or group.nullable
        group.nullable = True

    def _open_group(self) -> None:
        self._at += 1
        if self._body.startswith("?:", self._at):
            self._at += 2
        elif self._body.startswith("?", self._at):
            _ignored("the pattern looks ahead, looks behind or names a group", "Use ( ) or (?: ) only.")
        if len(self._open) > MAX_PATTERN_DEPTH:
            _wrong("the pattern nests parentheses more than 32 deep")
        self._open.append(_Group())

    def _close_group(self) -> None:
        self._at += 1
        if len(self._open) == 1:
            _wrong("a parenthesis in the pattern is closed but was never opened")
        group = self._open.pop()
        self._close_alternative(group)
        self._add(_Item("group", nullable=group.any_nullable, cost=max(group.cost, 1)))

    def _read_plain(self, char: str) -> None:
        if char == ".":
            self._check_class([], negated=True)
            self._add(_Item("class"))
        else:
            self._check_character(ord(char))
            self._add(_Item("plain" if char.isascii() else "wide"))
        self._at += 1

    @staticmethod
    def _check_character(code: int) -> None:
        """What must be escaped inside a JSON string would be written bare."""
        if code in _BREAK_JSON:
            _wrong(
                'the pattern asks for ", a backslash or a control character, which break the JSON',
                "Leave such characters out of the pattern.",
            )
        if 0xD800 <= code <= 0xDFFF:
            _wrong("the pattern holds half a character (a surrogate)")

    def _read_escape(self) -> None:
        if self._at + 1 >= len(self._body):
            _wrong("the pattern ends with a backslash")
        char = self._body[self._at + 1]
        if char in _ESCAPED_LITERALS:
            self._at += 2
        else:
            self._check_character(self._read_code(char))
        self._add(_Item("escaped"))

    def _read_code(self, char: str) -> int:
        """The character that a ``\\x41`` or ``\\u0041`` stands for, or a ``\\n``; moves on."""
        if char in 'nrt"\\':
            self._at += 2
            return {"n": 10, "r": 13, "t": 9}.get(char, ord(char))
        digits = self._body[self._at + 2 : self._at + 2 + _HEX.get(char, 0)]
        if not digits or len(digits) != _HEX[char] or not re.fullmatch("[0-9A-Fa-f]+", digits, re.ASCII):
            hint = _CLASS_HINTS.get(char, "Write the characters themselves, or a class like [0-9].")
            _ignored("the pattern uses a backslash that engines do not know", hint)
        self._at += 2 + len(digits)
        return int(digits, 16)

    def _read_class(self) -> None:
        self._at += 1
        negated = self._body.startswith("^", self._at)
        self._at += negated
        if self._body.startswith("]", self._at):
            _wrong("a class in the pattern is empty", "Write [\\]] for the bracket itself.")
        ranges = []
        while self._at < len(self._body) and self._body[self._at] != "]":
            ranges.append(self._read_range())
        if self._at >= len(self._body):
            _wrong("a class in the pattern is never closed")
        self._at += 1
        self._check_class(ranges, negated=negated)
        self._add(_Item("class"))

    def _read_range(self) -> tuple[int, int]:
        low = high = self._read_class_character()
        bound = self._body[self._at + 1 : self._at + 2]
        if self._body.startswith("-", self._at) and bound not in ("", "]"):
            self._at += 1
            high = self._read_class_character()
        if high < low:
            _wrong("a range in a class of the pattern runs backwards")
        return low, high

    @staticmethod
    def _check_class(ranges: list[tuple[int, int]], *, negated: bool) -> None:
        """The engine writes what a class allows straight into the JSON string."""
        listed = {code for code in _BREAK_JSON if any(low <= code <= high for low, high in ranges)}
        if listed != _BREAK_JSON if negated else listed:
            _ignored(
                'a . or a class in the pattern allows ", a backslash or control characters, which break the JSON',
                r'Exclude them: [^"\\\x00-\x1f] in place of a dot.',
            )

    def _read_class_character(self) -> int:
        char = self._body[self._at]
        if char == "[" or self._body.startswith(("&&", "--", "~~"), self._at):
            _ignored("a class in the pattern holds [ && -- or ~~", "Put a backslash before such characters.")
        if char != "\\":
            self._at += 1
            return ord(char)
        escaped = self._body[self._at + 1 : self._at + 2]
        if not escaped:
            _wrong("the pattern ends with a backslash")
        if escaped in "[]-":
            self._at += 2
            return ord(escaped)
        return self._read_code(escaped)

    def _quantify(self, char: str) -> None:
        item = self._open[-1].last
        if item is None:
            _wrong("the pattern repeats nothing")
        if item.kind == "repeated":
            if char == "?":
                _ignored("the pattern asks for as little as possible (a ? after * + ? or })", "Leave out the second sign.")
            _wrong("the pattern repeats a repetition", "Use one of * + ? {n,m} at a time.")
        low, high = self._read_counts(char)
        if low > MAX_REPETITIONS or (high is not None and not low <= high <= MAX_REPETITIONS):
            _wrong("a repetition in the pattern is reversed or larger than 2000")
        self._check_repeatable(item, high)
        if low == 0:
            self._num_optional += 1
            if self._num_optional > MAX_OPTIONAL_ITEMS:
                _wrong("the pattern has more than 32 optional parts")
        cost = item.cost * max(low, high or 1, 1)
        if cost > MAX_REPETITIONS:
            _wrong("the repetitions of the pattern multiply to more than 2000")
        self._open[-1].last = _Item("repeated", nullable=item.nullable or low == 0, cost=cost)

    @staticmethod
    def _check_repeatable(item: _Item, high: int | None) -> None:
        if item.nullable and high != 1:
            _wrong("the pattern repeats something that may be empty", "Repeat something that has at least one character.")
        if item.kind == "wide":
            _wrong("the pattern repeats a character outside ASCII", "Put it in brackets: [é]+ in place of é+.")
        if item.kind == "escaped" and not item.alone:
            _wrong("the pattern repeats an escaped character after others", "Put it in brackets: a[.]+ in place of a\\.+")

    def _read_counts(self, char: str) -> tuple[int, int | None]:
        if char != "{":
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        match = _COUNTS.match(self._body, self._at)
        if match is None:
            _ignored("a { in the pattern does not begin a count like {2} or {2,5}", "Write \\{ for the character itself.")
        self._at = match.end()
        low = int(match[1])
        if match[2] is None:
            return low, low
        return low, None if match[3] is None else int(match[3])
