"""Measurements: how they are taken, kept and read back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from zhibei.errors import StoreError
from zhibei.hardware import bandwidth, disk
from zhibei.hardware.bandwidth import Effort
from zhibei.hardware.document import document
from zhibei.hardware.measured import MatrixSpeed, Measured, ReadSpeed, fingerprint, load, parse, save, with_measured
from zhibei.plans import Gpu, Hardware

GIB, MIB = 1 << 30, 1 << 20
MACHINE = Hardware("A processor", 4, 8, 16 * GIB, 12 * GIB, (Gpu("A card", "NVIDIA", 8 * GIB, 7 * GIB),), l3_bytes=32 * MIB)
NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
FULL = Measured(
    fingerprint(MACHINE),
    NOON,
    read=(ReadSpeed(1, 10_000_000_000), ReadSpeed(2, 18_000_000_000), ReadSpeed(4, 17_000_000_000)),
    copy_bytes_per_s=5_000_000_000,
    disk_bytes_per_s=3_000_000_000,
    is_disk_cached=False,
    matrix=(MatrixSpeed("Q8_0", 1, 40_000_000_000), MatrixSpeed("Q8_0", 4, 150_000_000_000)),
)


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "state" / "hardware.json"
    save(path, FULL)
    assert load(path, FULL.fingerprint) == FULL
    assert load(path, "another machine") is None
    assert [file.name for file in path.parent.iterdir()] == ["hardware.json"]
    bare = Measured(FULL.fingerprint, NOON)
    save(path, bare)
    assert load(path, FULL.fingerprint) == bare


def test_the_best_of_each() -> None:
    assert (FULL.best_read_bytes_per_s, FULL.best_ops_per_s("Q8_0"), FULL.best_ops_per_s("F16")) == (
        18 * 10**9,
        150 * 10**9,
        None,
    )
    assert Measured("x", NOON).best_read_bytes_per_s is None
    assert with_measured(MACHINE, FULL).bandwidth_bytes_per_s == 18 * 10**9
    assert with_measured(MACHINE, None) == MACHINE


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "{}", '{"version": 2}', "[" * 50_000, '{"version": 1}', "\xff"])
def test_a_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hardware.json"
    path.write_bytes(text.encode("latin-1"))
    assert load(path, FULL.fingerprint) is None


WRONG: list[dict[str, Any]] = [
    {"read": 5},
    {"read": [5, {"num_threads": 0, "bytes_per_s": 1}, {"num_threads": 1, "bytes_per_s": "x"}, {"num_threads": 1}]},
    {"copy_bytes_per_s": -1},
    {"disk_bytes_per_s": 1e9},
    {"is_disk_cached": "yes"},
    {"matrix": [{"kind": "\x1b[2J", "num_threads": 1, "ops_per_s": 1}, {"kind": "x" * 99, "num_threads": 1, "ops_per_s": 1}]},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_values_of_a_wrong_kind_are_dropped(wrong: dict[str, Any]) -> None:
    found = parse({**FULL.document(), **wrong})
    assert found is not None
    (name,) = wrong
    assert getattr(found, name) in (None, ())
    others = {item.name for item in fields(found)} - {name}
    assert all(getattr(found, other) == getattr(FULL, other) for other in others)


@pytest.mark.parametrize("wrong", [{"fingerprint": 5}, {"measured_at": "noon"}, {"measured_at": 5}, {"version": "1"}])
def test_without_machine_or_time_there_is_nothing(wrong: dict[str, Any]) -> None:
    assert parse({**FULL.document(), **wrong}) is None


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be written"):
        save(tmp_path / "state" / "hardware.json", FULL)


def test_the_fingerprint_is_that_of_the_machine() -> None:
    mark = fingerprint(MACHINE)
    same = (replace(MACHINE, available_bytes=0), replace(MACHINE, total_bytes=16 * GIB - 50 * MIB), replace(MACHINE, system="x"))
    other = (replace(MACHINE, cpu_name="B"), replace(MACHINE, num_physical_cores=2), replace(MACHINE, gpus=()))
    assert {fingerprint(machine) for machine in same} == {mark}
    assert mark not in {fingerprint(machine) for machine in other}
    busy = replace(MACHINE, gpus=(replace(MACHINE.gpus[0], free_bytes=0),))
    assert fingerprint(busy) == mark


def test_measured_once_and_again_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Path | None] = []

    def measure(hardware: Hardware, file: Path | None) -> Measured:
        taken.append(file)
        return replace(FULL, copy_bytes_per_s=len(taken))

    monkeypatch.setattr(bandwidth, "measure", measure)
    assert bandwidth.kept(tmp_path, MACHINE) is None
    first = bandwidth.measured(tmp_path, MACHINE, file=Path("model"))
    assert bandwidth.measured(tmp_path, MACHINE) == first == bandwidth.kept(tmp_path, MACHINE)
    assert bandwidth.measured(tmp_path, MACHINE, again=True).copy_bytes_per_s == 2
    assert taken == [Path("model"), None]


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (64, (1, 2, 4, 8, 16, 32, 64))]
)
def test_numbers_of_threads(cores: int, counts: tuple[int, ...]) -> None:
    assert bandwidth.thread_counts(cores) == counts


@pytest.mark.parametrize(
    ("l3", "available", "expected"),
    [
        (None, 12 * GIB, 256 * MIB),
        (32 * MIB, 12 * GIB, 256 * MIB),
        (128 * MIB, 12 * GIB, 512 * MIB),
        (1024 * MIB, 100 * GIB, None),
        (32 * MIB, GIB, 128 * MIB),
        (32 * MIB, 256 * MIB, None),
        (None, None, None),
    ],
)
def test_the_buffer_is_larger_than_the_caches_and_small_in_the_memory(
    l3: int | None, available: int | None, expected: int | None
) -> None:
    machine = replace(MACHINE, l3_bytes=l3, available_bytes=available)
    assert bandwidth.buffer_size(machine, Effort()) == expected


def clock() -> Any:
    """Time that passes a second at each look, whoever looks."""
    lock = threading.Lock()

    def ticks() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += 1.0

    source = ticks()

    def look() -> float:
        with lock:
            return next(source)

    return look


def test_read_and_copy_speed_are_bytes_by_time() -> None:
    assert bandwidth.read_speeds((1,), 4 * MIB, 1.0, clock()) == (ReadSpeed(1, 4 * MIB // 2),)
    assert bandwidth.copy_speed(4 * MIB, 1.0, clock()) == 2 * MIB // 2


def test_all_threads_read_their_part() -> None:
    found = bandwidth.read_speeds((1, 2, 3), 6 * MIB, 0.0)
    assert [speed.num_threads for speed in found] == [1, 2, 3]
    assert all(speed.bytes_per_s > 0 for speed in found)


def test_without_the_c_library_python_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_c_search", lambda: None)
    assert bandwidth.read_speeds((1,), MIB, 1.0, clock()) == (ReadSpeed(1, MIB // 2),)


def test_disk_speed(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(32 * MIB))
    found = disk.read_speed(file, 100.0, clock())
    assert found is not None and found.bytes_per_s == 32 * MIB // 6
    small = tmp_path / "small"
    small.write_bytes(b"x")
    assert disk.read_speed(small) is None
    assert disk.read_speed(tmp_path / "none") is None
    assert disk.read_speed(tmp_path) is None


def test_a_file_that_stays_in_memory_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(16 * MIB))
    monkeypatch.setattr(disk, "_forget", lambda fileno: False)
    found = disk.read_speed(file, 100.0, clock())
    assert found is not None and found.is_cached


def test_room_where_a_directory_will_be(tmp_path: Path) -> None:
    found = disk.room(tmp_path / "not" / "yet")
    assert found is not None and 0 <= found.free_bytes <= found.total_bytes
    assert disk.room(tmp_path) is not None


@pytest.mark.parametrize("printed", [b"", b"{}", b"7", b"[7]", b'[{"kind": "F16"}]', b"[" * 100_000])
def test_a_program_that_prints_something_else(printed: bytes) -> None:
    assert bandwidth.parse_matrix_speeds(printed) == ()


def test_what_the_engine_prints_before_is_passed_over() -> None:
    printed = b'repack: something [7]\n[{"kind": "F16", "num_threads": 2, "ops_per_s": 5}]'
    assert bandwidth.parse_matrix_speeds(printed) == (MatrixSpeed("F16", 2, 5),)


def test_matrix_speeds_of_no_library(tmp_path: Path) -> None:
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"not a library")
    assert bandwidth.matrix_speeds((1,), broken) == ()


def test_matrix_speeds_of_the_engine() -> None:
    library = bandwidth.engine_library()
    if library is None:
        pytest.skip("the engine is not installed")
    found = bandwidth.matrix_speeds((1,), library)
    assert [(speed.kind, speed.num_threads) for speed in found] == [("F16", 1), ("Q8_0", 1), ("Q4_0", 1)]
    assert all(10**8 < speed.ops_per_s < 10**14 for speed in found)


def test_a_whole_measurement(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(16 * MIB))
    machine = replace(MACHINE, num_physical_cores=1, l3_bytes=MIB)
    found = bandwidth.measure(machine, file, Effort(4 * MIB, 20 * MIB, 0.0))
    assert found.fingerprint == fingerprint(machine)
    assert found.best_read_bytes_per_s and found.copy_bytes_per_s and found.disk_bytes_per_s


def test_the_document_has_every_fact() -> None:
    found = document(MACHINE, FULL)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == set(asdict(MACHINE)) | {"measured"}
    assert found["gpus"][0] == asdict(MACHINE.gpus[0])
    assert parse(found["measured"]) == FULL
    assert document(MACHINE)["measured"] is None
