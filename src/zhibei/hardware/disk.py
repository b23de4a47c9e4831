"""Room on a disk, and how fast a file on it can be read."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 8 << 20
_MAX_READ_BYTES = 1 << 30
_MIN_READ_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes on the file system that a directory is on, or will be."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """``is_cached``: the system could not be told to forget the file, so memory may have answered."""

    bytes_per_s: int
    is_cached: bool


def room(directory: Path) -> Room | None:
    """The room where a directory is, or where it would be made; None if the system does not tell."""
    for place in (directory, *directory.parents):
        try:
            usage = shutil.disk_usage(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return Room(usage.total, usage.free)
    return None


def read_speed(file: Path, seconds: float = 1.5, clock: Callable[[], float] = time.perf_counter) -> DiskSpeed | None:
    """Read the file's beginning for some time, as it lies on the disk. None if it is too small or cannot be read."""
    buffer = bytearray(_BLOCK_BYTES)
    try:
        with file.open("rb", buffering=0) as opened:
            if os.fstat(opened.fileno()).st_size < _MIN_READ_BYTES:
                return None
            is_cached = not _forget(opened.fileno())
            start, done = clock(), 0
            while done < _MAX_READ_BYTES and clock() - start < seconds:
                count = opened.readinto(buffer)
                if not count:
                    break
                done += count
            passed = clock() - start
    except OSError:
        return None
    return DiskSpeed(int(done / passed), is_cached) if passed > 0 and done >= _MIN_READ_BYTES else None


def _forget(fileno: int) -> bool:
    """Drop a file's pages from memory; pages that another process maps stay."""
    if sys.platform != "linux":
        return False
    try:
        os.posix_fadvise(fileno, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        return False
    return True
