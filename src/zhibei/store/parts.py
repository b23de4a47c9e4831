"""Files that are still growing: claimed by one writer, hashed while written, continued by a later pull.

A part is a directory ``<key>.part`` that holds ``data`` and ``journal``. While somebody writes it, its name carries the
owner's token (``<key>.<token>.part``); the rename that puts the token there is the claim, and only one can win it. The
journal's first line says what the bytes belong to, the others how many of them have surely reached the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zhibei.store import owners
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk

BLOCK_BYTES = 1024 * 1024
CHECKPOINT_BYTES = 32 * 1024 * 1024
_JOURNAL_VERSION = 1
_SPARED_BYTES = 64 * 1024
_MAX_JOURNAL_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PartIdentity:
    """What the bytes of a part belong to.

    With a digest, any source may continue it, for the whole is verified. Without, only the same ``origin`` may, and only
    if its ``validator`` (an ETag, a modification time) is known and the same.
    """

    origin: str
    digest: Digest | None
    size_bytes: int | None
    validator: str | None

    @property
    def key(self) -> str:
        """64 hexadecimal digits: names the lock and the part."""
        return self.digest.hex if self.digest else hashlib.sha256(self.origin.encode()).hexdigest()

    def continues(self, header: dict[str, object]) -> bool:
        """Whether bytes that were written under a journal header may be kept."""
        if header.get("version") != _JOURNAL_VERSION:
            return False
        if self.digest is not None:
            return header.get("digest") == str(self.digest)
        return (
            self.validator is not None
            and header.get("validator") == self.validator
            and header.get("origin") == self.origin
            and header.get("size_bytes") == self.size_bytes
        )

    def header(self) -> dict[str, object]:
        """The journal's first line."""
        return {
            "version": _JOURNAL_VERSION,
            "origin": self.origin,
            "digest": str(self.digest) if self.digest else None,
            "size_bytes": self.size_bytes,
            "validator": self.validator,
        }


@dataclass(frozen=True, slots=True)
class FoundPart:
    """A part on the disk: ``origin`` is None where its journal cannot be read, ``is_active`` while an owner lives."""

    path: Path
    key: str
    size_bytes: int
    origin: str | None
    is_active: bool


class Part:
    """A part under this process's claim. Not thread-safe; its methods may block and are called one at a time.

    ``size_bytes`` counts what is written and hashed. After ``seal`` only ``keep`` or ``discard`` may follow; both may be
    called again and then do nothing.
    """

    def __init__(self, directory: Path, identity: PartIdentity, disk: Disk, data: int, journal: int, synced_bytes: int) -> None:
        self.directory = directory
        self.identity = identity
        self.size_bytes = 0
        self._disk = disk
        self._data: int | None = data
        self._journal: int | None = journal
        self._synced_bytes = synced_bytes
        self._hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._num_waiting_bytes = 0

    @property
    def data_path(self) -> Path:
        """Where the bytes are."""
        return self.directory / "data"

    @property
    def num_received_bytes(self) -> int:
        """What is written plus what waits in memory."""
        return self.size_bytes + self._num_waiting_bytes

    def rehash(self, limit_bytes: int) -> bool:
        """Hash on through what an earlier writer left; True when all of it is done. Call until then before ``feed``."""
        assert self._data is not None
        wanted = min(limit_bytes, self._synced_bytes - self.size_bytes)
        os.lseek(self._data, self.size_bytes, os.SEEK_SET)
        while wanted > 0:
            piece = os.read(self._data, min(wanted, BLOCK_BYTES))
            if not piece:
                self._synced_bytes = self.size_bytes
                break
            self._hash.update(piece)
            self.size_bytes += len(piece)
            wanted -= len(piece)
        if self.size_bytes < self._synced_bytes:
            return False
        self._disk.truncate(self._data, self.size_bytes)
        return True

    @property
    def resumable_bytes(self) -> int:
        """What an earlier writer left and ``rehash`` goes through."""
        return self._synced_bytes

    def feed(self, piece: bytes) -> bool:
        """Take more bytes into memory; True when there are enough that ``flush`` is due."""
        self._waiting.append(piece)
        self._num_waiting_bytes += len(piece)
        return self._num_waiting_bytes >= BLOCK_BYTES

    def flush(self) -> None:
        """Write and hash what waits; now and then, make sure that it is on the medium and say so in the journal.

        Raises:
            OSError: the disk is full or fails; what was written before stays good.
        """
        assert self._data is not None
        waiting, self._waiting, self._num_waiting_bytes = self._waiting, [], 0
        for piece in waiting:
            self._disk.write(self._data, piece)
            self._hash.update(piece)
            self.size_bytes += len(piece)
        if self.size_bytes - self._synced_bytes >= CHECKPOINT_BYTES:
            self._checkpoint()

    def seal(self) -> Digest:
        """Write all, bring it to the medium, close it, and say what it is."""
        self.flush()
        self._checkpoint()
        self._close()
        return Digest(self._hash.hexdigest())

    def keep(self) -> None:
        """Leave it for a later pull. Does what the disk still allows and raises nothing of its own."""
        try:
            if self._data is not None:
                with contextlib.suppress(OSError):
                    self.flush()
                self._checkpoint_somehow(self._data)
        finally:
            self._close()
        if not self.size_bytes:
            self.discard()
            return
        try:
            self._disk.rename_directory(self.directory, self.directory.with_name(f"{self.identity.key}.part"))
        except OSError:
            self.discard()

    def discard(self) -> None:
        """Remove it, as far as the disk allows."""
        self._close()
        remove_part(self.directory, self._disk)

    def _checkpoint(self) -> None:
        assert self._data is not None and self._journal is not None
        self._disk.sync(self._data)
        self._disk.write(self._journal, _line({"synced": self.size_bytes}))
        self._synced_bytes = self.size_bytes

    def _checkpoint_somehow(self, data: int) -> None:
        """On a full disk, give up the last bytes so that the journal has room to tell of the others."""
        for given_up in (0, _SPARED_BYTES):
            try:
                self.size_bytes = max(self._synced_bytes, self.size_bytes - given_up)
                self._disk.truncate(data, self.size_bytes)
                self._checkpoint()
                return
            except OSError:
                continue

    def _close(self) -> None:
        for fileno in (self._data, self._journal):
            if fileno is not None:
                os.close(fileno)
        self._data = self._journal = None


def claim_part(root: Path, identity: PartIdentity, disk: Disk) -> Part:
    """Take over what an earlier writer left of this content, or begin. The caller holds the key's lock.

    A part whose owner still lives is left alone even so: there are file systems that grant a lock to everybody.

    Raises:
        OSError: the disk does not allow it.
    """
    disk.make_directories(root)
    mine = root / f"{identity.key}.{owners.new_token()}.part"
    for candidate, token in _parts_of(root, identity.key):
        if token is not None and owners.is_alive(token, candidate):
            continue
        try:
            disk.rename_directory(candidate, mine)
        except FileNotFoundError:
            continue
        part = _resume(mine, identity, disk)
        if part is not None:
            return part
        remove_part(mine, disk)
    disk.make_directory(mine)
    data = disk.open_new(mine / "data")
    try:
        journal = disk.open_new(mine / "journal")
    except BaseException:
        os.close(data)
        raise
    part = Part(mine, identity, disk, data, journal, 0)
    try:
        disk.write(journal, _line(identity.header()))
    except OSError:
        part.discard()
        raise
    return part


def growing_bytes(root: Path, key: str) -> int:
    """How many bytes the fullest part of a key has by now."""
    found = 0
    for path, _ in _parts_of(root, key):
        with contextlib.suppress(OSError):
            found = max(found, (path / "data").lstat().st_size)
    return found


def find_parts(root: Path) -> Iterator[FoundPart]:
    """All parts, for listing and for cleaning up."""
    for path, key, token in _all_parts(root):
        try:
            size = (path / "data").lstat().st_size
        except OSError:
            size = 0
        header, _ = _read_journal(path / "journal")
        origin = header.get("origin")
        is_active = token is not None and owners.is_alive(token, path)
        yield FoundPart(path, key, size, origin if isinstance(origin, str) else None, is_active)


def remove_part(directory: Path, disk: Disk) -> None:
    """Remove a part's directory, as far as the disk allows."""
    for name in ("data", "journal"):
        with contextlib.suppress(OSError):
            disk.remove(directory / name)
    with contextlib.suppress(OSError):
        disk.remove_directory(directory)


def _resume(directory: Path, identity: PartIdentity, disk: Disk) -> Part | None:
    header, synced_bytes = _read_journal(directory / "journal")
    if not identity.continues(header):
        return None
    with contextlib.ExitStack() as opened:
        try:
            data = disk.open_existing(directory / "data")
            opened.callback(os.close, data)
            journal = disk.open_existing(directory / "journal")
            opened.callback(os.close, journal)
            os.lseek(journal, 0, os.SEEK_END)
            disk.write(journal, b"\n")
        except OSError:
            return None
        opened.pop_all()
    available = min(os.fstat(data).st_size, synced_bytes)
    if identity.size_bytes is not None:
        available = min(available, identity.size_bytes)
    return Part(directory, identity, disk, data, journal, available)


def _read_journal(path: Path) -> tuple[dict[str, object], int]:
    """The header and the last number of bytes known to be on the medium; what does not parse ends it."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_JOURNAL_BYTES:
            return {}, 0
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return {}, 0
    header: dict[str, object] = {}
    synced_bytes = 0
    for line in lines:
        if not line:
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict):
            continue
        if not header:
            header = entry
        elif isinstance(synced := entry.get("synced"), int) and synced >= 0:
            synced_bytes = synced
    return header, synced_bytes


def _parts_of(root: Path, key: str) -> list[tuple[Path, str | None]]:
    return [(path, token) for path, found, token in _all_parts(root) if found == key]


def _all_parts(root: Path) -> list[tuple[Path, str, str | None]]:
    """``(path, key, token)``, unclaimed ones first. Links and plain files in their place are not parts."""
    found: list[tuple[Path, str, str | None]] = []
    try:
        entries = list(os.scandir(root))
    except OSError:
        return []
    for entry in entries:
        pieces = entry.name.split(".")
        if entry.is_dir(follow_symlinks=False) and len(pieces) in (2, 3) and pieces[-1] == "part":
            found.append((Path(entry.path), pieces[0], pieces[1] if len(pieces) == 3 else None))
    return sorted(found, key=lambda item: (item[2] is not None, str(item[0])))


def _line(entry: dict[str, object]) -> bytes:
    return json.dumps(entry).encode() + b"\n"
