"""The GGUF header: parsed in one forward pass over bounded reads, and checked before anything is allocated.

Layout (version 2 and 3, little endian): magic, version, number of tensors, number of metadata entries; then the entries
(key, type, value); then the tensors (name, dimensions, type, offset); then, aligned, the tensor data, which is not read.
What the values mean is the business of ``gguf_model``. Every failure is a ModelFileError with the field and the byte.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml/src/gguf.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from zhibei.errors import ModelFileError
from zhibei.formats.ggml_types import REMOVED_TENSOR_TYPES, TENSOR_TYPES, TensorType
from zhibei.formats.reader import Reader
from zhibei.formats.window import LIMIT, Window

MAGIC = b"GGUF"
VERSIONS = (2, 3)

MAX_METADATA_ENTRIES = 8192
MAX_TENSORS = 16384
MAX_KEY_BYTES = 65535
MAX_KEPT_STRING_BYTES = 1024 * 1024
MAX_KEPT_ARRAY_LENGTH = 1024
MAX_KEPT_BYTES = 4 * 1024 * 1024
MAX_ARRAY_STRINGS = 1024 * 1024
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MIN_ALIGNMENT = 8
MAX_ALIGNMENT = 64 * 1024
DEFAULT_ALIGNMENT = 32

_HEADER_BYTES = 24
_MIN_ENTRY_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8
_STRING, _ARRAY, _BOOL = 8, 9, 7
_KEPT_ELEMENT_BYTES = 40  # what a small Python object in a tuple costs, roughly

_U64 = struct.Struct("<Q")
_SCALARS = {
    0: ("u8", struct.Struct("<B")),
    1: ("i8", struct.Struct("<b")),
    2: ("u16", struct.Struct("<H")),
    3: ("i16", struct.Struct("<h")),
    4: ("u32", struct.Struct("<I")),
    5: ("i32", struct.Struct("<i")),
    6: ("f32", struct.Struct("<f")),
    7: ("bool", struct.Struct("<B")),
    10: ("u64", struct.Struct("<Q")),
    11: ("i64", struct.Struct("<q")),
    12: ("f64", struct.Struct("<d")),
}
_TENSOR_TAILS = {n: struct.Struct(f"<{n}QIQ") for n in range(1, MAX_DIMENSIONS + 1)}


@dataclass(frozen=True, slots=True)
class Omitted:
    """A value that was stepped over: an array of ``length`` elements, or a string of ``length`` bytes.

    ``type_name`` is as in Entry.
    """

    type_name: str
    length: int


Scalar = int | float | bool | str
MetadataValue = Scalar | tuple[Scalar, ...] | Omitted


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a metadata value lies in the file: from its type number at ``start`` up to ``end``.

    ``type_name`` is u8 … f64, bool or text; an array of them is written ``[u8]``. The bytes are enough to copy a value
    that was Omitted.
    """

    type_name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the header lists it. ``dims`` are innermost first; ``offset`` is in bytes from ``data_offset``."""

    name: str
    dims: tuple[int, ...]
    type_name: str
    offset: int
    num_bytes: int

    @property
    def num_elements(self) -> int:
        """Product of the dimensions."""
        total = 1
        for dim in self.dims:
            total *= dim
        return total


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A checked header. ``data_offset`` is where the tensor data begins; ``warnings`` are English sentences.

    ``metadata`` and ``entries`` have the same keys, in the order of the file.
    """

    version: int
    metadata: Mapping[str, MetadataValue]
    entries: Mapping[str, Entry]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    alignment: int
    size_bytes: int
    warnings: tuple[str, ...] = ()


def parse(reader: Reader, size_bytes: int) -> GgufHeader:
    """Read and check a header.

    Args:
        reader: where the bytes come from; asked for up to 1 MiB at a time, mostly in order.
        size_bytes: the whole file's size.

    Raises:
        ModelFileError: damaged, hostile, or not a GGUF file of a known version.
    """
    window = Window(reader, size_bytes)
    version = _read_version(window)
    num_tensors, num_entries = _read_counts(window)
    metadata = _Metadata(window)
    metadata.read(num_entries)
    alignment = metadata.alignment()
    tensors, places = _read_tensors(window, num_tensors)
    end = window.position
    data_offset = _aligned(end, alignment) if tensors else end
    warnings = _check_layout(tensors, places, data_offset, alignment, size_bytes)
    return GgufHeader(
        version=version,
        metadata=MappingProxyType(metadata.values),
        entries=MappingProxyType(metadata.entries),
        tensors=tuple(tensors),
        data_offset=data_offset,
        alignment=alignment,
        size_bytes=size_bytes,
        warnings=(*metadata.warnings, *warnings),
    )


def _read_version(window: Window) -> int:
    if window.size_bytes >= LIMIT or window.size_bytes < 0:
        window.fail("no file is {size} bytes large", "size", size=window.size_bytes)
    magic = window.take(4, "magic")
    if magic != MAGIC:
        window.fail("it does not begin with GGUF", "magic", offset=0)
    version = window.u32("version")
    if version in VERSIONS:
        return version
    if version & 0xFFFF == 0 and version:
        problem = "it is written for big-endian machines, which is not supported"
    elif version == 1:
        problem = "version 1 of the format is no longer supported; convert the model again"
    else:
        problem = "version {version} of the format is not known"
    window.fail(problem, "version", offset=4, version=version)


def _read_counts(window: Window) -> tuple[int, int]:
    num_tensors = window.u64("tensor_count")
    num_entries = window.u64("kv_count")
    for field, offset, count, limit in (
        ("tensor_count", 8, num_tensors, MAX_TENSORS),
        ("kv_count", 16, num_entries, MAX_METADATA_ENTRIES),
    ):
        smallest = _MIN_TENSOR_BYTES if field == "tensor_count" else _MIN_ENTRY_BYTES
        if count * smallest > window.size_bytes - _HEADER_BYTES:
            window.fail("it is too small to hold {count} entries", field, offset=offset, count=count)
        if count > limit:
            window.fail("{count} entries are more than {limit}", field, offset=offset, count=count, limit=limit)
    if num_tensors * _MIN_TENSOR_BYTES + num_entries * _MIN_ENTRY_BYTES > window.remaining:
        window.fail("it is too small to hold its tensors and metadata", "tensor_count", offset=8)
    return num_tensors, num_entries


class _Metadata:
    """Reads the metadata entries; keeps small values within a budget, and steps over large ones."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._num_kept_bytes = 0
        self._num_strings = 0
        self.values: dict[str, MetadataValue] = {}
        self.entries: dict[str, Entry] = {}
        self.warnings: list[str] = []

    def read(self, count: int) -> None:
        for index in range(count):
            offset = self._window.position
            key = self._key(index)
            if key in self.values:
                self._window.fail("the key appears twice", key, offset=offset)
            start = self._window.position
            type_name, self.values[key] = self._value(key)
            self.entries[key] = Entry(type_name, start, self._window.position)

    def alignment(self) -> int:
        key = "general.alignment"
        value = self.values.get(key, DEFAULT_ALIGNMENT)
        offset = self.entries[key].start if key in self.entries else 0
        if not isinstance(value, int) or (offset and self.entries[key].type_name != "u32"):
            self._window.fail("the alignment is not a 32-bit number", key, offset=offset)
        if not MIN_ALIGNMENT <= value <= MAX_ALIGNMENT or value & (value - 1):
            problem = "an alignment of {value} is not a power of two from {low} to {high}"
            self._window.fail(problem, key, offset=offset, value=value, low=MIN_ALIGNMENT, high=MAX_ALIGNMENT)
        return value

    def _key(self, index: int) -> str:
        window, field = self._window, f"kv[{index}].key"
        offset = window.position
        length = window.u64(field)
        if not 0 < length <= MAX_KEY_BYTES:
            window.fail("a key of {length} bytes is not allowed", field, offset=offset, length=length)
        raw = window.take(length, field)
        self._keep(length, field)
        if not raw.isascii() or not (key := raw.decode("ascii")).isprintable() or " " in key:
            window.fail("a key is made of printable ASCII characters", field, offset=offset)
        return key

    def _keep(self, num_bytes: int, field: str) -> None:
        self._num_kept_bytes += num_bytes
        if self._num_kept_bytes > MAX_KEPT_BYTES:
            self._window.fail("its metadata is larger than {limit} bytes", field, limit=MAX_KEPT_BYTES)

    def _value(self, key: str) -> tuple[str, MetadataValue]:
        """The type's name and the value."""
        window = self._window
        offset = window.position
        number = window.u32(key)
        if number == _STRING:
            return "text", self._string(key)
        if number == _ARRAY:
            return self._array(key)
        if number not in _SCALARS:
            window.fail("value type {number} is not known", key, offset=offset, number=number)
        self._keep(_KEPT_ELEMENT_BYTES, key)
        return _SCALARS[number][0], self._scalars(key, number, 1)[0]

    def _scalars(self, key: str, number: int, count: int) -> tuple[Scalar, ...]:
        offset = self._window.position
        layout = _SCALARS[number][1]
        values = self._window.unpack(struct.Struct(f"<{count}{layout.format[1:]}"), key)
        if number != _BOOL:
            return values
        if any(value > 1 for value in values):
            self._window.fail("a truth value is neither 0 nor 1", key, offset=offset)
        return tuple(value == 1 for value in values)

    def _string(self, key: str) -> str | Omitted:
        window = self._window
        offset = window.position
        length = window.u64(key)
        if length > window.remaining:
            window.fail("a string of {length} bytes does not fit into it", key, offset=offset, length=length)
        if length > MAX_KEPT_STRING_BYTES:
            window.skip(length, key)
            return Omitted("text", length)
        self._keep(_KEPT_ELEMENT_BYTES + length, key)
        raw = window.take(length, key)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.warnings.append(f"{key} is not valid UTF-8.")
            return raw.decode("utf-8", errors="replace")

    def _array(self, key: str) -> tuple[str, MetadataValue]:
        window = self._window
        offset = window.position
        number = window.u32(key)
        if number == _ARRAY:
            window.fail("arrays of arrays are not supported", key, offset=offset)
        if number != _STRING and number not in _SCALARS:
            window.fail("array element type {number} is not known", key, offset=offset, number=number)
        name, layout = _SCALARS.get(number, ("text", _U64))  # a string takes at least its length
        offset = window.position
        count = window.u64(key)
        if count * layout.size > window.remaining:
            window.fail("an array of {count} elements does not fit into it", key, offset=offset, count=count)
        if number == _STRING:
            return "[text]", self._strings(key, count, offset)
        if count > MAX_KEPT_ARRAY_LENGTH:
            window.skip(count * layout.size, key)
            return f"[{name}]", Omitted(f"[{name}]", count)
        self._keep(count * _KEPT_ELEMENT_BYTES, key)
        return f"[{name}]", self._scalars(key, number, count)

    def _strings(self, key: str, count: int, offset: int) -> tuple[str, ...] | Omitted:
        window = self._window
        self._num_strings += count
        if self._num_strings > MAX_ARRAY_STRINGS:
            window.fail("its arrays hold more than {limit} strings", key, offset=offset, limit=MAX_ARRAY_STRINGS)
        if count > MAX_KEPT_ARRAY_LENGTH:
            window.skip_strings(count, key)
            return Omitted("[text]", count)
        read = [self._string(key) for _ in range(count)]
        values = tuple(value for value in read if isinstance(value, str))
        return values if len(values) == count else Omitted("[text]", count)


def _read_tensors(window: Window, count: int) -> tuple[list[TensorInfo], list[int]]:
    """The tensors, and where each one's offset stands in the file."""
    tensors, places = [], []
    names: set[str] = set()
    for index in range(count):
        position = window.position
        tensor = _read_tensor(window, index)
        if tensor.name in names:
            window.fail("the tensor name appears twice", tensor.name, offset=position)
        names.add(tensor.name)
        tensors.append(tensor)
        places.append(window.position - 8)
    return tensors, places


def _read_tensor(window: Window, index: int) -> TensorInfo:
    name = _read_name(window, f"tensor[{index}].name")
    offset, field = window.position, f"{name}.dims"
    num_dims = window.u32(field)
    if not 0 < num_dims <= MAX_DIMENSIONS:
        window.fail("a tensor has {count} dimensions", field, offset=offset, count=num_dims)
    offset = window.position
    *dims, number, start = window.unpack(_TENSOR_TAILS[num_dims], field)
    num_elements = _num_elements(window, dims, field, offset)
    offset += 8 * num_dims
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        why = "was removed from the format" if number in REMOVED_TENSOR_TYPES else "is not known"
        window.fail("tensor type {number} {why}", f"{name}.type", offset=offset, number=number, why=why)
    num_bytes = _num_bytes(window, dims[0], num_elements, kind, name, offset)
    return TensorInfo(name, tuple(dims), kind.name, start, num_bytes)


def _read_name(window: Window, field: str) -> str:
    offset = window.position
    length = window.u64(field)
    if not 0 < length <= MAX_TENSOR_NAME_BYTES:
        window.fail("a tensor name of {length} bytes is not allowed", field, offset=offset, length=length)
    try:
        name = window.take(length, field).decode("utf-8")
    except UnicodeDecodeError:
        name = "\0"
    if not name.isprintable():
        window.fail("a tensor name is not printable text", field, offset=offset)
    return name


def _num_elements(window: Window, dims: list[int], field: str, offset: int) -> int:
    total = 1
    for dim in dims:
        if dim == 0:
            window.fail("a dimension is 0", field, offset=offset)
        total *= dim
    if total >= LIMIT:
        window.fail("the dimensions are too large", field, offset=offset)
    return total


def _num_bytes(window: Window, row: int, num_elements: int, kind: TensorType, name: str, offset: int) -> int:
    if row % kind.block_size:
        problem = "a row of {row} elements is not made of whole {type} blocks of {block}"
        values = {"row": row, "type": kind.name, "block": kind.block_size}
        window.fail(problem, f"{name}.dims", offset=offset, **values)
    num_bytes = num_elements // kind.block_size * kind.block_bytes
    if num_bytes > window.size_bytes:
        window.fail("a tensor of {count} bytes does not fit into it", f"{name}.dims", offset=offset, count=num_bytes)
    return num_bytes


def _aligned(value: int, alignment: int) -> int:
    return (value + alignment - 1) // alignment * alignment


def _check_layout(
    tensors: list[TensorInfo], places: list[int], data_offset: int, alignment: int, size_bytes: int
) -> tuple[str, ...]:
    """Every tensor is aligned, inside the file and apart from the others. Returns warnings."""
    expected, in_order = 0, True
    for tensor, place in zip(tensors, places, strict=True):
        field = f"{tensor.name}.offset"
        if tensor.offset % alignment:
            problem = "offset {start} is not a multiple of {alignment}"
            raise ModelFileError(problem, field=field, offset=place, start=tensor.offset, alignment=alignment)
        if data_offset + tensor.offset + tensor.num_bytes > size_bytes:
            raise ModelFileError("the data of a tensor lies beyond its end", field=field, offset=place)
        in_order = in_order and tensor.offset == expected
        expected = tensor.offset + _aligned(tensor.num_bytes, alignment)
    end = 0
    for tensor, place in sorted(zip(tensors, places, strict=True), key=lambda pair: pair[0].offset):
        if tensor.offset < end:
            raise ModelFileError("two tensors overlap", field=f"{tensor.name}.offset", offset=place)
        end = tensor.offset + tensor.num_bytes
    warnings = []
    if not in_order:
        warnings.append("The tensors do not lie one after the other; llama.cpp refuses such files.")
    if (extra := size_bytes - data_offset - end) >= alignment:
        warnings.append(f"{extra} bytes at the end belong to no tensor.")
    return tuple(warnings)
