"""JSON documents from outside, such as a model's ``config.json``: bounded before and after they are parsed."""

from __future__ import annotations

import json
from collections.abc import Mapping

from zhibei.errors import ModelFileError

_MAX_DIGITS = 400


def parse_object(data: bytes, what: str, *, max_bytes: int, max_items: int) -> Mapping[str, object]:
    """The object that a document holds. ``what`` names the document; ``max_items`` bounds its values of any kind.

    Raises:
        ModelFileError: too large, not JSON, or not an object.
    """
    if len(data) > max_bytes:
        raise ModelFileError("it is larger than {limit} bytes", field=what, offset=0, limit=max_bytes)
    # Counted before they are made: a small document can hold many empty lists, each fifty times the size of its text.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > max_items:
        raise ModelFileError("it has more than {limit} entries", field=what, offset=0, limit=max_items)
    try:
        found = json.loads(data.decode("utf-8"), parse_int=_whole)
    except (ValueError, RecursionError):
        raise ModelFileError("it is not JSON", field=what, offset=0) from None
    if not isinstance(found, dict):
        raise ModelFileError("it is not a JSON object", field=what, offset=0)
    return found


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError("too many digits")
    return int(digits)
