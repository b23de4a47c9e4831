"""The few file system operations that the store's guarantees rest on, in one object that a test can make fail.

Nothing here knows what a blob or a manifest is. OSErrors pass through; ``translate`` turns them into named errors.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from pathlib import Path

from zhibei.errors import DiskFull, StoreError, ZhibeiError
from zhibei.i18n import N_
from zhibei.units import format_bytes

STORE_HINT = N_("Check the disk and the permissions of the directory; ZHIBEI_HOME can point to another one.")
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_FULL = frozenset(code for name in ("ENOSPC", "EDQUOT") if (code := getattr(errno, name, None)) is not None)


class Disk:
    """The real one. Every method either does one thing or raises OSError."""

    def make_directories(self, path: Path) -> None:
        """Make a directory and its parents where they are missing."""
        path.mkdir(parents=True, exist_ok=True)

    def make_directory(self, path: Path) -> None:
        """Make a directory that must not exist yet."""
        path.mkdir()

    def open_new(self, path: Path) -> int:
        """Create a file that must not exist yet and open it for writing; a link in its place is not followed."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o644)

    def open_existing(self, path: Path) -> int:
        """Open a plain file for reading and writing; anything else, a link included, is refused."""
        fileno = os.open(path, os.O_RDWR | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0))
        if not stat.S_ISREG(os.fstat(fileno).st_mode):
            os.close(fileno)
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        return fileno

    def write(self, fileno: int, data: bytes | memoryview) -> None:
        """Write all of ``data`` at the file's position."""
        view = memoryview(data)
        while view:
            view = view[os.write(fileno, view) :]

    def write_at(self, fileno: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` from ``offset`` on; several threads may do so at once."""
        view = memoryview(data)
        while view:
            num_bytes = _pwrite(fileno, view, offset)
            view, offset = view[num_bytes:], offset + num_bytes

    def read_into(self, fileno: int, room: memoryview, offset: int) -> int:
        """Fill ``room`` with the bytes from ``offset`` on; how many there were, fewer only where the file ends."""
        num_bytes = 0
        while num_bytes < len(room) and (more := _read_into(fileno, room[num_bytes:], offset + num_bytes)):
            num_bytes += more
        return num_bytes

    def truncate(self, fileno: int, size_bytes: int) -> None:
        """Cut a file and go to its new end."""
        os.ftruncate(fileno, size_bytes)
        os.lseek(fileno, size_bytes, os.SEEK_SET)

    def sync(self, fileno: int) -> None:
        """Return when the file's bytes are on the medium."""
        os.fsync(fileno)

    def sync_directory(self, path: Path) -> None:
        """Return when the directory's entries are on the medium. Windows has no such call and needs none."""
        if os.name == "nt":
            return
        fileno = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fileno)
        finally:
            os.close(fileno)

    def replace(self, source: Path, target: Path) -> None:
        """Rename in one step, over what is there."""
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        target.hardlink_to(source)

    def rename_directory(self, source: Path, target: Path) -> None:
        """Rename a directory in one step; fails if ``target`` holds anything."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        path.rmdir()

    def free_bytes(self, path: Path) -> int:
        """Bytes that this user may still write to the disk that holds ``path``, which need not exist yet."""
        import shutil

        return shutil.disk_usage(_existing(path)).free

    def may_write(self, path: Path) -> bool:
        """Whether this user may write to the directory ``path``, or make it where it does not exist yet. Writes nothing."""
        place = _existing(path)
        return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


if sys.platform == "win32":
    # Windows has no call that takes an offset; the position is shared, so one at a time.
    _POSITION = threading.Lock()

    def _pwrite(fileno: int, data: memoryview, offset: int) -> int:
        with _POSITION:
            os.lseek(fileno, offset, os.SEEK_SET)
            return os.write(fileno, data)

    def _read_into(fileno: int, room: memoryview, offset: int) -> int:
        with _POSITION:
            os.lseek(fileno, offset, os.SEEK_SET)
            data = os.read(fileno, len(room))
        room[: len(data)] = data
        return len(data)

else:
    _pwrite = os.pwrite

    def _read_into(fileno: int, room: memoryview, offset: int) -> int:
        return os.preadv(fileno, (room,), offset)


def is_full(error: OSError) -> bool:
    """Whether it says that the disk, or this user's share of it, is full."""
    return error.errno in _FULL


def disk_full(path: Path, *, needed_bytes: int | None, free_bytes: int) -> DiskFull:
    """The error for a full disk; ``needed_bytes`` is what is still to be written, or None."""
    hint = "Free some space (zhibei list shows what models take) and pull again: what has come so far is kept."
    values = {"path": path, "free": format_bytes(free_bytes), "free_bytes": free_bytes, "needed_bytes": needed_bytes}
    if needed_bytes is None:
        return DiskFull("The disk that holds {path} is full ({free} free).", hint=hint, **values)
    return DiskFull(
        "Not enough space on the disk that holds {path}: {needed} needed, {free} free.",
        hint=hint,
        needed=format_bytes(needed_bytes),
        **values,
    )


def translate(error: OSError, path: Path, disk: Disk) -> ZhibeiError:
    """The named error for an OSError met while changing the store at ``path``."""
    if is_full(error):
        try:
            free = disk.free_bytes(path)
        except OSError:
            free = 0
        return disk_full(path, needed_bytes=None, free_bytes=free)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(
            "The store at {path} cannot be written: {reason}.",
            hint="Make it writable, or set ZHIBEI_HOME to a directory that is.",
            path=path,
            reason=error.strerror or str(error),
        )
    if error.errno in (errno.ELOOP, errno.EINVAL, errno.EMLINK):
        return StoreError(
            "{path} in the store is a link or not a plain file; it was left alone.",
            hint="Remove it by hand if you did not put it there.",
            path=error.filename or path,
        )
    return StoreError(
        "The store at {path} cannot be used: {reason}.", hint=STORE_HINT, path=path, reason=error.strerror or str(error)
    )
