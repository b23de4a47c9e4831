"""What was measured on this machine, and the file that keeps it. Values and their JSON; it measures nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zhibei.errors import StoreError
from zhibei.hardware.quantities import whole
from zhibei.plans import Hardware

FILE_NAME = "hardware.json"
MAX_FILE_BYTES = 64 << 10
_VERSION = 1
_MAX_RATE = 10**15
_MAX_ROWS = 64
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class ReadSpeed:
    """How fast so many threads together read memory that no cache holds."""

    num_threads: int
    bytes_per_s: int


@dataclass(frozen=True, slots=True)
class MatrixSpeed:
    """Multiplications and additions per second of the engine's own matrix product, weights of ``kind`` times F32."""

    kind: str
    num_threads: int
    ops_per_s: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of one machine. ``is_disk_cached``: the file may have come from memory, so the speed says little."""

    fingerprint: str
    measured_at: datetime
    read: tuple[ReadSpeed, ...] = ()
    copy_bytes_per_s: int | None = None
    disk_bytes_per_s: int | None = None
    is_disk_cached: bool | None = None
    matrix: tuple[MatrixSpeed, ...] = ()

    @property
    def best_read_bytes_per_s(self) -> int | None:
        """The read speed with the number of threads that reads fastest."""
        return max((speed.bytes_per_s for speed in self.read), default=None)

    def best_ops_per_s(self, kind: str) -> int | None:
        """The matrix speed of a kind with the number of threads that is fastest."""
        return max((speed.ops_per_s for speed in self.matrix if speed.kind == kind), default=None)

    def document(self) -> dict[str, Any]:
        """As a JSON document."""
        return {
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "measured_at": self.measured_at.isoformat(),
            "read": [{"num_threads": speed.num_threads, "bytes_per_s": speed.bytes_per_s} for speed in self.read],
            "copy_bytes_per_s": self.copy_bytes_per_s,
            "disk_bytes_per_s": self.disk_bytes_per_s,
            "is_disk_cached": self.is_disk_cached,
            "matrix": [
                {"kind": speed.kind, "num_threads": speed.num_threads, "ops_per_s": speed.ops_per_s} for speed in self.matrix
            ],
        }


def with_measured(hardware: Hardware, measured: Measured | None) -> Hardware:
    """The machine with its measured memory bandwidth."""
    speed = None if measured is None else measured.best_read_bytes_per_s
    return hardware if speed is None else replace(hardware, bandwidth_bytes_per_s=speed)


def fingerprint(hardware: Hardware) -> str:
    """What a measurement holds for: the same processor, cores, size of memory and GPUs."""
    # The size a system reports changes by some MiB with its kernel.
    memory = None if hardware.total_bytes is None else round(hardware.total_bytes / _GIB)
    facts = [
        hardware.cpu_name,
        hardware.num_physical_cores,
        hardware.num_logical_cores,
        memory,
        [[gpu.name, gpu.total_bytes] for gpu in hardware.gpus],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def load(path: Path, expected: str) -> Measured | None:
    """What is kept for the machine with this fingerprint; None if there is nothing, or nothing that can be read."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_FILE_BYTES + 1))
    except (OSError, ValueError, RecursionError):
        return None
    measured = parse(found)
    return measured if measured is not None and measured.fingerprint == expected else None


def save(path: Path, measured: Measured) -> None:
    """Keep it; a reader sees the old file or the new one.

    Raises:
        StoreError: the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(measured.document(), indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StoreError("The measurements cannot be written to {path}: {reason}.", path=path, reason=error.strerror) from error


def parse(found: object) -> Measured | None:
    """Measurements out of a JSON document; None if it is none of this version."""
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        return None
    mark, moment = found.get("fingerprint"), _moment(found.get("measured_at"))
    if not isinstance(mark, str) or moment is None:
        return None
    is_cached = found.get("is_disk_cached")
    return Measured(
        mark,
        moment,
        read=tuple(speed for speed in map(_read_speed, _rows(found, "read")) if speed),
        copy_bytes_per_s=whole(found.get("copy_bytes_per_s"), 1, _MAX_RATE),
        disk_bytes_per_s=whole(found.get("disk_bytes_per_s"), 1, _MAX_RATE),
        is_disk_cached=is_cached if isinstance(is_cached, bool) else None,
        matrix=tuple(speed for speed in map(matrix_speed, _rows(found, "matrix")) if speed),
    )


def matrix_speed(row: Mapping[str, Any]) -> MatrixSpeed | None:
    """One row of matrix speeds out of JSON."""
    kind, threads = row.get("kind"), whole(row.get("num_threads"), 1, 4096)
    speed = whole(row.get("ops_per_s"), 1, 10**18)
    is_kind = isinstance(kind, str) and 0 < len(kind) <= 16 and kind.isascii() and kind.isprintable()
    return MatrixSpeed(str(kind), threads, speed) if is_kind and threads and speed else None


def _read_speed(row: Mapping[str, Any]) -> ReadSpeed | None:
    threads, speed = whole(row.get("num_threads"), 1, 4096), whole(row.get("bytes_per_s"), 1, _MAX_RATE)
    return ReadSpeed(threads, speed) if threads and speed else None


def _rows(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    rows = found.get(name)
    return [row for row in rows[:_MAX_ROWS] if isinstance(row, dict)] if isinstance(rows, list) else []


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=timezone.utc)
