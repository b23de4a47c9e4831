"""A file that a client sends, under its digest: written beside the blobs, hashed on the way, and put in its place if it is right.

Owns the steps of one upload. A model is made of such blobs by ``created``; one that nothing refers to is a leftover.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import AsyncIterable
from pathlib import Path

from zhibei.errors import BadRequest
from zhibei.store import owners
from zhibei.store.blobs import BlobStore
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.threads import in_thread

_LOCK_TIMEOUT_S = 30.0
_BATCH_BYTES = 4 * 1024 * 1024


async def receive(blobs: BlobStore, disk: Disk, digest: Digest, pieces: AsyncIterable[bytes], size_bytes: int | None) -> bool:
    """Take a file in; False if it was here already, and then nothing is read.

    Args:
        size_bytes: how long it says it is; None: it does not say.

    Raises:
        BadRequest: its bytes are not the ones it was promised to be; nothing is kept.
        DiskFull, StoreError: the disk does not take it; nothing is kept.
    """
    if blobs.has(digest):
        return False
    if size_bytes is not None:
        blobs.check_space(size_bytes)
    directory = blobs.home / "tmp" / owners.new_token()
    try:
        path = await _write(blobs, disk, directory, digest, pieces)
        await in_thread(_place, blobs, path, digest)
    finally:
        await in_thread(shutil.rmtree, directory, ignore_errors=True)
    return True


def store_text(blobs: BlobStore, disk: Disk, text: str) -> tuple[Digest, int]:
    """Keep a small text as a blob; its digest and size. Blocks.

    Raises:
        DiskFull, StoreError: the disk does not take it.
    """
    data = text.encode()
    digest = Digest(hashlib.sha256(data).hexdigest())
    if not blobs.has(digest, len(data)):
        directory = blobs.home / "tmp" / owners.new_token()
        try:
            fileno = _open(blobs, disk, directory)
            try:
                _append(blobs, disk, fileno, data)
                _sync(blobs, disk, fileno)
            finally:
                os.close(fileno)
            _place(blobs, directory / "blob", digest)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    return digest, len(data)


async def _write(blobs: BlobStore, disk: Disk, directory: Path, digest: Digest, pieces: AsyncIterable[bytes]) -> Path:
    hashed = hashlib.sha256()
    held: list[bytes] = []
    num_held_bytes = 0

    def flush() -> None:
        data = b"".join(held)
        hashed.update(data)
        _append(blobs, disk, fileno, data)
        held.clear()

    fileno = await in_thread(_open, blobs, disk, directory)
    try:
        async for piece in pieces:
            held.append(piece)
            num_held_bytes += len(piece)
            if num_held_bytes >= _BATCH_BYTES:
                await in_thread(flush)
                num_held_bytes = 0
        await in_thread(flush)
        if hashed.hexdigest() != digest.hex:
            raise BadRequest(
                "What was sent has the digest sha256:{found}, not {wanted}; it was thrown away.",
                hint="Send the file again.",
                param="digest",
                found=hashed.hexdigest(),
                wanted=str(digest),
            )
        await in_thread(_sync, blobs, disk, fileno)
    finally:
        os.close(fileno)
    return directory / "blob"


def _open(blobs: BlobStore, disk: Disk, directory: Path) -> int:
    try:
        disk.make_directories(directory)
        return disk.open_new(directory / "blob")
    except OSError as error:
        raise blobs.error(error) from error


def _append(blobs: BlobStore, disk: Disk, fileno: int, data: bytes) -> None:
    try:
        disk.write(fileno, data)
    except OSError as error:
        raise blobs.error(error) from error


def _sync(blobs: BlobStore, disk: Disk, fileno: int) -> None:
    try:
        disk.sync(fileno)
    except OSError as error:
        raise blobs.error(error) from error


def _place(blobs: BlobStore, path: Path, digest: Digest) -> None:
    with blobs.lock(digest.hex) as lock:
        try:
            lock.acquire(_LOCK_TIMEOUT_S)
        except OSError as error:
            raise blobs.error(error) from error
        blobs.place(path, digest)
