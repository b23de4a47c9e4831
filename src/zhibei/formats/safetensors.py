"""Headers of safetensors files, and the index of a model in several. Owns the format's strict and bounded reading.

A file is a length (8 bytes), a JSON header of that length, and the tensors' bytes, which the header must cover exactly. The
header is scanned in place rather than given to a JSON library: nothing in it can nest, repeat or make many small objects.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NoReturn

from zhibei.errors import ModelFileError
from zhibei.formats.reader import Reader
from zhibei.formats.window import shown

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_TENSORS = 100_000
MAX_NAME_BYTES = 4096
MAX_DIMS = 64
LIMIT = 2**63

DTYPE_BITS: Mapping[str, int] = {
    **dict.fromkeys(("C128",), 128),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one element. Those below 8 lie packed; a tensor must still fill whole bytes."""

_LENGTH = struct.Struct("<Q")
_FIRST_BYTES = 64 * 1024
_MAX_METADATA = 10_000
_SPACE = rb"[ \t\r\n]*"
# Matched piece by piece: one repetition without end would hold a hundred bytes for every escape that it passes.
_TEXT = re.compile(rb'[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*){0,1000}', re.DOTALL)
_FIELD = re.compile(
    rb'"(dtype|shape|data_offsets)"%b:%b(?:"([A-Z0-9_]{1,16})"|\[([0-9, \t\r\n]*)\])' % (_SPACE, _SPACE), re.ASCII
)
_NUMBERS = re.compile(rb"%b(?:(?:0|[1-9][0-9]{0,19})%b(?:,%b(?:0|[1-9][0-9]{0,19})%b)*)?" % (_SPACE, _SPACE, _SPACE, _SPACE))
_SPACES = re.compile(_SPACE)
_USUAL = re.compile(
    rb'\{%b"dtype"%b:%b"([A-Z0-9_]{1,16})"%b,%b"shape"%b:%b\[([0-9, \t\r\n]*)\]%b,%b"data_offsets"%b:%b\[([0-9, \t\r\n]*)\]%b\}'
    % ((_SPACE,) * 12)
)
"""An entry with its fields in the order in which writers put them; any other order is read field by field, slower."""


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """A tensor as its header has it; ``start`` is counted from the end of the header. Its name is a label and never a path."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int

    @property
    def num_elements(self) -> int:
        """The product of its shape."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What one file says. ``data_offset`` is where the tensors' bytes begin."""

    tensors: tuple[SafetensorsTensor, ...]
    data_offset: int
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(reader: Reader, size_bytes: int, *, max_header_bytes: int = MAX_HEADER_BYTES) -> SafetensorsHeader:
    """The header of one file, local or remote, in two reads at most.

    Raises:
        ModelFileError: damaged, hostile, or no safetensors file.
    """
    head = reader.read_at(0, min(_FIRST_BYTES, size_bytes))
    if len(head) < _LENGTH.size:
        _fail("it ends too early", "header length", len(head))
    (length,) = _LENGTH.unpack_from(head)
    if length > max_header_bytes:
        _fail(
            "its header of {length} bytes is larger than {limit} bytes", "header length", 0, length=length, limit=max_header_bytes
        )
    if not 2 <= length <= size_bytes - _LENGTH.size:
        _fail("its header of {length} bytes does not fit into it", "header length", 0, length=length)
    end = _LENGTH.size + length
    if end > len(head):
        head += reader.read_at(len(head), end - len(head))
    if len(head) < end:
        _fail("it ends too early", "header", len(head))
    tensors, metadata = _Scanner(head[_LENGTH.size : end]).header()
    _check_cover(tensors, end, size_bytes)
    return SafetensorsHeader(tensors, end, metadata)


class _Scanner:
    """One pass through a header's JSON, which may hold just what the format allows."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._index = 0

    def header(self) -> tuple[tuple[SafetensorsTensor, ...], dict[str, str]]:
        if not self._data.startswith(b"{"):
            self._fail("its header does not begin with a JSON object", "header")
        if self._data.count(b'"data_offsets"') > MAX_TENSORS:
            self._fail("it has more than {limit} tensors", "header", limit=MAX_TENSORS)
        tensors: dict[str, SafetensorsTensor] = {}
        metadata: dict[str, str] | None = None
        for key in self._members("header"):
            if key == "__metadata__":
                if metadata is not None:
                    self._fail("a name occurs twice", key)
                metadata = self._metadata()
                continue
            if key in tensors:
                self._fail("a name occurs twice", key)
            tensors[key] = self._tensor(key)
        if self._data[self._index :].strip(b" "):
            self._fail("something follows the JSON object in its header", "header")
        return tuple(tensors.values()), metadata or {}

    def _members(self, where: str) -> _Members:
        return _Members(self, where)

    def _metadata(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for key in self._members("__metadata__"):
            if key in found:
                self._fail("a name occurs twice", key)
            if len(found) >= _MAX_METADATA:
                self._fail("it has more than {limit} entries", "__metadata__", limit=_MAX_METADATA)
            found[key] = self.string("__metadata__", MAX_HEADER_BYTES)
        return found

    def _tensor(self, name: str) -> SafetensorsTensor:
        start = self._index
        if not name or len(name.encode()) > MAX_NAME_BYTES or not name.isprintable():
            self._fail("a tensor has an impossible name", "tensor name")
        usual = _USUAL.match(self._data, start)
        if usual is not None:
            self._index = usual.end()
            self._skip_spaces()
            dtype, lists = usual[1], {b"shape": self._numbers(usual[2], name), b"data_offsets": self._numbers(usual[3], name)}
        else:
            dtype, lists = self._fields(name)
        if not dtype or len(lists) != 2:
            self._fail("the entry is not made of dtype, shape and data_offsets", name, at=start)
        return self._checked(name, dtype.decode("ascii"), lists[b"shape"], lists[b"data_offsets"], start)

    def _fields(self, name: str) -> tuple[bytes, dict[bytes, tuple[int, ...]]]:
        """The fields of an entry in any order."""
        dtype: bytes = b""
        lists: dict[bytes, tuple[int, ...]] = {}
        self.expect(b"{", name)
        for count in range(3):
            match = _FIELD.match(self._data, self._index)
            if match is None or (match[1] == b"dtype") != (match[2] is not None):
                self._fail("the entry is not made of dtype, shape and data_offsets", name)
            self._index = match.end()
            if match[2] is not None:
                dtype = match[2]
            else:
                lists[match[1]] = self._numbers(match[3], name)
            self.expect(b"}" if count == 2 else b",", name)
        return dtype, lists

    def _numbers(self, text: bytes, name: str) -> tuple[int, ...]:
        if text.count(b",") >= MAX_DIMS or not _NUMBERS.fullmatch(text):
            self._fail("the entry has a list that is not of whole numbers", name)
        return tuple(int(number) for number in text.split(b",")) if text.strip() else ()

    def _checked(self, name: str, dtype: str, shape: tuple[int, ...], offsets: tuple[int, ...], at: int) -> SafetensorsTensor:
        bits = DTYPE_BITS.get(dtype)
        if bits is None:
            self._fail("its type {dtype} is not known", name, at=at, dtype=dtype)
        num_bits = prod(shape) * bits
        if max((*shape, num_bits)) >= LIMIT:
            self._fail("its shape is larger than any file", name, at=at)
        if len(offsets) != 2 or offsets[0] > offsets[1]:
            self._fail("its offsets are not a beginning and an end", name, at=at)
        start, end = offsets
        if num_bits != (end - start) * 8:
            self._fail("its shape needs {bits} bits, and it has {bytes} bytes", name, at=at, bits=num_bits, bytes=end - start)
        return SafetensorsTensor(name, dtype, shape, start, end - start)

    def string(self, where: str, max_bytes: int) -> str:
        if not self.accept(b'"'):
            self._fail("its header is not JSON of the expected kind", where)
        start = end = self._index
        while match := _TEXT.match(self._data, end, start + max_bytes):
            if match.end() == end:
                break
            end = match.end()
        if self._data[end : end + 1] != b'"':
            problem = (
                "it has a text of more than {limit} bytes" if end >= start + max_bytes - 1 else "it has a text without an end"
            )
            self._fail(problem, where, limit=max_bytes)
        raw = self._data[start:end]
        try:
            text = str(json.loads(b'"%b"' % raw)) if b"\\" in raw else raw.decode("utf-8")
            text.encode("utf-8")  # an escaped half of a surrogate pair is no text
        except (UnicodeError, ValueError):
            self._fail("its header holds a text that is not UTF-8", where)
        self._index = end + 1
        self._skip_spaces()
        return text

    def expect(self, wanted: bytes, where: str) -> None:
        if not self.accept(wanted):
            self._fail("its header is not JSON of the expected kind", where)

    def accept(self, wanted: bytes) -> bool:
        self._skip_spaces()
        if not self._data.startswith(wanted, self._index):
            return False
        self._index += 1
        if wanted in b"{,:":  # a text's own spaces count, and behind the last } only padding may follow
            self._skip_spaces()
        return True

    def _skip_spaces(self) -> None:
        match = _SPACES.match(self._data, self._index)
        if match is not None:
            self._index = match.end()

    def _fail(self, problem: str, where: str, *, at: int | None = None, **values: object) -> NoReturn:
        _fail(problem, where, _LENGTH.size + (self._index if at is None else at), **values)


class _Members:
    """The keys of the object at the scanner's position; whoever asks for the next one has read the value."""

    def __init__(self, scanner: _Scanner, where: str) -> None:
        self._scanner = scanner
        self._where = where
        self._is_first = True
        scanner.expect(b"{", where)

    def __iter__(self) -> _Members:
        return self

    def __next__(self) -> str:
        if self._scanner.accept(b"}"):
            raise StopIteration
        if not self._is_first:
            self._scanner.expect(b",", self._where)
        self._is_first = False
        key = self._scanner.string(self._where, MAX_NAME_BYTES)
        self._scanner.expect(b":", self._where)
        return key


def _check_cover(tensors: tuple[SafetensorsTensor, ...], data_offset: int, size_bytes: int) -> None:
    """The tensors lie end to end and fill the file: nothing overlaps, and nothing is hidden between or behind them."""
    position = data_offset
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.num_bytes)):
        start = data_offset + tensor.start
        if start != position:
            problem = "its bytes overlap another tensor's" if start < position else "there is a gap before its bytes"
            _fail(problem, tensor.name, min(start, position))
        if position + tensor.num_bytes > size_bytes:
            _fail("it ends too early", tensor.name, position)
        position += tensor.num_bytes
    if position != size_bytes:
        _fail("{count} bytes follow the last tensor", "data", position, count=size_bytes - position)


def _fail(problem: str, where: str, offset: int, **values: object) -> NoReturn:
    raise ModelFileError(problem, field=shown(where), offset=offset, **values)
