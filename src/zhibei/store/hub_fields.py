"""Fields of a hub's JSON, each of the type it should have or none at all. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from zhibei.store.digests import Digest

_MAX_TEXT = 1000
_MAX_TEXTS = 200
_MAX_COUNT = 2**53
_SHA1 = re.compile(r"[0-9a-f]{40}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def mapping_of(value: object) -> Mapping[str, object] | None:
    """A JSON object."""
    return value if isinstance(value, dict) else None


def list_of(value: object) -> Sequence[object] | None:
    """A JSON array."""
    return value if isinstance(value, list) else None


def text_of(value: object) -> str | None:
    """A text that is neither empty nor very long, without control characters."""
    is_good = isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isprintable()
    return str(value) if is_good else None


def name_of(value: object) -> str | None:
    """A file's name, as it is: whether it may be used is decided where names are checked."""
    return value if isinstance(value, str) and value else None


def texts_of(value: object) -> tuple[str, ...]:
    """The texts of an array; a text alone counts as an array of one."""
    items = value if isinstance(value, list) else [value]
    return tuple(text for item in items[:_MAX_TEXTS] if (text := text_of(item)) is not None)


def count_of(value: object) -> int | None:
    """A whole number that is not negative."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT else None


def sha1_of(value: object) -> str | None:
    """40 hexadecimal digits, as git names things."""
    return value.lower() if isinstance(value, str) and _SHA1.fullmatch(value.lower()) else None


def sha256_of(value: object) -> Digest | None:
    """A digest from 64 hexadecimal digits."""
    return Digest(value.lower()) if isinstance(value, str) and _SHA256.fullmatch(value.lower()) else None
