"""Broken and hostile GGUF headers: refused with the field and the byte, after little work, whatever the file says.

The rows are in tests/support/gguf_attacks.py, by the numbers of the security checklist.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.gguf_attacks import ATTACKS, Attack, CountingReader
from support.gguf_writer import tiny_model
from zhibei.errors import ModelFileError
from zhibei.formats.gguf import read_header
from zhibei.models import ModelInfo

TESTS = Path(__file__).parents[1]
MAX_PEAK_BYTES = 64 * 1024 * 1024


@pytest.fixture(scope="module")
def guarded() -> dict[str, dict[str, float | str | None]]:
    """What a child process with limited memory and CPU time measured for every attack."""
    command = [sys.executable, "-m", "support.gguf_guard"]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


def test_names_are_unique() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_is_refused_with_field_and_byte(attack: Attack) -> None:
    reader = attack.reader()
    with pytest.raises(ModelFileError) as caught:
        read_header(reader, size_bytes=attack.size_bytes)
    assert (caught.value.field, caught.value.offset) == (attack.field, attack.offset)
    assert str(attack.offset) in str(caught.value) and "{" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_reads_little(attack: Attack) -> None:
    reader = attack.reader()
    with pytest.raises(ModelFileError):
        read_header(reader, size_bytes=attack.size_bytes)
    # Reads grow from 64 KiB to 1 MiB, so that the number of reads follows from the bytes that had to be passed.
    assert reader.num_calls <= 5 + reader.num_bytes // 2**20
    assert reader.num_bytes <= 64 * 2**20
    assert reader.largest <= 2 * 2**20


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_costs_little(attack: Attack, guarded: dict[str, dict[str, float | str | None]]) -> None:
    row = guarded[attack.name]
    assert row["error"] == "ModelFileError"
    assert row["peak_bytes"] < MAX_PEAK_BYTES


def test_every_truncation() -> None:
    data = tiny_model().build()
    end_of_last_tensor = len(data.rstrip(b"\0"))
    for length in range(len(data)):
        try:
            info = read_header(CountingReader(data[:length], length), size_bytes=length)
        except ModelFileError as error:
            assert 0 <= error.offset <= length
        else:
            assert isinstance(info, ModelInfo)
            assert length >= end_of_last_tensor


def test_every_truncation_behind_a_size_that_lies() -> None:
    """A remote file whose promised size is right but whose bytes stop early."""
    data = tiny_model().build()
    header = len(tiny_model().header())
    for length in range(header):
        with pytest.raises(ModelFileError):
            read_header(CountingReader(data[:length], length), size_bytes=len(data))


def test_every_byte_changed() -> None:
    data = tiny_model().build()
    for position in range(len(tiny_model().header())):
        for value in (0, 0x7F, 0xFF, data[position] ^ 1, data[position] ^ 0x80):
            changed = data[:position] + bytes([value]) + data[position + 1 :]
            try:
                assert isinstance(read_header(CountingReader(changed, len(changed)), size_bytes=len(changed)), ModelInfo)
            except ModelFileError as error:
                assert 0 <= error.offset <= len(changed)


@pytest.mark.parametrize("trailing", [0, 31])
def test_padding_at_the_end_is_fine(trailing: int) -> None:
    data = tiny_model().build() + bytes(trailing)
    assert read_header(CountingReader(data, len(data)), size_bytes=len(data)).warnings == ()


def test_trailing_bytes_are_flagged() -> None:
    """G-13: a GGUF file that is also a ZIP archive."""
    archive = b"PK\x05\x06" + bytes(18) + b"x" * 42
    data = tiny_model().build() + archive
    warnings = read_header(CountingReader(data, len(data)), size_bytes=len(data)).warnings
    assert warnings == ("64 bytes at the end belong to no tensor.",)


def test_size_that_no_file_has() -> None:
    for size in (-1, 2**63):
        with pytest.raises(ModelFileError) as caught:
            read_header(CountingReader(b"GGUF", 4), size_bytes=size)
        assert caught.value.field == "size"
