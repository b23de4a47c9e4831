"""How deep and how large a parsed JSON value is, and whether it can be JSON at all. Pure; does not recurse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_NOT_JSON = "a value in it is not JSON, or a number too large for it"


def find_excess(value: object, *, max_depth: int, max_size_bytes: int) -> str | None:
    """What is too much about a value, in English; None if nothing is.

    Args:
        value: as parsed from JSON; other objects, circles, infinite numbers and lone surrogates are found too.
        max_depth: of objects and arrays in each other.
        max_size_bytes: as compact JSON text, roughly.
    """
    size = 0
    waiting: list[tuple[object, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        members = _members(item)
        own = len(members) + 2 if members is not None else _size_of(item)
        if own is None:
            return _NOT_JSON
        size += own
        if size > max_size_bytes:
            return f"it is larger than {max_size_bytes // 1024} KiB"
        if members is not None:
            if depth >= max_depth:
                return f"it is nested more than {max_depth} deep"
            waiting += [(member, depth + 1) for member in members]
    return None


def _members(item: object) -> Sequence[object] | None:
    """Names and values of an object, items of an array; None for anything else."""
    if isinstance(item, Mapping):
        return [*(name if isinstance(name, str) else ... for name in item), *item.values()]
    return item if isinstance(item, (list, tuple)) else None


def _size_of(item: object) -> int | None:
    """Bytes of a text, number, truth value or null; None if it is none of these."""
    if item is None or isinstance(item, bool):
        return 4
    if isinstance(item, str):
        try:
            return len(item.encode()) + 2
        except UnicodeEncodeError:
            return None
    if isinstance(item, int):
        return 1 + item.bit_length() // 3 if item.bit_length() <= 64 else None
    return 8 if isinstance(item, float) and math.isfinite(item) else None
