"""Reads stored models again and compares them with what was promised; makes parts of what has gone bad, for a pull to mend."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

from zhibei.events import Checked, Progress
from zhibei.i18n import Phrase
from zhibei.store.blobs import BlobStore
from zhibei.store.manifests import Manifest, ManifestFile
from zhibei.store.threads import in_thread

_BLOCK_BYTES = 8 * 1024 * 1024
_LOCK_TIMEOUT_S = 5.0


async def check(manifest: Manifest, blobs: BlobStore, problem: str | None) -> AsyncGenerator[Progress | Checked, None]:
    """Hash every blob of a model. The last event, and only that, is Checked.

    Files that are used in place have no digest; for them ``problem``, what is known from their size and time, is all there is.
    """
    bad: list[str] = []
    for file in manifest.files:
        if file.digest is None or not blobs.has(file.digest, file.size_bytes):
            continue
        path, found = blobs.path(file.digest), hashlib.sha256()
        position = 0
        while position < file.size_bytes:
            num_bytes = await in_thread(_hash_block, path, position, found)
            if num_bytes == 0:
                break
            position += num_bytes
            yield Progress(file.name, position, file.size_bytes)
        if found.hexdigest() != file.digest.hex:
            bad.append(file.name)
    if bad and problem is None:
        problem = Phrase("the bytes of {files} are not what they were", files=", ".join(bad))
    yield Checked(str(manifest.name), problem, tuple(bad))


def take_apart(manifest: Manifest, bad: tuple[str, ...], blobs: BlobStore) -> None:
    """Turn bad blobs, and those of a wrong size, into parts that the next pull completes.

    Raises:
        StoreBusy: somebody is working on one of them.
        StoreError: the disk does not allow it.
    """
    for file in manifest.files:
        if file.digest is not None and (file.name in bad or not blobs.has(file.digest, file.size_bytes)):
            _take_apart(file, blobs)


def _take_apart(file: ManifestFile, blobs: BlobStore) -> None:
    assert file.digest is not None
    with blobs.lock(file.digest.hex) as lock:
        try:
            lock.acquire(_LOCK_TIMEOUT_S)
        except OSError as error:
            raise blobs.error(error) from error
        blobs.take_apart(file.digest, file.origin or file.name, file.size_bytes)


def _hash_block(path: Path, offset: int, found: hashlib._Hash) -> int:
    try:
        with path.open("rb", buffering=0) as stream:
            stream.seek(offset)
            block = stream.read(_BLOCK_BYTES)
    except OSError:
        # A sector that cannot be read is as bad as a wrong one.
        return 0
    found.update(block)
    return len(block)
