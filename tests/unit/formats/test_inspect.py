"""Files on this disk: opened safely, and named for what they are when they are not models."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from support.gguf_writer import tiny_model
from zhibei.errors import ModelFileError, ModelNotFound, StoreError
from zhibei.formats.inspect import FileReader, Reader, inspect_path


def archive() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("data.pkl", b"x")
    return held.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"\n  <HTML lang='en'>", "HTML page"),
        (b"<?xml version='1.0'?><Error/>", "HTML page"),
        (b'{"error": "Repository not found"}', "JSON document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (archive(), "ZIP archive"),
        (pickle.dumps({"a": 1}), "Python pickle"),
        (safetensors(), "safetensors"),
        (b"ggjt" + bytes(20), "old GGML"),
        (b"lmgg" + bytes(20), "old GGML"),
        (b"\x1f\x8b\x08" + bytes(20), "compressed archive"),
        (b"\x7fELF" + bytes(20), "program"),
        (bytes(1000), "made of zeros"),
        (b"hello", "unknown kind"),
        (b"GGU", "unknown kind"),
        (b"\xbe\r\xaa\xea" + bytes([1, 2, 3]) * 9, "it is "),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, kind: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=kind) as caught:
        inspect_path(path)
    assert (caught.value.field, caught.value.offset) == ("magic", 0)


def test_a_model(tmp_path: Path) -> None:
    path = tmp_path / "模型.gguf"
    path.write_bytes(tiny_model().build())
    assert inspect_path(path).name == "tiny"


@pytest.mark.model
def test_a_real_model(smollm2_path: Path) -> None:
    info = inspect_path(smollm2_path)
    assert (info.architecture, info.num_layers, info.num_kv_heads) == ("llama", 30, (3,) * 30)
    assert (info.num_parameters, info.quantisation, info.vocabulary_size) == (134515008, "Q4_1", 49152)
    assert (info.context_length, info.key_length, info.value_length) == (8192, 64, 64)
    assert info.warnings == ()


def test_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "no.gguf", tmp_path / "no" / "no.gguf", tmp_path / "a\0b.gguf"):
        with pytest.raises(ModelNotFound):
            inspect_path(path)
    with pytest.raises(ModelNotFound, match="is a directory"):
        inspect_path(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFOs")
def test_a_fifo_is_refused_and_does_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "fifo.gguf"
    os.mkfifo(path)
    with pytest.raises(ModelNotFound, match="not a regular file"):
        inspect_path(path)
    with pytest.raises(ModelNotFound, match="not a regular file"):
        inspect_path(Path("/dev/zero"))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    with pytest.raises(StoreError, match="Permission denied"):
        inspect_path(path)


def test_reader(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)))
    with FileReader(path) as reader:
        held: Reader = reader
        assert reader.size_bytes == 256
        assert held.read_at(10, 3) == bytes([10, 11, 12])
        assert held.read_at(250, 100) == bytes(range(250, 256))
        assert held.read_at(1000, 1) == b""
    reader.close()
    with pytest.raises(StoreError):
        reader.read_at(0, 1)
