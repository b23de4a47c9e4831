"""Measurements of a few seconds: memory, disk and matrix products. Owns how it is measured; ``measured`` keeps the values."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zhibei.hardware import disk, matrix
from zhibei.hardware.measured import FILE_NAME, MatrixSpeed, Measured, ReadSpeed, fingerprint, load, matrix_speed, save
from zhibei.plans import Hardware

MATRIX_PATIENCE_S = 45
_MAX_MATRIX_OUTPUT = 64 << 10
_MIB = 1 << 20
_FILLED, _SOUGHT = 1, 2
_ROUNDS = 3

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is spent: buffer sizes in bytes, and the seconds of one round."""

    smallest_buffer_bytes: int = 256 * _MIB
    largest_buffer_bytes: int = 2048 * _MIB
    seconds: float = 0.12


def measured(state_directory: Path, hardware: Hardware, *, file: Path | None = None, again: bool = False) -> Measured:
    """The measurements of this machine: those that are kept, or new ones.

    Args:
        state_directory: where they are kept, as ``FILE_NAME``.
        hardware: the machine, as ``detect`` describes it.
        file: one whose reading tells the disk's speed.
        again: measure even if there are some.

    Raises:
        StoreError: new ones cannot be kept.
    """
    path = state_directory / FILE_NAME
    kept = None if again else load(path, fingerprint(hardware))
    if kept is None:
        kept = measure(hardware, file)
        save(path, kept)
    return kept


def kept(state_directory: Path, hardware: Hardware) -> Measured | None:
    """The measurements that are kept of this machine, if any; takes no time."""
    return load(state_directory / FILE_NAME, fingerprint(hardware))


def measure(hardware: Hardware, file: Path | None = None, effort: Effort | None = None) -> Measured:
    """Measure this machine. Takes a few seconds, and all its cores."""
    effort = effort or Effort()
    cores = hardware.num_physical_cores or 1
    size = buffer_size(hardware, effort)
    read = read_speeds(thread_counts(cores), size, effort.seconds) if size else ()
    speed = disk.read_speed(file) if file is not None else None
    return Measured(
        fingerprint(hardware),
        datetime.now(timezone.utc),
        read=read,
        copy_bytes_per_s=copy_speed(size, effort.seconds) if size else None,
        disk_bytes_per_s=None if speed is None else speed.bytes_per_s,
        is_disk_cached=None if speed is None else speed.is_cached,
        matrix=matrix_speeds(tuple(dict.fromkeys((1, cores)))),
    )


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4 … and all cores: the memory is often full before all of them read."""
    counts = [1]
    while counts[-1] * 2 < cores:
        counts.append(counts[-1] * 2)
    return tuple(dict.fromkeys((*counts, max(1, cores))))


def buffer_size(hardware: Hardware, effort: Effort) -> int | None:
    """Bytes that no cache holds: four times the last cache, within an eighth of what is free. None: no room for it."""
    wanted = max(effort.smallest_buffer_bytes, 4 * (hardware.l3_bytes or hardware.l2_bytes or 0))
    room = min(effort.largest_buffer_bytes, (hardware.available_bytes or 0) // 8)
    return min(wanted, room) // _MIB * _MIB if room >= 2 * (hardware.l3_bytes or 0) + 16 * _MIB else None


def read_speeds(counts: Iterable[int], size: int, seconds: float, clock: Clock = time.perf_counter) -> tuple[ReadSpeed, ...]:
    """Read speed with each number of threads. Each thread searches its part for a byte that is not in it."""
    found = []
    for count in counts:
        with ThreadPoolExecutor(count) as pool:
            # A part is written first by the thread that reads it, so it lies in that thread's memory.
            parts = [part.result() for part in [pool.submit(_Part, size // count) for _ in range(count)]]
            # The best of some rounds: what other programs take makes memory look slower, never faster.
            speed = max(filter(None, (_together(parts, seconds, clock, pool) for _ in range(_ROUNDS))), default=None)
        if speed:
            found.append(ReadSpeed(count, speed))
    return tuple(found)


class _Part:
    """One thread's part of the memory, and the C library's search, which runs without Python's lock."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._memory = bytearray(bytes([_FILLED])) * size
        self._search = _c_search()
        self._address = (ctypes.c_char * size).from_buffer(self._memory)

    def pass_over(self) -> None:
        """Look at every byte once."""
        if self._search is not None:
            self._search(self._address, _SOUGHT, self.size)
        else:
            # Python's own search keeps its lock: the speed of one thread, whatever their number.
            self._memory.find(_SOUGHT)


def _c_search() -> Any | None:
    """The C library's ``memchr``, which looks at memory as fast as the processor can."""
    try:
        library = ctypes.CDLL(None if sys.platform != "win32" else "msvcrt")
        search = library.memchr
    except (OSError, AttributeError, TypeError):
        return None
    search.restype = ctypes.c_void_p
    search.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    return search


def _together(parts: list[_Part], seconds: float, clock: Clock, pool: ThreadPoolExecutor) -> int | None:
    """Bytes per second while all threads read."""
    start_line = threading.Barrier(len(parts))

    def run(part: _Part) -> tuple[float, float, int]:
        start_line.wait()
        begin, passes = clock(), 0
        while passes == 0 or clock() - begin < seconds:
            part.pass_over()
            passes += 1
        return begin, clock(), passes * part.size

    runs = list(pool.map(run, parts))
    passed = max(end for _, end, _ in runs) - min(begin for begin, _, _ in runs)
    return int(sum(done for _, _, done in runs) / passed) if passed > 0 else None


def copy_speed(size: int, seconds: float, clock: Clock = time.perf_counter) -> int | None:
    """Bytes per second that one thread copies; each is read once and written once."""
    half = size // 2
    source, target = ctypes.create_string_buffer(half), ctypes.create_string_buffer(half)
    ctypes.memset(source, _FILLED, half)
    ctypes.memmove(target, source, half)
    begin, passes = clock(), 0
    while passes == 0 or clock() - begin < seconds:
        ctypes.memmove(target, source, half)
        passes += 1
    passed = clock() - begin
    return int(passes * half / passed) if passed > 0 else None


def matrix_speeds(threads: tuple[int, ...], library: Path | None = None) -> tuple[MatrixSpeed, ...]:
    """Speeds of the engine's matrix product; none if it is not installed, or does not do it."""
    library = library or engine_library()
    if library is None:
        return ()
    command = [sys.executable, "-I", str(Path(matrix.__file__)), str(library), *map(str, threads)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=MATRIX_PATIENCE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_matrix_speeds(done.stdout[:_MAX_MATRIX_OUTPUT]) if done.returncode == 0 else ()


def parse_matrix_speeds(printed: bytes) -> tuple[MatrixSpeed, ...]:
    """The rows in the last line that the program prints; the engine may print lines of its own before."""
    try:
        rows = json.loads(printed[printed.rfind(b"\n", 0, -1) + 1 :])
    except (ValueError, RecursionError):
        return ()
    listed = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return tuple(speed for speed in map(matrix_speed, listed) if speed is not None)


def engine_library() -> Path | None:
    """The engine's shared library, found without loading it."""
    package = importlib.util.find_spec("xllamacpp")
    for place in (package.submodule_search_locations or ()) if package is not None else ():
        for pattern in ("xllamacpp*.so", "xllamacpp*.pyd"):
            found = next(iter(sorted(Path(place).glob(pattern))), None)
            if found is not None:
                return found
    return None
