"""Content-addressed files. Owns where a blob lies and the steps by which one appears; knows nothing of models.

A blob's name exists only when its bytes are complete, verified and on the medium. It appears, is taken for granted and
disappears only under its lock, and whoever fetches one holds the lock until the manifest that refers to it is written.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zhibei.errors import StoreError, ZhibeiError
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk, disk_full, translate
from zhibei.store.locks import FileLock

if TYPE_CHECKING:
    from zhibei.store.journal import PartIdentity
    from zhibei.store.parts import FoundPart, Part

GRACE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Orphan:
    """A blob that no manifest refers to."""

    digest: Digest
    path: Path
    size_bytes: int


class BlobStore:
    """The blobs under a home. Making one changes nothing on the disk."""

    def __init__(self, home: Path, disk: Disk) -> None:
        self.home = home
        self._disk = disk
        self._root = home / "blobs"
        self.parts_root = self._root / "parts"

    def path(self, digest: Digest) -> Path:
        """Where a blob lies. The only place that makes such a path."""
        return self._root / "sha256" / digest.hex[:2] / digest.hex

    def chunks_path(self, digest: Digest) -> Path:
        """Where the hashes of a blob's chunks lie, by which a blob that has gone bad is mended."""
        return self.path(digest).with_name(f"{digest.hex}.chunks")

    def lock(self, key: str) -> FileLock:
        """The lock of a blob (its digest's hex) or of a download whose digest is not known yet (``PartIdentity.key``)."""
        return FileLock(self.home / "locks" / f"{Digest(key).hex}.lock")

    def has(self, digest: Digest, size_bytes: int | None = None) -> bool:
        """Whether the blob is there, a plain file and of that size."""
        try:
            status = self.path(digest).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and size_bytes in (None, status.st_size)

    def check_space(self, needed_bytes: int) -> None:
        """Raises DiskFull if the disk cannot take that many more bytes."""
        free = self._disk.free_bytes(self.home)
        if needed_bytes > free:
            raise disk_full(self.home, needed_bytes=needed_bytes, free_bytes=free)

    def claim(self, identity: PartIdentity) -> Part:
        """The growing file for some content; see ``parts.claim_part``.

        Raises:
            StoreError: the disk does not allow it; DiskFull where it is full.
        """
        from zhibei.store.parts import claim_part

        try:
            return claim_part(self.parts_root, identity, self._disk)
        except OSError as error:
            raise self.error(error) from error

    def seal(self, part: Part) -> None:
        """Bring a part to the medium. Raises StoreError, DiskFull where the disk is full; the part stays good."""
        try:
            if part.data_path.stat().st_size > part.hashed_bytes:
                self._cut(part.data_path, part.hashed_bytes)
            part.seal()
        except OSError as error:
            raise self.error(error) from error

    def error(self, error: OSError) -> ZhibeiError:
        """The named error for an OSError met while changing the store."""
        return translate(error, self.home, self._disk)

    def growing_bytes(self, key: str) -> int:
        """How far the download of a key has come."""
        from zhibei.store.parts import growing_bytes

        return growing_bytes(self.parts_root, key)

    def commit(self, part: Part, digest: Digest) -> Path:
        """Give a sealed part its name. The caller has verified the digest and holds the blob's lock.

        Raises:
            StoreError: the disk does not allow it.
        """
        target = self.path(digest)
        try:
            self._make_parents(target)
            try:
                self._disk.replace(part.data_path, target)
            except PermissionError:
                # Windows: an engine has the same bytes open under this name.
                if not self.has(digest, part.num_received_bytes):
                    raise
            self._disk.sync_directory(target.parent)
            with contextlib.suppress(OSError):
                self._disk.replace(part.directory / "journal", self.chunks_path(digest))
            part.discard()
        except OSError as error:
            raise self.error(error) from error
        return target

    def place(self, path: Path, digest: Digest) -> None:
        """Give a finished file its name. The caller has verified the digest and holds the blob's lock. Raises as ``commit``."""
        target = self.path(digest)
        try:
            self._make_parents(target)
            self._disk.replace(path, target)
            self._disk.sync_directory(target.parent)
        except OSError as error:
            raise self.error(error) from error

    def remove(self, digest: Digest) -> bool:
        """Remove a blob whose lock the caller holds; False where somebody uses it (Windows) and it has to wait.

        Raises:
            StoreError: the disk does not allow it.
        """
        path = self.path(digest)
        try:
            # First, so that none is left without its blob, which nobody would find.
            with contextlib.suppress(OSError):
                self._disk.remove(self.chunks_path(digest))
            self._disk.remove(path)
            self._disk.sync_directory(path.parent)
        except FileNotFoundError:
            pass
        except PermissionError:
            return False
        except OSError as error:
            raise self.error(error) from error
        return True

    def take_apart(self, digest: Digest, origin: str, size_bytes: int) -> None:
        """Turn a blob that has gone bad into a part, so that the next pull fetches what is wrong of it. The lock is held.

        Raises:
            StoreError: the disk does not allow it.
        """
        from zhibei.store.journal import PartIdentity
        from zhibei.store.parts import adopt_part

        if not self.has(digest):
            return
        identity = PartIdentity(origin, digest, size_bytes, None)
        try:
            adopt_part(self.parts_root, identity, self._disk, self.path(digest), self.chunks_path(digest))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self.error(error) from error

    def orphans(self, referenced: Collection[Digest], *, grace_s: float = GRACE_S) -> Iterator[Orphan]:
        """Blobs that nothing refers to. Those younger than ``grace_s`` are left out: their manifest may be on its way."""
        newest = time.time() - grace_s
        for path in sorted((self._root / "sha256").glob("??/*")):
            with contextlib.suppress(OSError, StoreError):
                digest, status = Digest(path.name), path.lstat()
                if digest not in referenced and status.st_mtime <= newest and path == self.path(digest):
                    yield Orphan(digest, path, status.st_size)

    def parts(self) -> Iterator[FoundPart]:
        """Downloads that are under way or were cut off."""
        from zhibei.store.parts import find_parts

        return find_parts(self.parts_root)

    def drop(self, part: FoundPart) -> bool:
        """Remove a cut-off download; False where somebody is at work on it."""
        from zhibei.store.parts import remove_part

        with self.lock(part.key) as lock:
            try:
                if part.is_active or not lock.try_acquire():
                    return False
            except OSError:
                return False
            remove_part(part.path, self._disk)
        return True

    def _cut(self, path: Path, size_bytes: int) -> None:
        """Remove what lies behind the end: a blob that had become too long may have been taken apart."""
        fileno = self._disk.open_existing(path)
        try:
            self._disk.truncate(fileno, size_bytes)
        finally:
            os.close(fileno)

    def _make_parents(self, target: Path) -> None:
        for directory in (target.parent.parent, target.parent):
            if directory.is_symlink():
                raise StoreError(
                    "{path} in the store is a link; it was left alone.",
                    hint="Remove it by hand if you did not put it there.",
                    path=directory,
                )
            if not directory.is_dir():
                self._disk.make_directories(directory)
                self._disk.sync_directory(directory.parent)
