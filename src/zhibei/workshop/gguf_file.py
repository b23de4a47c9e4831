"""Writes a GGUF file: the header at once, the tensors' data as it comes. Knows the layout, not what a model is.

Layout: version 3, little endian, tensors aligned to 32 bytes. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import BinaryIO

from zhibei.formats.ggml_types import TENSOR_TYPES
from zhibei.workshop.shapes import type_number

ALIGNMENT = 32
MetadataValue = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written: ``dims`` in ggml's order (row length first). ``fill`` names what is put into it."""

    name: str
    dims: tuple[int, ...]
    type: str = "F32"
    fill: str = "weights"

    @property
    def num_bytes(self) -> int:
        """How long its data is."""
        kind = TENSOR_TYPES[type_number(self.type)]
        return prod(self.dims) // kind.block_size * kind.block_bytes


def write_gguf(
    path: Path,
    metadata: Iterable[tuple[str, MetadataValue]],
    tensors: Sequence[TensorSpec],
    pieces: Callable[[TensorSpec], Iterable[bytes | memoryview]],
) -> None:
    """Write a file; ``pieces`` gives the data of a tensor, in order, ``num_bytes`` in all."""
    with path.open("wb") as file:
        file.write(_header(tuple(metadata), tensors))
        _pad(file)
        for tensor in tensors:
            start = file.tell()
            for piece in pieces(tensor):
                file.write(piece)
            assert file.tell() - start == tensor.num_bytes, tensor.name
            _pad(file)


def _header(metadata: Sequence[tuple[str, MetadataValue]], tensors: Sequence[TensorSpec]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    parts += [_text(key) + _value(value) for key, value in metadata]
    sizes = (-(-tensor.num_bytes // ALIGNMENT) * ALIGNMENT for tensor in tensors)
    for tensor, offset in zip(tensors, accumulate(sizes, initial=0), strict=False):
        dims = struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
        parts.append(_text(tensor.name) + dims + struct.pack("<IQ", type_number(tensor.type), offset))
    return b"".join(parts)


def _value(value: MetadataValue) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    return struct.pack("<I", _ARRAY) + _array(value)


def _array(values: Sequence[int] | Sequence[float] | Sequence[str]) -> bytes:
    first = values[0]
    if isinstance(first, str):
        return struct.pack("<IQ", _STRING, len(values)) + b"".join(_text(str(value)) for value in values)
    number, code = (_BOOL, "?") if isinstance(first, bool) else (_I32, "i") if isinstance(first, int) else (_F32, "f")
    return struct.pack("<IQ", number, len(values)) + struct.pack(f"<{len(values)}{code}", *values)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))
