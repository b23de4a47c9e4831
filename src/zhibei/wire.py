"""Values to JSON and back, for the native dialect: the server writes with this, the remote client reads with it.

Owns the shape of models, residents, pull events and errors on the wire. A reader skips keys that it does not know and
takes the default for those that are missing, so that a client and a server of neighbouring versions understand each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from zhibei import errors
from zhibei.errors import SourceError, ZhibeiError
from zhibei.events import Checked, CheckEvent, Inspected, Notice, Progress, Pulled, PullEvent

T = TypeVar("T")

NATIVE_PREFIX = "/zhibei/v1"
# A client that sends this header gets errors with what it needs to raise the same class again.
ERROR_DETAIL_HEADER = "x-zhibei-error-detail"
ERROR_DETAIL_KEY = "zhibei"

_PULL_EVENTS: dict[str, type[PullEvent | CheckEvent]] = {
    "inspected": Inspected,
    "progress": Progress,
    "notice": Notice,
    "pulled": Pulled,
    "checked": Checked,
}
_PULL_NAMES = {cls: name for name, cls in _PULL_EVENTS.items()}
_ERRORS: dict[str, type[ZhibeiError]] = {
    name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, ZhibeiError)
}


def encode(value: Any) -> Any:
    """A vocabulary value as what JSON has: dataclasses become objects, tuples lists, paths and times text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, date):
        return value.isoformat()
    return _plain(value)


def decode(kind: type[T], data: Any) -> T:
    """The value that ``encode`` wrote.

    Raises:
        SourceError: the data has another shape.
    """
    try:
        value: T = _decode(kind, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(
            "The server's answer makes no sense: it is not a {kind}.",
            hint="Is it a Zhibei server, and of the same version as this program?",
            kind=kind.__name__,
        ) from error
    return value


def encode_pull_event(event: PullEvent | CheckEvent) -> dict[str, Any]:
    """One line of a pull or check: the event's fields, and its kind under ``event``."""
    return {"event": _PULL_NAMES[type(event)], **encode(event)}


def decode_pull_event(data: Any) -> PullEvent | CheckEvent:
    """The event that ``encode_pull_event`` wrote.

    Raises:
        SourceError: the data has another shape.
    """
    kind = _PULL_EVENTS.get(str(data.get("event"))) if isinstance(data, dict) else None
    if kind is None:
        raise SourceError("The server's answer makes no sense: it is not an event of a pull.")
    return decode(kind, data)


def encode_error(error: ZhibeiError) -> dict[str, Any]:
    """Class, template, hint and values of an error, so that the other side can raise and translate it."""
    own = {key: encode(value) for key, value in vars(error).items() if key not in ("message", "hint", "values")}
    cls = next(each.__name__ for each in type(error).__mro__ if each.__name__ in _ERRORS)
    return {
        "class": cls,
        "message": error.message,
        "hint": error.hint,
        "values": {key: _plain(value) for key, value in error.values.items()},
        "attributes": own,
    }


def decode_error(data: Any) -> ZhibeiError:
    """The error that ``encode_error`` wrote; of the base class where this version does not know the named one.

    Raises:
        SourceError: the data has another shape.
    """
    try:
        cls = _ERRORS.get(data["class"], ZhibeiError)
        error = cls.__new__(cls)
        hint = data.get("hint")
        values = dict(data.get("values") or {})
        ZhibeiError.__init__(error, str(data["message"]), hint=None if hint is None else str(hint), **values)
        for key, value in dict(data.get("attributes") or {}).items():
            if key not in ("message", "hint", "values"):
                setattr(error, key, tuple(value) if isinstance(value, list) else value)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
        raise SourceError("The server's answer makes no sense: it is not an error of Zhibei.") from problem
    return error


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


@lru_cache(maxsize=64)
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, data: Any) -> Any:
    if is_dataclass(kind):
        return _decode_dataclass(kind, data)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if data is None:
            return None
        return _decode(next(arg for arg in args if arg is not type(None)), data)
    if origin is tuple:
        if not isinstance(data, list):
            raise TypeError(data)
        kinds = (args[0],) * len(data) if args[-1] is Ellipsis else args
        return tuple(_decode(each, item) for each, item in zip(kinds, data, strict=True))
    if origin is Mapping:
        return {str(key): _decode(args[1], item) for key, item in data.items()}
    if origin is Literal or kind is Any or kind is object:
        return data
    return _decode_plain(kind, data)


def _decode_plain(kind: Any, data: Any) -> Any:
    reader = _READERS.get(kind)
    if reader is not None:
        return reader(data)
    if kind is float and type(data) is int:
        return float(data)
    if type(data) is not kind:
        raise TypeError(data)
    return data


_READERS: dict[Any, Callable[[Any], Any]] = {datetime: datetime.fromisoformat, date: date.fromisoformat, Path: Path}


def _decode_dataclass(kind: Any, data: Any) -> Any:
    hints = _hints(kind)
    found: dict[str, Any] = {}
    for f in fields(kind):
        if f.name in data:
            found[f.name] = _decode(hints[f.name], data[f.name])
        elif f.default is MISSING and f.default_factory is MISSING:
            raise KeyError(f.name)
    return kind(**found)
