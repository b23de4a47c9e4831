"""JSON to frozen dataclasses, strictly: what a manifest says is checked against the types it is to become.

Covers what ``zhibei.models`` uses: text, numbers, truth values, literals, tuples, options, dataclasses. Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Hashable
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from zhibei.i18n import Phrase

_T = TypeVar("_T")
_MAX_INT = 2**63 - 1


class BadShape(Exception):
    """The JSON is not what it should be; ``phrase`` names the place."""

    def __init__(self, template: str, /, **values: object) -> None:
        self.phrase = Phrase(template, **values)
        super().__init__(self.phrase)


def decode(kind: type[_T], value: object, where: str) -> _T:
    """A ``kind`` from a JSON object. Fields that a later version added are passed over; missing ones take their default.

    Raises:
        BadShape: a field is missing without a default, or of another type.
    """
    if not isinstance(value, dict):
        raise BadShape("{where} is not an object", where=where)
    hints = _hints(cast("Hashable", kind))
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in value:
            found[field.name] = _decode(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise BadShape("{where}.{name} is missing", where=where, name=field.name)
    return kind(**found)


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    """The types of a class's fields; finding them out takes longer than all the rest."""
    return get_type_hints(kind)


def encode(value: object) -> Any:
    """The JSON of a dataclass or plain value, defaults left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: encode(mine)
            for field in dataclasses.fields(value)
            if (mine := getattr(value, field.name)) != field.default
        }
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return value


def _decode(hint: Any, value: object, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (option,) = (arg for arg in args if arg is not type(None))
        return _decode(option, value, where)
    if origin is Literal:
        if value not in args:
            raise BadShape("{where} cannot be {value!r}", where=where, value=str(value)[:40])
        return value
    if origin is tuple:
        return _decode_tuple(args, value, where)
    if dataclasses.is_dataclass(hint):
        return decode(cast("type[Any]", hint), value, where)
    return _decode_plain(hint, value, where)


def _decode_tuple(args: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise BadShape("{where} is not a list", where=where)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_decode(args[0], item, where) for item in value)
    if len(value) != len(args):
        raise BadShape("{where} has {found} items instead of {wanted}", where=where, found=len(value), wanted=len(args))
    return tuple(_decode(arg, item, where) for arg, item in zip(args, value, strict=True))


def _decode_plain(hint: Any, value: object, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or hint not in (str, int, float, bool):
        raise BadShape("{where} is not of type {type}", where=where, type=getattr(hint, "__name__", hint))
    if isinstance(value, int) and abs(value) > _MAX_INT:
        raise BadShape("{where} is too large", where=where)
    if isinstance(value, float) and not math.isfinite(value):
        raise BadShape("{where} is not a number", where=where)
    return value
