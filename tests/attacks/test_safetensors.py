"""Hostile safetensors headers, indexes and configurations: refused by name, after little work, and nothing is run.

The letters are those of the list of attacks that the tests follow: S-01 to S-06 and K-06.
"""

from __future__ import annotations

import importlib
import json
import random
import struct
import sys
import tracemalloc
from pathlib import Path

import pytest

from support.safetensors_writer import CONFIG, framed, repository_files, safetensors_bytes, write_files
from zhibei.errors import ModelFileError
from zhibei.formats import safetensors
from zhibei.formats.hf_repository import parse_index, weight_names
from zhibei.formats.inspect import inspect_path
from zhibei.formats.safetensors import read_header

MIB = 1024 * 1024
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


class Bytes:
    """A file in memory that says how much of it was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.num_bytes = 0

    def read_at(self, offset: int, length: int) -> bytes:
        self.num_bytes += length
        return self.data[offset : offset + length]


def header_of(entries: object, data: bytes = bytes(8)) -> bytes:
    return framed(json.dumps(entries).encode(), data)


def one(**changes: object) -> bytes:
    return header_of({"a": {**ENTRY, **changes}})


def two(first: list[int], second: list[int], data: bytes = bytes(8)) -> bytes:
    entries = {
        name: {"dtype": "U8", "shape": [max(0, offsets[1] - offsets[0])], "data_offsets": offsets}
        for name, offsets in (("a", first), ("b", second))
    }
    return header_of(entries, data)


ATTACKS = {
    # S-01: the header's length, and what is no JSON of the expected kind
    "empty": b"",
    "seven bytes": bytes(7),
    "length 0": framed(b""),
    "length 1": framed(b"{"),
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "length 2**63": struct.pack("<Q", 2**63) + b"{}",
    "length 2**64-1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "length above 16 MiB": struct.pack("<Q", 16 * MIB + 1) + b"{}",
    "no JSON": framed(b"nonsense"),
    "an array": framed(b'[{"a": 1}]'),
    "a text": framed(b'"{}"'),
    "null": framed(b"null"),
    "cut JSON": framed(b'{"a": {"dtype":'),
    "not UTF-8": framed(b'{"\xff": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "half a surrogate pair": framed(rb'{"\ud800": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "deep lists": framed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep objects": framed(b'{"a":' * 100_000 + b"{}" + b"}" * 100_000),
    "deep shape": framed(b'{"a":{"dtype":"U8","shape":' + b"[" * 100_000 + b"]" * 100_000 + b',"data_offsets":[0,0]}}'),
    "an endless text": framed(b'{"' + b"a" * 1000),
    "a bad escape": framed(rb'{"\x41": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    # S-02: where tensors lie and how large they are
    "overlap": two([0, 5], [4, 8]),
    "the same place": two([0, 8], [0, 8]),
    "gap": two([0, 3], [4, 8]),
    "gap at the start": two([1, 4], [4, 8]),
    "bytes behind": two([0, 3], [3, 7]),
    "truncated": two([0, 4], [4, 9]),
    "no tensors but data": framed(b"{}", bytes(8)),
    "offsets negative": one(data_offsets=[-8, 0]),
    "offsets reversed": one(data_offsets=[8, 0]),
    "offsets 2**64": one(data_offsets=[0, 2**64]),
    "offsets wrap": one(data_offsets=[2**64 - 8, 2**64]),
    "offsets 30 digits": one(data_offsets=[0, 10**30]),
    "offsets are fractions": one(data_offsets=[0.0, 8.0]),
    "offsets with exponent": framed(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8e0]}}', bytes(8)),
    "offsets with leading zero": framed(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,08]}}', bytes(8)),
    "offsets are texts": one(data_offsets=["0", "8"]),
    "three offsets": one(data_offsets=[0, 4, 8]),
    "one offset": one(data_offsets=[8]),
    "no offset": one(data_offsets=[]),
    "offsets null": one(data_offsets=None),
    "shape and bytes differ": one(shape=[3]),
    "shape overflows to the right size": one(shape=[2**62, 4, 2]),
    "shape 2**63": one(shape=[2**63]),
    "shape of many dimensions": one(shape=[1] * 65),
    "shape negative": one(shape=[-2]),
    "shape fraction": one(shape=[2.0]),
    "shape true": one(shape=[True]),
    "shape with a comma too many": framed(b'{"a":{"dtype":"F32","shape":[2,],"data_offsets":[0,8]}}', bytes(8)),
    "shape nested": one(shape=[[2]]),
    "half a byte": header_of({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, bytes(1)),
    "type unknown": one(dtype="F33"),
    "type in lower case": one(dtype="f32"),
    "type empty": one(dtype=""),
    "type a number": one(dtype=32),
    "metadata not texts": header_of({"__metadata__": {"a": 1}, "a": ENTRY}),
    "metadata nested": header_of({"__metadata__": {"a": {}}, "a": ENTRY}),
    "metadata a list": header_of({"__metadata__": [], "a": ENTRY}),
    "metadata null": header_of({"__metadata__": None, "a": ENTRY}),
    "too much metadata": header_of({"__metadata__": {str(number): "" for number in range(10_001)}, "a": ENTRY}),
    # S-03: what is ambiguous
    "duplicate tensor": framed(b'{"a":%b,"a":%b}' % ((json.dumps(ENTRY).encode(),) * 2), bytes(8)),
    "duplicate by escape": framed(b'{"a":%b,"\\u0061":%b}' % ((json.dumps(ENTRY).encode(),) * 2), bytes(8)),
    "duplicate metadata": framed(b'{"__metadata__":{},"__metadata__":{}}'),
    "duplicate metadata key": framed(b'{"__metadata__":{"a":"1","a":"2"}}'),
    "duplicate field": framed(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "duplicate field for another": framed(b'{"a":{"dtype":"F32","shape":[2],"shape":[2]}}', bytes(8)),
    "leading space": framed(b" " + json.dumps({"a": ENTRY}).encode(), bytes(8)),
    "byte order mark": framed(b"\xef\xbb\xbf" + json.dumps({"a": ENTRY}).encode(), bytes(8)),
    "more fields": one(offset=1),
    "a field missing": header_of({"a": {"dtype": "F32", "shape": [2]}}),
    "an empty entry": header_of({"a": {}}),
    "something behind": framed(json.dumps({"a": ENTRY}).encode() + b"{}", bytes(8)),
    "zeros behind": framed(json.dumps({"a": ENTRY}).encode() + b"\0\0", bytes(8)),
    "commas": framed(b'{"a":%b,}' % json.dumps(ENTRY).encode(), bytes(8)),
    "a comma first": framed(b'{,"a":%b}' % json.dumps(ENTRY).encode(), bytes(8)),
    "single quotes": framed(json.dumps({"a": ENTRY}).replace('"', "'").encode(), bytes(8)),
    # S-04: names
    "name empty": header_of({"": ENTRY}),
    "name with NUL": header_of({"a\0b": ENTRY}),
    "name with a line end": header_of({"a\nb": ENTRY}),
    "name that turns text around": header_of({"a\u202eb": ENTRY}),
    "name of 10 MB": header_of({"a" * 10_000_000: ENTRY}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_is_refused_by_name_after_little_work(name: str) -> None:
    reader = Bytes(ATTACKS[name])
    with pytest.raises(ModelFileError) as caught:
        read_header(reader, len(reader.data))
    assert caught.value.field and len(caught.value.field) <= 201 and 0 <= caught.value.offset <= max(len(reader.data), 8)
    assert "{" not in str(caught.value) and "\0" not in str(caught.value)
    assert reader.num_bytes <= len(reader.data) + 64 * 1024


def test_a_length_is_judged_before_anything_is_read_or_held() -> None:
    for length in (16 * MIB + 1, 10**11, 2**63, 2**64 - 1):
        reader = Bytes(struct.pack("<Q", length) + b"{}" * 100)
        tracemalloc.start()
        with pytest.raises(ModelFileError, match="larger than"):
            read_header(reader, 2**62)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert reader.num_bytes <= 64 * 1024 and peak < MIB


def test_every_truncation_is_refused() -> None:
    data = safetensors_bytes()
    for size in range(len(data)):
        with pytest.raises(ModelFileError):
            read_header(Bytes(data[:size]), size)


def test_a_file_shorter_than_it_says_it_is() -> None:
    data = safetensors_bytes()
    with pytest.raises(ModelFileError, match="ends too early"):
        read_header(Bytes(data[:50]), len(data))


def test_bytes_flipped_anywhere_in_the_header_never_crash() -> None:
    original = safetensors_bytes(format="pt")
    rng = random.Random(6)
    for _ in range(3000):
        data = bytearray(original)
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(300)] = rng.randrange(256)
        try:
            header = read_header(Bytes(bytes(data)), len(data))
        except ModelFileError:
            continue
        assert header.data_offset + sum(tensor.num_bytes for tensor in header.tensors) == len(data)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":[' + b"[]," * 5 * MIB + b"[]]}",
        b'{"__metadata__":{' + b",".join(b'"%d":""' % number for number in range(10**6)) + b"}}",
        b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % number for number in range(280_000)) + b"}",
        b'{"' + b"\\n" * 8 * (MIB - 100) + b'":1}',
        b'{"a":{"dtype":"U8","shape":[' + b"1," * 8 * (MIB - 100) + b'1],"data_offsets":[0,0]}}',
    ],
    ids=["small lists", "metadata", "tensors", "escapes", "shape"],
)
def test_headers_of_16_mib_cost_little_memory(text: bytes) -> None:
    """S-05: many small things in a header of the largest allowed size."""
    reader = Bytes(framed(text))
    assert 8 * MIB < len(text) <= 16 * MIB
    tracemalloc.start()
    with pytest.raises(ModelFileError):
        read_header(reader, len(reader.data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 112 * MIB


def test_a_million_tensors_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "MAX_TENSORS", 10)
    with pytest.raises(ModelFileError, match="more than 10 tensors"):
        read_header(Bytes(data := safetensors_bytes({str(number): ("U8", (1,)) for number in range(11)})), len(data))


def test_a_tensor_that_is_named_like_a_path_is_only_a_label(tmp_path: Path) -> None:
    """S-04: nothing is made of it, in no place."""
    names = {"../../x": ("F32", (1,)), "C:\\x": ("F32", (1,)), "/etc/passwd": ("F32", (1,)), "__class__": ("F32", (1,))}
    directory = write_files(tmp_path / "m", {**repository_files(), "model.safetensors": safetensors_bytes(names)})
    before = sorted(tmp_path.rglob("*"))
    assert inspect_path(directory).num_parameters == 4
    assert sorted(tmp_path.rglob("*")) == before


class TestIndex:
    """S-06."""

    @pytest.mark.parametrize(
        "file",
        [
            "../model.safetensors", "a/../../m.safetensors", "/abs/m.safetensors", "C:\\m.safetensors", "C:m.safetensors",
            "\\\\host\\s\\m.safetensors", "a\\..\\m.safetensors", "sub/m.safetensors", "model.bin", "model.safetensors.bin",
            "con.safetensors", "COM1.safetensors", ".safetensors", ".git.safetensors", "m\0.safetensors", "m.safetensors\n",
            "m.safetensors ", "\u2024\u2024/m.safetensors", "x" * 300 + ".safetensors", "m\u202e.safetensors", "", 1, None, [],
            {"a": "model.safetensors"},
        ],
    )  # fmt: skip
    def test_names_that_are_no_file_beside_it(self, file: object) -> None:
        with pytest.raises(ModelFileError) as caught:
            parse_index(json.dumps({"weight_map": {"fine": "model.safetensors", "a": file}}).encode())
        assert caught.value.field == "model.safetensors.index.json"
        assert "\0" not in str(caught.value) and "\u202e" not in str(caught.value) and len(str(caught.value)) < 500

    @pytest.mark.parametrize(
        "data",
        [
            b"", b"[]", b"null", b'"x"', b"{", b"\xff", b"{}",
            b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": null}',
            b"[" * 100_000, b'{"weight_map":' * 50_000, b'{"weight_map": ' + b"1" * 10_000 + b"}",
        ],
    )  # fmt: skip
    def test_what_is_no_index(self, data: bytes) -> None:
        with pytest.raises(ModelFileError):
            parse_index(data)

    def test_a_million_entries(self) -> None:
        weight_map = ",".join(f'"{number}":"model.safetensors"' for number in range(10**6))
        tracemalloc.start()
        with pytest.raises(ModelFileError, match="more than"):
            parse_index(b'{"weight_map":{%b}}' % weight_map.encode())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * MIB

    def test_too_many_files(self) -> None:
        weight_map = {str(number): f"m{number}.safetensors" for number in range(1001)}
        with pytest.raises(ModelFileError, match="more than 1000 files"):
            parse_index(json.dumps({"weight_map": weight_map}).encode())

    def test_a_missing_shard_is_named(self) -> None:
        index = parse_index(b'{"weight_map": {"a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors"}}')
        with pytest.raises(ModelFileError, match=r"m-00002-of-00002\.safetensors is missing"):
            weight_names(["m-00001-of-00002.safetensors"], index)

    def test_a_name_of_a_billion_shards(self) -> None:
        with pytest.raises(ModelFileError, match="is missing"):
            weight_names(["m-00001-of-99999.safetensors", "m-00002-of-99999.safetensors"], None)


def test_a_configuration_runs_nothing(tmp_path: Path) -> None:
    """K-06: an audit hook sees no import and nothing run, and the code beside it leaves no trace."""
    canary = tmp_path / "canary"
    code = f"from pathlib import Path\nPath({str(canary)!r}).write_text('run')\n".encode()
    hostile = {
        "auto_map": {"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.X"},
        "trust_remote_code": True,
        "_attn_implementation_internal": "modeling_x:run",
        "_attn_implementation": "http://127.0.0.1:9/x",
        "quantization_config": {"quant_method": "__import__('os').system('true')", "modules": ["modeling_x"]},
    }
    files = {**repository_files(**hostile), "modeling_x.py": code, "config.py": code, "sitecustomize.py": code}
    directory = write_files(tmp_path / "m", files)
    importlib.invalidate_caches()
    inspect_path(write_files(tmp_path / "other", repository_files()))
    seen: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event.partition(".")[0] in ("import", "exec", "compile", "subprocess", "socket", "os"):
            seen.append(event if event != "import" else f"import {arguments[0]}")

    sys.addaudithook(watch)
    info = inspect_path(directory)
    watching = False
    assert [event for event in seen if event not in ("os.listdir", "os.scandir")] == []
    assert not canary.exists()
    assert any("auto_map" in warning for warning in info.warnings)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 0}, {"num_hidden_layers": "2"}, {"num_hidden_layers": 2**32}, {"num_hidden_layers": 2.0},
        {"num_hidden_layers": True}, {"num_attention_heads": -1}, {"num_key_value_heads": [2]}, {"num_key_value_heads": [2, "2"]},
        {"max_position_embeddings": 2**63}, {"vocab_size": -5}, {"vocab_size": 10**300}, {"hidden_size": []},
        {"rope_theta": 0}, {"rope_theta": float("nan")}, {"rope_theta": float("inf")}, {"rope_theta": "1e6"},
        {"rope_scaling": {"type": 5}}, {"model_type": "../x"}, {"model_type": 5}, {"model_type": None, "architectures": []},
        {"num_experts": 4, "num_experts_per_tok": 5}, {"head_dim": 2**40}, {"sliding_window": -1},
    ],
)  # fmt: skip
def test_a_configuration_with_values_that_no_model_has(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ModelFileError) as caught:
        inspect_path(write_files(tmp_path, repository_files(**changes)))
    assert caught.value.field.startswith("config.json")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": [' + b"[]," * 200_000 + b"[]]}", b" " * (MIB + 1) + b"{}",
    ],
    ids=range(9),
)  # fmt: skip
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_documents_that_are_not_what_they_should_be(tmp_path: Path, name: str, data: bytes) -> None:
    if name == "tokenizer_config.json" and data.startswith(b" "):
        data = b" " * 4 * MIB + b"{}"
    files = {**repository_files(), name: data}
    with pytest.raises(ModelFileError) as caught:
        inspect_path(write_files(tmp_path, files))
    assert caught.value.field == name


def test_odd_kinds_where_nothing_depends_on_them_are_ignored(tmp_path: Path) -> None:
    odd = {"architectures": "x", "rope_scaling": [], "layer_types": 7, "quantization_config": [], "text_config": 3, "dtype": {}}
    info = inspect_path(write_files(tmp_path, repository_files(**odd)))
    assert (info.architecture, info.num_layers) == (CONFIG["model_type"], CONFIG["num_hidden_layers"])
