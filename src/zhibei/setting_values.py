"""A setting's text as a typed value, and dotted names of settings. Pure; knows no setting."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from zhibei.i18n import N_

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def flatten(table: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Tables in tables as dotted names and their values."""
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        name = prefix + quoted(key)
        found += flatten(value, name + ".") if isinstance(value, dict) else [(name, value)]
    return found


def quoted(key: str) -> str:
    """A key as it stands in a dotted name: in quotation marks where it needs them, as in TOML."""
    return key if _BARE_KEY.fullmatch(key) else f'"{key}"'


def split_name(name: str) -> tuple[str, str]:
    """The first key of a dotted name, and the rest; a key with dots in it is quoted, as in TOML."""
    if name.startswith('"'):
        head, _, rest = name[1:].partition('"')
        return head, rest.removeprefix(".")
    head, _, rest = name.partition(".")
    return head, rest


def convert(hint: Any, value: Any) -> Any:
    """A value of the type that ``hint`` says, from text or from what TOML has.

    Raises:
        ValueError, TypeError, OverflowError, RuntimeError: it is none.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ValueError(value)
        return value
    if origin is tuple:
        items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else list(value)
        if get_origin(args[0]) is tuple:
            return tuple(_weighted(get_args(args[0])[0], item) for item in items)
        return tuple(convert(args[0], item) for item in items)
    if args:
        for option in args:
            if option is not type(None):
                return convert(option, value)
    return _convert_plain(hint, value)


def _convert_plain(hint: Any, value: Any) -> Any:
    if hint is bool:
        if isinstance(value, bool):
            return value
        word = str(value).lower()
        if word not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            raise ValueError(value)
        return word in ("1", "true", "yes", "on")
    if isinstance(value, bool):
        raise ValueError(value)
    if hint is int:
        number = int(value)
        if isinstance(value, float) and number != value:
            raise ValueError(value)
        return number
    if hint is float and not math.isfinite(float(value)):
        raise ValueError(value)
    if hint is Path:
        return Path(str(value)).expanduser().absolute()
    if hint is str and not isinstance(value, (str, int, float)):
        raise ValueError(value)
    return hint(value)


def _weighted(hint: Any, item: Any) -> tuple[Any, float]:
    if isinstance(item, str):
        name, _, weight = item.rpartition("=")
        item = (name, weight) if name and "/" not in weight else (item, 1.0)
    name, weight = item
    return _convert_plain(hint, name), _convert_plain(float, weight)


def describe(hint: Any) -> str:
    """What a setting of a type takes, in words."""
    args = [a for a in get_args(hint) if a is not type(None)]
    if get_origin(hint) is Literal:
        return " | ".join(str(a) for a in args)
    if get_origin(hint) is tuple:
        return N_("list")
    return (
        describe(args[0])
        if args
        else {"int": N_("whole number"), "float": N_("number"), "bool": "true | false"}.get(hint.__name__, N_("text"))
    )
