"""A disk that stops at the n-th operation: as an exception from there on, or by killing the process."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

from zhibei.store.disk import Disk


class Stopped(BaseException):
    """The power is gone: nothing after this point reaches the disk."""


class FaultyDisk(Disk):
    """Counts operations; the one with the number ``stop_at`` and all later ones do not happen.

    ``log`` holds what was done: (operation, paths or file). ``kill``: SIGKILL instead of an exception. ``code``: an OSError
    with this errno, and the process lives on; for ``times`` operations, None: for all that follow.
    """

    def __init__(
        self, stop_at: int | None = None, *, kill: bool = False, code: int | None = None, times: int | None = None
    ) -> None:
        self.stop_at = stop_at
        self._code = code
        self._times = times
        self.num_operations = 0
        self.log: list[tuple[str, str]] = []
        self._kill = kill
        self._names: dict[int, str] = {}

    def _step(self, operation: str, *subjects: object) -> None:
        self.num_operations += 1
        if self._is_struck():
            if self._kill:
                os.kill(os.getpid(), signal.SIGKILL)
            if self._code is not None:
                raise OSError(self._code, os.strerror(self._code))
            raise Stopped
        self.log.append((operation, " ".join(map(str, subjects))))

    def _is_struck(self) -> bool:
        if self.stop_at is None or self.num_operations < self.stop_at:
            return False
        return self._times is None or self.num_operations < self.stop_at + self._times

    def make_directories(self, path: Path) -> None:
        self._step("make_directories", path)
        super().make_directories(path)

    def make_directory(self, path: Path) -> None:
        self._step("make_directory", path)
        super().make_directory(path)

    def open_new(self, path: Path) -> int:
        self._step("open_new", path)
        fileno = super().open_new(path)
        self._names[fileno] = str(path)
        return fileno

    def open_existing(self, path: Path) -> int:
        self._step("open_existing", path)
        fileno = super().open_existing(path)
        self._names[fileno] = str(path)
        return fileno

    def write(self, fileno: int, data: bytes | memoryview) -> None:
        half = len(data) // 2
        self._step("write", self._names[fileno])
        super().write(fileno, memoryview(data)[:half])
        self._step("write", self._names[fileno])
        super().write(fileno, memoryview(data)[half:])

    def write_at(self, fileno: int, data: bytes | memoryview, offset: int) -> None:
        half = len(data) // 2
        self._step("write", self._names[fileno])
        super().write_at(fileno, memoryview(data)[:half], offset)
        self._step("write", self._names[fileno])
        super().write_at(fileno, memoryview(data)[half:], offset + half)

    def truncate(self, fileno: int, size_bytes: int) -> None:
        self._step("truncate", self._names[fileno])
        super().truncate(fileno, size_bytes)

    def sync(self, fileno: int) -> None:
        self._step("sync", self._names[fileno])
        super().sync(fileno)

    def sync_directory(self, path: Path) -> None:
        self._step("sync_directory", path)
        super().sync_directory(path)

    def replace(self, source: Path, target: Path) -> None:
        self._step("replace", source, target)
        super().replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        self._step("link", source, target)
        super().link(source, target)

    def rename_directory(self, source: Path, target: Path) -> None:
        self._step("rename_directory", source, target)
        super().rename_directory(source, target)

    def remove(self, path: Path) -> None:
        self._step("remove", path)
        super().remove(path)

    def remove_directory(self, path: Path) -> None:
        self._step("remove_directory", path)
        super().remove_directory(path)


class SmallDisk(Disk):
    """A disk with room for so many bytes; ``code`` is the errno beyond (ENOSPC or EDQUOT). ``seen``: what it says is free."""

    def __init__(self, room_bytes: int, *, seen: int | None = None, code: int = errno.ENOSPC) -> None:
        self.room_bytes = room_bytes
        self.seen = seen
        self.code = code

    def write(self, fileno: int, data: bytes | memoryview) -> None:
        fitting = min(len(data), self.room_bytes)
        super().write(fileno, memoryview(data)[:fitting])
        self.room_bytes -= fitting
        if fitting < len(data):
            raise OSError(self.code, os.strerror(self.code))

    def write_at(self, fileno: int, data: bytes | memoryview, offset: int) -> None:
        fitting = min(len(data), self.room_bytes)
        super().write_at(fileno, memoryview(data)[:fitting], offset)
        self.room_bytes -= fitting
        if fitting < len(data):
            raise OSError(self.code, os.strerror(self.code))

    def truncate(self, fileno: int, size_bytes: int) -> None:
        freed = os.fstat(fileno).st_size - size_bytes
        super().truncate(fileno, size_bytes)
        self.room_bytes += freed

    def open_new(self, path: Path) -> int:
        if not self.room_bytes:
            raise OSError(self.code, os.strerror(self.code), str(path))
        return super().open_new(path)

    def free_bytes(self, path: Path) -> int:
        return self.seen if self.seen is not None else self.room_bytes
