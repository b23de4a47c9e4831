"""Long lists of a GGUF header, which ``gguf_header`` steps over: read when somebody wants to see them. Bounded like it."""

from __future__ import annotations

import struct

from zhibei.errors import ModelFileError
from zhibei.formats.gguf_header import Entry
from zhibei.formats.reader import Reader

MAX_BYTES = 64 * 1024 * 1024
MAX_ELEMENTS = 2 * 1024 * 1024
_HEAD = struct.Struct("<IIQ")
_LENGTH = struct.Struct("<Q")
_TEXT = 8
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_array(reader: Reader, key: str, entry: Entry) -> tuple[int | float | bool | str, ...] | None:
    """The elements of a list; None if it is no list, or too long to be shown.

    Args:
        entry: where a checked header says that it lies.

    Raises:
        ModelFileError: the file has changed since the header was read.
    """
    length = entry.end - entry.start
    if not entry.type_name.startswith("[") or length > MAX_BYTES:
        return None
    data = reader.read_at(entry.start, length)
    try:
        _, kind, count = _HEAD.unpack_from(data)
        if count > MAX_ELEMENTS:
            return None
        if kind != _TEXT:
            return struct.unpack_from(f"<{count}{_FORMATS[kind]}", data, _HEAD.size)
        found, at = [], _HEAD.size
        for _ in range(count):
            (size,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size + size
            if at > len(data):
                raise struct.error
            found.append(data[at - size : at].decode("utf-8", errors="replace"))
        return tuple(found)
    except (struct.error, KeyError) as error:
        raise ModelFileError("it changed while it was read", field=key, offset=entry.start) from error
