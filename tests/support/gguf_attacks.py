"""Broken and hostile GGUF files: the rows G-01 to G-14 of the security checklist, each with where it must be caught."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from support.gguf_writer import (
    TINY_TENSORS,
    GgufFile,
    Tensor,
    Value,
    array,
    array_head,
    boolean,
    f32,
    f64,
    i32,
    length_prefixed,
    padded,
    scalar,
    text,
    texts,
    tiny_model,
    u32,
    u64,
)

TERABYTE = 2**40


@dataclass(frozen=True)
class Attack:
    """A file, and the field and byte its error must name.

    ``size`` None: the file is as long as its bytes; else ``tail`` is repeated up to there.
    """

    name: str
    data: bytes
    field: str
    offset: int
    size: int | None = None
    tail: bytes = b"\0"

    @property
    def size_bytes(self) -> int:
        return len(self.data) if self.size is None else self.size

    def reader(self) -> CountingReader:
        return CountingReader(self.data, self.size_bytes, self.tail)


@dataclass
class CountingReader:
    """Serves bytes as a file of ``size`` bytes would (``tail`` again and again after the data), and counts what is asked."""

    data: bytes
    size: int
    tail: bytes = b"\0"
    num_calls: int = 0
    num_bytes: int = 0
    largest: int = 0

    def read_at(self, offset: int, length: int) -> bytes:
        assert offset >= 0 and length > 0
        self.num_calls += 1
        self.largest = max(self.largest, length)
        part = self.data[offset : offset + length]
        missing = min(length, self.size - offset) - len(part)
        if missing > 0:
            start = (offset + len(part) - len(self.data)) % len(self.tail)
            repeats = (start + missing) // len(self.tail) + 1
            part += (self.tail * repeats)[start : start + missing]
        self.num_bytes += len(part)
        return part


KEY = "zz.key"


def _with(value: Value, key: str | bytes = KEY) -> GgufFile:
    """A file with one more value, which comes last of the metadata."""
    model = tiny_model()
    return replace(model, metadata=(*model.metadata, (key, value)))


def _after(data: bytes, marker: str | bytes) -> int:
    raw = marker.encode() if isinstance(marker, str) else marker
    assert data.count(raw) >= 1, marker
    return data.index(raw) + len(raw)


def _key_start(data: bytes, key: str) -> int:
    return _after(data, key) - len(key) - 8


def _starts() -> Iterator[Attack]:
    data = tiny_model().build()
    for length in range(24):
        names = {0: ("magic", 0), 4: ("version", 4), 8: ("tensor_count", 8), 16: ("kv_count", 16)}
        name, _ = names[max(start for start in names if start <= length)]
        yield Attack(f"G-01 {length} bytes", data[:length], name, max(s for s in names if s <= length))
    yield Attack("G-01 header only", data[:24], "tensor_count", 8)
    yield Attack("G-02 magic", b"GGUE" + data[4:], "magic", 0)
    for version in (0, 1, 4, 99, 0x03000000, 0x02000000, 2**32 - 1):
        broken = replace(tiny_model(), version=struct.pack("<I", version)).build()
        yield Attack(f"G-02 version {version:#x}", broken, "version", 4)
    for count in (2**63, 2**64 - 1, 2**40, 1000):
        tensors = replace(tiny_model(), num_tensors=count).build()
        yield Attack(f"G-03 {count} tensors", tensors, "tensor_count", 8)
        entries = replace(tiny_model(), num_entries=count).build()
        yield Attack(f"G-03 {count} entries", entries, "kv_count", 16)
    yield Attack("G-03 too many tensors", replace(tiny_model(), num_tensors=10**6).build(), "tensor_count", 8, TERABYTE)
    yield Attack("G-03 too many entries", replace(tiny_model(), num_entries=10**6).build(), "kv_count", 16, TERABYTE)
    both = replace(GgufFile(), num_tensors=30, num_entries=73).build() + bytes(1050)
    yield Attack("G-03 both together too many", both, "tensor_count", 8)
    more = replace(tiny_model(), num_entries=len(tiny_model().metadata) + 1).build()
    yield Attack("G-03 one entry too many", more, "tensor[0].name", _after(more, "token_embd.weight") + 6)


def _keys() -> Iterator[Attack]:
    number = len(tiny_model().metadata)
    for name, raw in (
        ("length 2^63", struct.pack("<Q", 2**63)),
        ("length 2^64-1", struct.pack("<Q", 2**64 - 1)),
        ("length 0", struct.pack("<Q", 0)),
        ("length 65536", struct.pack("<Q", 65536) + b"k" * 65536),
        ("not UTF-8", length_prefixed(b"zz.\xff\xfe")),
        ("not ASCII", length_prefixed("zz.键")),
        ("space", length_prefixed("zz key")),
        ("control character", length_prefixed("zz\x1b[2J")),
    ):
        start = len(tiny_model().with_tensors().header())
        head = replace(tiny_model().with_tensors(), num_entries=number + 1).header()
        data = head + raw + u32(1).encoded() + bytes(64)
        yield Attack(f"G-04 key {name}", data, f"kv[{number}].key", start)
    head = replace(tiny_model().with_tensors(), num_entries=number + 1).header()
    data = head + struct.pack("<Q", 500) + b"zz.key" + bytes(20)
    yield Attack("G-04 key past the end", data, f"kv[{number}].key", len(head) + 8)
    twice = replace(tiny_model(), metadata=(*tiny_model().metadata, ("general.name", text("again")))).build()
    second = twice.rindex(b"general.name") - 8
    yield Attack("G-08 key twice", twice, "general.name", second)


def _values() -> Iterator[Attack]:
    rows: tuple[tuple[str, Value, int], ...] = (
        ("G-05 string of 2^62", Value(8, struct.pack("<Q", 2**62)), 4),
        ("G-05 string of 2^64-1", Value(8, struct.pack("<Q", 2**64 - 1)), 4),
        ("G-05 string in small array", array_head(8, 2, length_prefixed("a") + struct.pack("<Q", 2**62)), 25),
        ("G-05 string in large array", array_head(8, 5000, struct.pack("<Q", 2**62) + bytes(40000)), 16),
        (
            "G-05 string of 2^64-1 in large array",
            array_head(8, 5000, bytes(80) + struct.pack("<Q", 2**64 - 1) + bytes(40000)),
            96,
        ),
        ("G-06 u8 array of 2^62", array_head(0, 2**62), 8),
        ("G-06 u8 array of 2^64-1", array_head(0, 2**64 - 1), 8),
        ("G-06 f64 array of 2^61 (product wraps)", array_head(12, 2**61), 8),
        ("G-06 string array of 2^61 (product wraps)", array_head(8, 2**61), 8),
        ("G-06 array in array", array_head(9, 1, struct.pack("<IQ", 0, 1) + b"\1"), 4),
        ("G-06 3000 arrays deep", Value(9, struct.pack("<IQ", 9, 1) * 3000 + struct.pack("<IQ", 0, 0)), 4),
        ("G-07 type 99", Value(99, bytes(8)), 0),
        ("G-07 type 13", Value(13, bytes(8)), 0),
        ("G-07 type 2^32-1", Value(2**32 - 1, bytes(8)), 0),
        ("G-07 array of type 99", array_head(99, 1, bytes(8)), 4),
        ("G-07 truth value 2", boolean(2), 4),
        ("G-07 truth value 255 in array", array(7, 0, 1, 255), 16),
    )
    for name, value, shift in rows:
        data = _with(value).build()
        yield Attack(name, data, KEY, _after(data, KEY) + shift)
    data = _with(array_head(8, 2**21)).build()
    yield Attack("G-06 array of 2^21 strings", data, KEY, _after(data, KEY) + 8, TERABYTE)
    many = replace(tiny_model(), metadata=tuple((f"zz.{i:05d}", text("x" * 2**19)) for i in range(9)))
    data = many.build()
    yield Attack("G-05 many long strings", data, "zz.00007", _after(data, "zz.00007") + 12)
    # Strings of 1 MiB make every read worth one string: 4 reads that grow, 63 of 1 MiB, and no more.
    long = struct.pack("<Q", 2**20) + bytes(2**20)
    data = replace(_with(array_head(8, 2000)), tensors=(), num_tensors=0).build()
    yield Attack("G-05 array of long strings", data, KEY, len(data) + 67 * len(long), TERABYTE, long)


def _alignments() -> Iterator[Attack]:
    key = "general.alignment"
    for value in (0, 1, 3, 4, 48, 2**17, 2**31, 2**32 - 1):
        data = tiny_model(**{key: u32(value)}).build()
        yield Attack(f"G-09 alignment {value}", data, key, _after(data, key))
    for name, wrong in (
        ("text", text("32")),
        ("u64", u64(32)),
        ("i32", i32(32)),
        ("bool", boolean(1)),
        ("f32", f32(32)),
        ("array", array(4, 32)),
    ):
        data = tiny_model(**{key: wrong}).build()
        yield Attack(f"G-09 alignment {name}", data, key, _after(data, key))


def _tensors() -> Iterator[Attack]:
    def attack(name: str, tensor: Tensor, field: str, shift: int, data_bytes: int | None = None) -> Attack:
        """``shift`` counts from the end of the tensor's name."""
        data = tiny_model().with_tensors(*TINY_TENSORS, tensor, data_bytes=data_bytes).build()
        return Attack(name, data, field, len(tiny_model().header()) + len(length_prefixed(tensor.name)) + shift)

    for count in (0, 5, 2**31, 2**32 - 1):
        yield attack(f"G-10 {count} dimensions", Tensor("zz", (32,), num_dims=count), "zz.dims", 0)
    for dims in ((0,), (32, 0), (32, 1, 1, 0)):
        yield attack(f"G-10 dimensions {dims}", Tensor("zz", dims), "zz.dims", 4)
    for dims in ((2**63, 1), (2**32, 2**32), (2**62, 2), (2**21, 2**21, 2**21), (2**64 - 1,)):
        yield attack(f"G-10 dimensions {dims}", Tensor("zz", dims), "zz.dims", 4, data_bytes=10000)
    yield attack("G-10 2^64 bytes", Tensor("zz", (2**62,)), "zz.dims", 12, data_bytes=10000)
    yield attack("G-10 2^63 bytes", Tensor("zz", (2**61,)), "zz.dims", 12, data_bytes=10000)
    for number in (999, 43, 4, 5, 31, 36, 2**32 - 1, 2**31):
        yield attack(f"G-11 tensor type {number}", Tensor("zz", (32,), type_number=number), "zz.type", 12)
    yield attack("G-11 half a block", Tensor("zz", (48, 2), "Q4_0"), "zz.dims", 20)
    yield attack("G-11 32 elements of a 256 block", Tensor("zz", (32, 8), "Q4_K"), "zz.dims", 20)
    for name, raw in (
        ("empty", b""),
        ("64 bytes", b"n" * 64),
        ("not UTF-8", b"zz\xff"),
        ("NUL", b"zz\0x"),
        ("escape", b"zz\x1b[2J"),
    ):
        yield attack(f"G-04 tensor name {name}", Tensor(raw, (32,)), "tensor[4].name", -8 - len(raw))
    data = tiny_model().with_tensors(*TINY_TENSORS, TINY_TENSORS[1]).build()
    yield Attack("G-08 tensor twice", data, TINY_TENSORS[1].name, data.rindex(length_prefixed(TINY_TENSORS[1].name)))
    yield from _offsets(attack)


def _offsets(attack: Callable[..., Attack]) -> Iterator[Attack]:
    size = sum(padded(tensor.num_bytes, 32) for tensor in TINY_TENSORS)
    for name, offset in (
        ("far beyond the end", 2**40),
        ("just beyond the end", size + 128 + 32),
        ("2^64-64 (wraps)", 2**64 - 64),
        ("2^63", 2**63),
        ("1 (misaligned)", size + 1),
        ("16 (misaligned)", size + 16),
        ("of another tensor", 0),
        ("inside another tensor", 128 + 32),
    ):
        yield attack(f"G-12 offset {name}", Tensor("zz", (32,), offset=offset), "zz.offset", 16)
    yield attack("G-12 one byte short", Tensor("zz", (32,)), "zz.offset", 16, data_bytes=size + 127)
    yield attack("G-12 swallows another", Tensor("zz", (96,), offset=0), "zz.offset", 16)
    half = tuple(Tensor(f"zz{i}", (2**30,), offset=i * 2**62) for i in range(4))
    data = tiny_model().with_tensors(*half, data_bytes=1024).build()
    yield Attack("G-12 sum of sizes", data, "zz1.offset", _after(data, "zz1") + 16, TERABYTE)


def _meanings() -> Iterator[Attack]:
    wrong: dict[str, tuple[Value | None, ...]] = {
        "llama.block_count": (u32(0), text("2"), u64(2**32), u32(2**32 - 1), u32(513), f32(2), i32(-1), boolean(1), array(4, 2)),
        "llama.attention.head_count": (u32(0), text("4"), f32(4), u32(2**31), array(4, 0, 0), array(4, 4), array(6, 4, 4),
                                       array_head(4, 5000, bytes(20000)), i32(-4)),
        "llama.attention.head_count_kv": (u32(0), i32(-1), array(4, 2, 2, 2), array(5, -1, 2), texts("2", "2"), array(4, 0, 0)),
        "llama.context_length": (u64(2**63), u32(0), u64(2**64 - 1), text("128"), f64(math.nan), u64(2**31)),
        "llama.embedding_length": (u32(0), u64(2**63), text("32"), u32(2**21)),
        "llama.feed_forward_length": (i32(-1), text("64"), u64(2**40), array(4, 1, 2, 3)),
        "llama.attention.key_length": (u32(0), u32(2**20), text("8")),
        "llama.attention.value_length": (u32(0), u64(2**33)),
        "llama.attention.sliding_window": (u64(2**40), i32(-1), text("none")),
        "llama.attention.causal": (u32(1), text("yes")),
        "llama.full_attention_interval": (u32(0),),
        "llama.expert_count": (i32(-1), u32(2**20)),
        "llama.rope.freq_base": (f32(math.nan), f32(math.inf), f32(-math.inf), f32(0), f32(-1), text("10000"), f64(math.nan)),
        "llama.rope.scaling.factor": (f32(math.nan), f32(math.inf), text("4")),
        "llama.rope.scaling.type": (u32(1),),
        "llama.rope.scale_linear": (f32(math.nan),),
        "llama.rope.dimension_sections": (array(6, 1.0, math.nan),),
        "llama.pooling_type": (text("mean"), i32(-2)),
        "general.architecture": (u32(1), text(""), text("../llama"), text("lla ma"), text("x" * 65), text("llama\n"),
                                 array(0, 1)),
        "general.name": (u32(1), array(0, 1)),
        "general.license": (u32(1),),
        "general.file_type": (text("Q4_0"), i32(-1)),
        "general.type": (u32(1),),
        "tokenizer.chat_template": (u32(1), text("x" * (2**20 + 1))),
        "tokenizer.ggml.model": (u32(1),),
        "tokenizer.ggml.tokens": (u32(4), text("a"), texts("<s>", "</s>", "a"), array_head(8, 3000, bytes(24000))),
        "tokenizer.ggml.bos_token_id": (u32(4), u32(2**32 - 1), i32(-1), text("0")),
        "tokenizer.ggml.eos_token_id": (u32(4), u64(2**63)),
        "split.count": (i32(-1), u32(2**31), text("2")),
    }  # fmt: skip
    for key, values in wrong.items():
        for number, value in enumerate(values):
            data = tiny_model(**{key: value}).build()
            yield Attack(f"G-14 {key} #{number}", data, key, _after(data, length_prefixed(key)))
    data = tiny_model(**{"general.architecture": None}).build()
    yield Attack("G-14 no architecture", data, "general.architecture", 24)
    key = "llama.expert_used_count"
    data = tiny_model(**{"llama.expert_count": u32(4), key: u32(8)}).build()
    yield Attack("G-14 more experts used than there are", data, key, _after(data, key))
    data = tiny_model(**{"general.architecture": None, "split.no": scalar(2, 2), "split.count": scalar(2, 5)}).build()
    yield Attack("G-15 not the first shard", data, "general.architecture", 24)


ATTACKS = (*_starts(), *_keys(), *_values(), *_alignments(), *_tensors(), *_meanings())
