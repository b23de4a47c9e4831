"""Locks between processes, one file each. The file stays when the lock is let go: removing it would let two in at once."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

from zhibei.errors import StoreBusy

_POLL_S = 0.05
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class FileLock:
    """An exclusive lock on a path. Two objects exclude each other, in one process or in two; a dead holder lets go.

    ``try_acquire`` never blocks, so an event loop may call it. Releasing twice does nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fileno: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free.

        Raises:
            OSError: the lock file cannot be made.
        """
        if self._fileno is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        fileno = os.open(self.path, flags, 0o644)
        try:
            _lock(fileno)
        except OSError as error:
            os.close(fileno)
            if error.errno in _HELD:
                return False
            raise
        self._fileno = fileno
        return True

    def acquire(self, timeout_s: float) -> None:
        """Take the lock, waiting in this thread for at most ``timeout_s``.

        Raises:
            StoreBusy: somebody held it all the time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                raise StoreBusy("Another process is working on the same model.", hint="Wait until it has finished, or stop it.")
            time.sleep(_POLL_S)

    def release(self) -> None:
        """Let go."""
        if self._fileno is not None:
            fileno, self._fileno = self._fileno, None
            os.close(fileno)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


if sys.platform == "win32":
    import msvcrt

    def _lock(fileno: int) -> None:
        msvcrt.locking(fileno, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fileno: int) -> None:
        fcntl.flock(fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
