"""Writes GGUF files for tests, right or wrong in any field. Independent of zhibei, so that it does not share its mistakes.

    data = tiny_model().build()                                     a valid model of a few hundred bytes
    data = tiny_model(**{"llama.block_count": u32(0)}).build()      the same with a value replaced
    data = tiny_model(**{"llama.block_count": None}).build()        … or left out

``GgufFile.build`` writes what it is told: counts, offsets and sizes may be overridden with nonsense.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

TYPE_NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}
BLOCKS = {"F32": (1, 4), "F16": (1, 2), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q8_0": (32, 34), "Q4_K": (256, 144),
          "Q6_K": (256, 210), "BF16": (1, 2)}  # fmt: skip
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class Value:
    """A metadata value: its type number, and the bytes that follow it."""

    number: int
    raw: bytes

    def encoded(self) -> bytes:
        return struct.pack("<I", self.number) + self.raw


def scalar(number: int, value: float) -> Value:
    """A number of a GGUF type, given by its number."""
    return Value(number, struct.pack("<" + _CODES[number], value))


def u8(value: int) -> Value:
    return scalar(0, value)


def i32(value: int) -> Value:
    return scalar(5, value)


def u32(value: int) -> Value:
    return scalar(4, value)


def u64(value: int) -> Value:
    return scalar(10, value)


def f32(value: float) -> Value:
    return scalar(6, value)


def f64(value: float) -> Value:
    return scalar(12, value)


def boolean(value: int) -> Value:
    return scalar(7, value)


def length_prefixed(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def text(value: str | bytes) -> Value:
    return Value(8, length_prefixed(value))


def texts(*values: str | bytes) -> Value:
    return Value(9, struct.pack("<IQ", 8, len(values)) + b"".join(map(length_prefixed, values)))


def array(number: int, *values: float) -> Value:
    """An array of numbers of a GGUF type."""
    return Value(9, struct.pack("<IQ", number, len(values)) + struct.pack(f"<{len(values)}{_CODES[number]}", *values))


def array_head(number: int, count: int, raw: bytes = b"") -> Value:
    """An array that says it has ``count`` elements, whatever follows."""
    return Value(9, struct.pack("<IQ", number, count) + raw)


@dataclass(frozen=True)
class Tensor:
    """A tensor entry. ``offset`` None: right after the tensor before it, aligned."""

    name: str | bytes
    dims: tuple[int, ...]
    type: str = "F32"
    type_number: int | None = None
    num_dims: int | None = None
    offset: int | None = None

    @property
    def num_bytes(self) -> int:
        block_size, block_bytes = BLOCKS[self.type]
        total = 1
        for dim in self.dims:
            total *= dim
        return total // block_size * block_bytes


@dataclass(frozen=True)
class GgufFile:
    """A file to be written. ``data_bytes`` None: as much as the tensors need."""

    metadata: tuple[tuple[str | bytes, Value], ...] = ()
    tensors: tuple[Tensor, ...] = ()
    magic: bytes = b"GGUF"
    version: bytes = struct.pack("<I", 3)
    num_tensors: int | None = None
    num_entries: int | None = None
    alignment: int = 32
    data_bytes: int | None = None
    trailing: bytes = field(default=b"", repr=False)

    def with_tensors(self, *tensors: Tensor, data_bytes: int | None = None) -> GgufFile:
        return replace(self, tensors=tensors, data_bytes=data_bytes)

    def header(self) -> bytes:
        """Everything before the padding of the tensor data."""
        parts = [
            self.magic,
            self.version,
            struct.pack("<Q", len(self.tensors) if self.num_tensors is None else self.num_tensors),
            struct.pack("<Q", len(self.metadata) if self.num_entries is None else self.num_entries),
        ]
        for key, value in self.metadata:
            parts += [length_prefixed(key), value.encoded()]
        end = 0
        for tensor in self.tensors:
            offset = end if tensor.offset is None else tensor.offset
            parts += [
                length_prefixed(tensor.name),
                struct.pack("<I", len(tensor.dims) if tensor.num_dims is None else tensor.num_dims),
                struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims),
                struct.pack("<IQ", self._type_number(tensor), offset),
            ]
            end += padded(tensor.num_bytes, self.alignment)
        return b"".join(parts)

    @staticmethod
    def _type_number(tensor: Tensor) -> int:
        return TYPE_NUMBERS[tensor.type] if tensor.type_number is None else tensor.type_number

    def build(self) -> bytes:
        header = self.header()
        if self.tensors:
            header += bytes(padded(len(header), self.alignment) - len(header))
        size = sum(padded(tensor.num_bytes, self.alignment) for tensor in self.tensors)
        return header + bytes(size if self.data_bytes is None else self.data_bytes) + self.trailing


def padded(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


TINY_METADATA: dict[str, Value] = {
    "general.architecture": text("llama"),
    "general.name": text("tiny"),
    "general.license": text("apache-2.0"),
    "general.file_type": u32(2),
    "llama.block_count": u32(2),
    "llama.context_length": u32(128),
    "llama.embedding_length": u32(32),
    "llama.feed_forward_length": u32(64),
    "llama.attention.head_count": u32(4),
    "llama.attention.head_count_kv": u32(2),
    "llama.rope.freq_base": f32(10000.0),
    "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
    "tokenizer.ggml.model": text("gpt2"),
    "tokenizer.ggml.tokens": texts("<s>", "</s>", "a", "b"),
    "tokenizer.ggml.token_type": array(5, 3, 3, 1, 1),
    "tokenizer.ggml.bos_token_id": u32(0),
    "tokenizer.ggml.eos_token_id": u32(1),
    "tokenizer.chat_template": text("{{ messages[0].content }}"),
}

TINY_TENSORS = (
    Tensor("token_embd.weight", (32, 4), "Q4_0"),
    Tensor("blk.0.attn_q.weight", (32, 32), "Q4_0"),
    Tensor("blk.1.attn_q.weight", (32, 32), "Q4_0"),
    Tensor("output_norm.weight", (32,), "F32"),
)


def tiny_model(**changes: Value | None) -> GgufFile:
    """A valid file. A change replaces, adds, or (None) removes a metadata value."""
    merged = {key: value for key, value in {**TINY_METADATA, **changes}.items() if value is not None}
    return GgufFile(metadata=tuple(merged.items()), tensors=TINY_TENSORS)
