"""Where a worker's server listens: a socket in a directory that its owner alone can open.

No page and no other user can reach it, and a token through it costs less than through a port.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

# What the systems allow in the address of a socket, the smallest of them, with its end.
_MAX_PATH_BYTES = 100


class SocketPlace:
    """A directory of its own for one engine, there from the first time it is asked for."""

    def __init__(self) -> None:
        self._directory: Path | None = None

    def path(self) -> str | None:
        """A path where nothing is; None where a port has to do: on Windows, or if the temporary directory's name is too long."""
        if sys.platform == "win32":
            return None
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="zhibei-"))
        path = self._directory / "engine.sock"
        path.unlink(missing_ok=True)
        return str(path) if len(os.fsencode(path)) <= _MAX_PATH_BYTES else None

    def remove(self) -> None:
        """Leave nothing behind."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
