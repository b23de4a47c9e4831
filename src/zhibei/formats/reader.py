"""Where a header's bytes come from: the Reader protocol, and a file on this disk. Knows no format."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Protocol

from zhibei.errors import ModelNotFound, StoreError

# Without O_NONBLOCK, opening a FIFO would wait for a writer for ever. The flags are absent on some systems.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


class Reader(Protocol):
    """Random access to bytes: a local file, or a remote one read by range."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``; fewer than ``length`` only where the file ends."""
        ...


class FileReader:
    """A regular file on this disk; ``size_bytes`` is its size when it was opened.

    Raises:
        ModelNotFound: nothing at the path, or not a regular file.
        StoreError: the system refuses to open or to read it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, _OPEN_FLAGS)
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the path
            raise ModelNotFound("There is no file at {path}.", path=str(path)) from error
        except OSError as error:
            if path.is_dir():  # Windows does not open a directory at all
                raise ModelNotFound("{path} is a directory, not a model file.", path=str(path)) from error
            raise self._unreadable(error) from error
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ModelNotFound("{path} is {kind}; a model file is needed.", path=str(path), kind=kind)
        self.size_bytes = status.st_size

    def __enter__(self) -> FileReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``; fewer than ``length`` only where the file ends."""
        parts = []
        try:
            while length > 0:
                part = self._read_once(offset, length)
                if not part:
                    break
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
        except OSError as error:
            raise self._unreadable(error) from error
        return b"".join(parts)

    def _read_once(self, offset: int, length: int) -> bytes:
        if sys.platform == "win32":
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, length)
        return os.pread(self._descriptor, length, offset)

    def _unreadable(self, error: OSError) -> StoreError:
        return StoreError("{path} cannot be read: {reason}.", path=str(self.path), reason=error.strerror or str(error))
