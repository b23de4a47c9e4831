"""A bounded view that moves forward through an untrusted file. Owns bounds checks and the reading budget; knows no format."""

from __future__ import annotations

import struct
from typing import Any, NoReturn

from zhibei.errors import ModelFileError
from zhibei.formats.reader import Reader

LIMIT = 2**63
MAX_READ_BYTES = 64 * 1024 * 1024
FIRST_CHUNK_BYTES = 64 * 1024
LAST_CHUNK_BYTES = 1024 * 1024

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def shown(text: str) -> str:
    """A name from a file, made safe to print: short, and without control characters."""
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:200])
    return clean if len(text) <= 200 else clean + "…"


class Window:
    """The part of the file around the reading position. Owns every bounds check and the reading budget."""

    def __init__(self, reader: Reader, size_bytes: int) -> None:
        self._reader = reader
        self.size_bytes = size_bytes
        self._base = 0
        self._buffer = b""
        self._index = 0
        self._chunk_bytes = FIRST_CHUNK_BYTES
        self._num_read_bytes = 0

    @property
    def position(self) -> int:
        return self._base + self._index

    @property
    def remaining(self) -> int:
        return self.size_bytes - self.position

    def fail(self, problem: str, field: str, *, offset: int | None = None, **values: object) -> NoReturn:
        raise ModelFileError(problem, field=shown(field), offset=self.position if offset is None else offset, **values)

    def need(self, length: int, field: str) -> None:
        """Make the next ``length`` bytes available."""
        held = len(self._buffer) - self._index
        if held >= length:
            return
        if length > self.remaining:
            self.fail("it ends too early", field)
        start = self.position + held
        want = min(max(length - held, self._chunk_bytes), self.size_bytes - start)
        self._num_read_bytes += want
        if self._num_read_bytes > MAX_READ_BYTES:
            self.fail("its header is larger than {limit} bytes", field, limit=MAX_READ_BYTES)
        self._chunk_bytes = min(self._chunk_bytes * 2, LAST_CHUNK_BYTES)
        fresh = self._reader.read_at(start, want)[:want]
        if len(fresh) + held < length:
            self.fail("it ends too early", field, offset=start + len(fresh))
        self._base = self.position
        self._buffer = self._buffer[self._index :] + fresh
        self._index = 0

    def take(self, length: int, field: str) -> bytes:
        self.need(length, field)
        start = self._index
        self._index = start + length
        return self._buffer[start : self._index]

    def unpack(self, layout: struct.Struct, field: str) -> tuple[Any, ...]:
        self.need(layout.size, field)
        values = layout.unpack_from(self._buffer, self._index)
        self._index += layout.size
        return values

    def u32(self, field: str) -> int:
        number: int = self.unpack(_U32, field)[0]
        return number

    def u64(self, field: str) -> int:
        number: int = self.unpack(_U64, field)[0]
        return number

    def skip(self, length: int, field: str) -> None:
        if length > self.remaining:
            self.fail("it ends too early", field)
        self._index += length
        if self._index > len(self._buffer):
            self._base, self._index, self._buffer = self.position, 0, b""

    def skip_strings(self, count: int, field: str) -> None:
        """Step over strings (length, then bytes) as fast as Python can: vocabularies have hundreds of thousands."""
        unpack = _U64.unpack_from
        while count:
            self.need(8, field)
            buffer, index = self._buffer, self._index
            start, passed = index, 0
            try:
                for passed in range(count):  # noqa: B007 - it counts, and is used below
                    (length,) = unpack(buffer, index)
                    start, index = index, index + 8 + length
                passed = count
            except (struct.error, OverflowError, IndexError):  # the buffer ends before this string begins
                pass
            count -= passed
            if index > len(buffer):
                self._skip_last(start, field)
            else:
                self._index = index

    def _skip_last(self, start: int, field: str) -> None:
        """Step over the string at ``start``, whose bytes reach beyond the buffer."""
        self._index = start
        length = self.u64(field)
        if length > self.remaining:
            self._index = start
            self.fail("a string of {length} bytes does not fit into it", field, length=length)
        self.skip(length, field)
