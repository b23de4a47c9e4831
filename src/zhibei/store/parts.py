"""Files that are still growing: claimed by one writer, filled in any order, checked chunk by chunk, continued by a later pull.

A part is a directory ``<key>.part`` that holds ``data`` and ``journal``. While somebody writes it, its name carries the
owner's token (``<key>.<token>.part``); the rename that puts the token there is the claim, and only one can win it. What the
journal says of a chunk is believed only once its hash has been compared with the bytes on the disk; see ``journal``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zhibei.store import owners
from zhibei.store.chunks import Chunk, ChunkMap, check_of
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.journal import PartIdentity, chunk_line, header_line, read_journal

BLOCK_BYTES = 1024 * 1024
_SPARED_BYTES = 64 * 1024
_SETTLE_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FoundPart:
    """A part on the disk: ``origin`` is None where its journal cannot be read, ``is_active`` while an owner lives."""

    path: Path
    key: str
    size_bytes: int
    origin: str | None
    is_active: bool
    total_bytes: int | None = None


class Part:
    """A part under this process's claim. Its methods block.

    ``write`` may be called from several threads at once; ``advance`` by one at a time, beside the writers. ``seal``, ``keep``
    and ``discard`` come when nobody writes any more; the last two may be called again and then do nothing.
    """

    def __init__(self, directory: Path, identity: PartIdentity, disk: Disk, files: tuple[int, int], chunks: ChunkMap) -> None:
        self.directory = directory
        self.identity = identity
        self.chunks = chunks
        self.hashed_bytes = 0
        self.num_resumed_bytes = chunks.num_bytes
        self._disk = disk
        self._data: int | None = files[0]
        self._journal: int | None = files[1]
        self._hash = hashlib.sha256()
        self._room = memoryview(bytearray(BLOCK_BYTES))
        self._settled_bytes = chunks.num_bytes
        self._failure: OSError | None = None
        self._lock = threading.Lock()
        # A file system lets one writer at a file at a time; the others would wait busily.
        self._writing = threading.Lock()
        self._untold: list[Chunk] = []

    @property
    def data_path(self) -> Path:
        """Where the bytes are."""
        return self.directory / "data"

    @property
    def num_received_bytes(self) -> int:
        """How many bytes are written."""
        return self.chunks.num_bytes

    def write(self, offset: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Write a chunk and note its hash.

        Raises:
            OSError: the disk is full or fails; what was written before stays good.
        """
        assert self._data is not None
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        with self._writing:
            self._disk.write_at(self._data, data, offset)
        chunk = Chunk(offset, len(data), check_of(data))
        with self._lock:
            self.chunks.add(chunk)
            self._untold.append(chunk)
            self._tell()

    def replace(self, old: Chunk, data: bytes) -> None:
        """Write other bytes in the place of a chunk's. As ``write``, but nobody else may be at work."""
        assert self._data is not None
        self._disk.write_at(self._data, data, old.offset)
        new = Chunk(old.offset, old.num_bytes, check_of(data))
        self.chunks.replace(old, new)
        self._untold.append(new)
        self._tell()

    def advance(self, limit_bytes: int) -> bool:
        """Hash on, in order, through chunks whose bytes are as they were written; False when there is none to go on with.

        A chunk that is not is dropped, and then missing again.
        """
        assert self._data is not None
        stop = self.hashed_bytes + limit_bytes
        while self.hashed_bytes < stop:
            with self._lock:
                chunk = self.chunks.at(self.hashed_bytes)
            if chunk is None:
                return False
            if chunk.num_bytes > len(self._room):
                self._room = memoryview(bytearray(chunk.num_bytes))
            data = self._room[: chunk.num_bytes]
            if self._disk.read_into(self._data, data, chunk.offset) != chunk.num_bytes or check_of(data) != chunk.check:
                with self._lock:
                    self.chunks.drop(chunk)
                return False
            self._hash.update(data)
            self.hashed_bytes += chunk.num_bytes
        return True

    def is_unsettled(self) -> bool:
        """Whether so much has been written that it is time for ``settle``."""
        return self.chunks.num_bytes - self._settled_bytes >= _SETTLE_BYTES

    def settle(self) -> None:
        """Bring what has been written to the medium, beside the writers, so that ``seal`` has little left to wait for."""
        assert self._data is not None
        self._settled_bytes = self.chunks.num_bytes
        try:
            self._disk.sync(self._data)
        except OSError as error:
            # The system tells of lost bytes only once.
            self._failure = error
            raise

    def begin_again(self) -> None:
        """Forget what was hashed: chunks have been replaced."""
        self._hash = hashlib.sha256()
        self.hashed_bytes = 0

    def digest(self) -> Digest:
        """The SHA-256 of what ``advance`` has gone through."""
        return Digest(self._hash.hexdigest())

    def seal(self) -> None:
        """Bring the bytes to the medium and close the part.

        Raises:
            OSError: the disk fails; the part stays good.
        """
        assert self._data is not None
        if self._failure is not None:
            raise self._failure
        self._disk.sync(self._data)
        self._close()

    def keep(self) -> None:
        """Leave it for a later pull. Does what the disk still allows and raises nothing of its own."""
        try:
            if self._data is not None and self._untold:
                self._tell_somehow(self._data)
        finally:
            self._close()
        if not self.chunks.num_bytes:
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

    def _tell(self) -> None:
        """Append to the journal what it does not know yet; what did not get through whole is written anew."""
        assert self._journal is not None
        lines = b"".join(map(chunk_line, self._untold))
        self._disk.write(self._journal, lines)
        self._untold.clear()

    def _tell_somehow(self, data: int) -> None:
        """On a full disk, give up the last bytes so that the journal has room to tell of the others."""
        end = self.chunks.end
        for given_up in (0, _SPARED_BYTES):
            try:
                self._disk.truncate(data, max(0, end - given_up))
                self._untold = [chunk for chunk in self._untold if chunk.end <= end - given_up]
                self._tell()
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
    part = Part(mine, identity, disk, (data, journal), ChunkMap())
    try:
        disk.write(journal, header_line(identity))
    except OSError:
        part.discard()
        raise
    return part


def adopt_part(root: Path, identity: PartIdentity, disk: Disk, blob: Path, chunks: Path) -> None:
    """Make a part of a blob that has gone bad and of the hashes of its chunks, so that a pull mends it.

    Raises:
        OSError: the disk does not allow it.
    """
    disk.make_directories(root)
    target, mine = root / f"{identity.key}.part", root / f"{identity.key}.{owners.new_token()}.part"
    _, known = read_journal(chunks)
    remove_part(target, disk)
    disk.make_directory(mine)
    journal = disk.open_new(mine / "journal")
    try:
        disk.write(journal, header_line(identity) + b"".join(map(chunk_line, known)))
    finally:
        os.close(journal)
    disk.replace(blob, mine / "data")
    disk.rename_directory(mine, target)


def growing_bytes(root: Path, key: str) -> int:
    """How many bytes the fullest part of a key has by now."""
    return max((_bytes_on_disk(path / "data") for path, _ in _parts_of(root, key)), default=0)


def find_parts(root: Path) -> Iterator[FoundPart]:
    """All parts, for listing and for cleaning up."""
    for path, key, token in _all_parts(root):
        header, _ = read_journal(path / "journal")
        origin, total = header.get("origin"), header.get("size_bytes")
        yield FoundPart(
            path,
            key,
            _bytes_on_disk(path / "data"),
            origin if isinstance(origin, str) else None,
            token is not None and owners.is_alive(token, path),
            total if isinstance(total, int) else None,
        )


def remove_part(directory: Path, disk: Disk) -> None:
    """Remove a part's directory, as far as the disk allows."""
    for name in ("data", "journal"):
        with contextlib.suppress(OSError):
            disk.remove(directory / name)
    with contextlib.suppress(OSError):
        disk.remove_directory(directory)


def _resume(directory: Path, identity: PartIdentity, disk: Disk) -> Part | None:
    header, chunks = read_journal(directory / "journal")
    if not identity.continues(header):
        return None
    with contextlib.ExitStack() as opened:
        try:
            data = disk.open_existing(directory / "data")
            opened.callback(os.close, data)
            journal = disk.open_existing(directory / "journal")
            opened.callback(os.close, journal)
            os.lseek(journal, 0, os.SEEK_END)
        except OSError:
            return None
        opened.pop_all()
    available = os.fstat(data).st_size
    if identity.size_bytes is not None:
        available = min(available, identity.size_bytes)
    return Part(directory, identity, disk, (data, journal), ChunkMap(chunk for chunk in chunks if chunk.end <= available))


def _bytes_on_disk(path: Path) -> int:
    """Bytes that a file really takes: one that is filled out of order has holes."""
    try:
        status = path.lstat()
    except OSError:
        return 0
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, blocks * 512)


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
