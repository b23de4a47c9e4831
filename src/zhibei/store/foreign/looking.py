"""Looking at another program's directories without changing them: bounded, never blocking, never failing.

Nothing is opened but small plain files whose content says where models lie.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from zhibei.store.foreign.found import ForeignFile

MAX_DEPTH = 6
MAX_ENTRIES = 100_000
_MAX_JSON_BYTES = 16 * 1024 * 1024
_MAX_PATH_LENGTH = 4096
_MAX_SIZE_BYTES = 2**62


@dataclass(frozen=True, slots=True)
class Listing:
    """What a directory holds, sorted by name. ``files`` may be anything that is no directory."""

    path: Path
    directories: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Look:
    """One look at the places of one program. Gives up quietly after ``max_entries`` names."""

    def __init__(self, *, max_entries: int = MAX_ENTRIES) -> None:
        self._left = max_entries

    def listing(self, directory: Path) -> Listing:
        """The names in a directory; nothing where it cannot be read. Links to directories count as directories."""
        directories: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(directory) as entries:
                for entry in islice(entries, self._left):
                    self._left -= 1
                    (directories if _leads_to_directory(entry) else files).append(entry.name)
        except (OSError, ValueError):
            return Listing(directory)
        return Listing(directory, tuple(sorted(directories)), tuple(sorted(files)))

    def walk(self, root: Path, *, max_depth: int = MAX_DEPTH) -> Iterator[Listing]:
        """The directory and those below it, each once, however links lead around; hidden ones are passed over."""
        seen: set[tuple[int, int]] = set()
        waiting = [(root, 0)]
        while waiting and self._left > 0:
            directory, depth = waiting.pop()
            identity = _directory_identity(directory)
            if identity is None or identity in seen:
                continue
            seen.add(identity)
            listing = self.listing(directory)
            yield listing
            if depth < max_depth:
                names = [name for name in listing.directories if not name.startswith(".")]
                waiting += [(directory / name, depth + 1) for name in reversed(names)]


def file_at(path: Path, role: str = "model", name: str | None = None) -> ForeignFile | None:
    """The plain file at a path, or where a link leads; None for anything else. It is not opened."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode) or not 0 <= status.st_size <= _MAX_SIZE_BYTES:
        return None
    return ForeignFile(role, path, status.st_size, (status.st_dev, status.st_ino), name)


def read_small(path: Path, most_bytes: int) -> bytes | None:
    """The content of a small plain file; None if it is none, or larger. A FIFO does not make it wait."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with os.fdopen(os.open(path, flags), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > most_bytes:
                return None
            content = stream.read(most_bytes + 1)
    except (OSError, ValueError):
        return None
    return content if len(content) <= most_bytes else None


def read_object(path: Path, most_bytes: int = _MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a small file; an empty one if there is none."""
    raw = read_small(path, most_bytes)
    try:
        document = json.loads(raw.decode("utf-8-sig")) if raw else None
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def directory_from(text: object) -> Path | None:
    """A directory that another program's file names; None if that is no absolute path, or the root of a disk."""
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_PATH_LENGTH or not text.isprintable():
        return None
    path = Path(text)
    return path if path.is_absolute() and path != Path(path.anchor) else None


def is_directory(path: Path) -> bool:
    """Whether there is a directory, or a link to one."""
    return _directory_identity(path) is not None


def _directory_identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _leads_to_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
