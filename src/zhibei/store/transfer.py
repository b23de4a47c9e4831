"""One file from its source into the blobs: meet others at the lock, continue a part, verify, give it its name.

Knows the order of these steps and nothing of names and manifests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import dataclass, field

from zhibei.errors import DigestMismatch, ModelFileError
from zhibei.events import Notice, Progress
from zhibei.formats.inspect import inspect_path
from zhibei.store.blobs import BlobStore
from zhibei.store.digests import Digest
from zhibei.store.download import Download
from zhibei.store.journal import PartIdentity
from zhibei.store.locks import FileLock
from zhibei.store.manifests import ManifestFile
from zhibei.store.mending import mend
from zhibei.store.parts import Part
from zhibei.store.rate_limit import RateLimit
from zhibei.store.sources.base import RemoteFile, Source, StartOver
from zhibei.store.threads import in_thread


@dataclass
class Locks:
    """The locks a pull holds until its manifest is written. ``poll_s``: how often a waiting one looks."""

    poll_s: float = 0.2
    _held: dict[str, FileLock] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def holds(self, key: str) -> bool:
        """Whether this pull has the lock of a key already."""
        return key in self._held

    def try_take(self, lock: FileLock, key: str) -> bool:
        """Take a lock if it is free."""
        if self.holds(key):
            return True
        if not lock.try_acquire():
            return False
        self._held[key] = lock
        self._stack.callback(lock.release)
        return True

    def __enter__(self) -> Locks:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.clear()
        self._stack.close()


class Transfer:
    """Fetches files of one pull. ``recall`` finds a blob that is known to hold a remote file of unknown digest."""

    def __init__(
        self,
        blobs: BlobStore,
        source: Source,
        locks: Locks,
        recall: Callable[[RemoteFile], Digest | None],
        *,
        connections: int,
        limit: RateLimit,
    ) -> None:
        self._blobs = blobs
        self._source = source
        self._locks = locks
        self._recall = recall
        self._connections = connections
        self._limit = limit

    async def obtain(self, file: RemoteFile) -> AsyncGenerator[Progress | Notice | ManifestFile, None]:
        """Have a file's bytes in the store. The last item, and only that, is the file as the manifest will have it.

        Raises:
            StartOver: it has changed at its source; nothing is kept of what came.
            DigestMismatch: the bytes are not the promised ones; nothing is kept of them.
            ModelFileError: they are no model; nothing is kept of them.
            StoreError, SourceError: what came so far is kept for the next pull.
        """
        digest = file.digest or self._recall(file)
        identity = _identity(file)
        async with aclosing(self._meet(identity.key, file)) as events:
            async for event in events:
                yield event
        digest = digest or self._recall(file)
        if digest is not None:
            async with aclosing(self._meet(digest.hex, file)) as events:
                async for event in events:
                    yield event
            if self._blobs.has(digest, file.size_bytes):
                size = file.size_bytes if file.size_bytes is not None else self._blobs.path(digest).stat().st_size
                yield Progress(file.name, size, size)
                yield _entry(file, digest, size)
                return
        async with aclosing(self._fetch(file, identity)) as fetched:
            async for item in fetched:
                yield item

    async def _fetch(self, file: RemoteFile, identity: PartIdentity) -> AsyncGenerator[Progress | Notice | ManifestFile, None]:
        self._check_space(file, identity, is_unpacked=not file.is_packed)
        prepared = file
        async with aclosing(self._source.prepare(file)) as preparations:
            async for step in preparations:
                if isinstance(step, RemoteFile):
                    prepared = step
                else:
                    yield step
        _check_promise(file, prepared)
        file, identity = prepared, _identity(prepared)
        async with aclosing(self._meet(identity.key, file)) as events:
            async for event in events:
                yield event
        if file.digest is None or not self._blobs.has(file.digest, file.size_bytes):
            self._check_space(file, identity, is_unpacked=True)
            async with aclosing(self._receive(file, identity)) as received:
                async for item in received:
                    yield item
            return
        yield _entry(file, file.digest, self._blobs.path(file.digest).stat().st_size)

    async def _receive(self, file: RemoteFile, identity: PartIdentity) -> AsyncGenerator[Progress | Notice | ManifestFile, None]:
        """Bytes into a part, the part into a blob. The part outlives a failure, unless its bytes are wrong."""
        part = await in_thread(self._blobs.claim, identity)
        async with AsyncExitStack() as cleanup:
            cleanup.push_async_callback(in_thread, part.keep)
            try:
                async with aclosing(self._fill(part, file)) as progress:
                    async for event in progress:
                        yield event
                async with aclosing(self._verify(part, file)) as steps:
                    async for step in steps:
                        yield step
                digest = part.digest()
                await in_thread(self._seal, part, file)
                async with aclosing(self._meet(digest.hex, file)) as waiting:
                    async for step in waiting:
                        yield step
                size = part.num_received_bytes
                await in_thread(self._blobs.commit, part, digest)
            except StartOver:
                # What a digest tells stays good, however odd an answer in between was.
                if file.digest is None or not self._source.has_ranges(file):
                    await in_thread(part.discard)
                raise
            except (DigestMismatch, ModelFileError):
                await in_thread(part.discard)
                raise
        yield Progress(file.name, size, file.size_bytes or size)
        yield _entry(file, digest, size)

    async def _fill(self, part: Part, file: RemoteFile) -> AsyncGenerator[Progress, None]:
        download = Download(
            part, self._source, file, translate=self._blobs.error, connections=self._connections, limit=self._limit
        )
        async with aclosing(download.run()) as events:
            async for event in events:
                yield event

    async def _verify(self, part: Part, file: RemoteFile) -> AsyncGenerator[Progress | Notice, None]:
        """Compare with the promise. Where the source can be asked for parts, what came wrong is looked for and fetched again."""
        if file.digest in (None, part.digest()):
            return
        found = part.digest()
        if self._source.has_ranges(file):
            yield Notice("{name} did not come as promised; comparing it with its source.", (("name", file.name),))
            async with aclosing(mend(part, self._source, file, self._blobs.error)) as events:
                async for event in events:
                    yield event
            if part.digest() == file.digest:
                return
        elif part.num_resumed_bytes:
            raise StartOver
        raise DigestMismatch(
            "What came as {name} is not what was promised: its SHA-256 is {found}, not {wanted}.",
            hint="Pull again. If it stays so, the file at the source has been changed or the network alters it.",
            name=file.name,
            found=found.hex,
            wanted=file.digest.hex if file.digest else None,
        )

    def _seal(self, part: Part, file: RemoteFile) -> None:
        self._blobs.seal(part)
        if file.role == "model":
            inspect_path(part.data_path)

    async def _meet(self, key: str, file: RemoteFile) -> AsyncGenerator[Progress | Notice, None]:
        """Take a key's lock; while another pull has it, tell how far that one is."""
        lock = self._blobs.lock(key)
        if self._take(lock, key):
            return
        yield Notice("Another pull is fetching {name} already; waiting for it.", (("name", file.name),))
        seen = -1
        while not self._take(lock, key):
            done = self._blobs.growing_bytes(key)
            if done != seen:
                seen = done
                yield Progress(file.name, done, file.size_bytes)
            await asyncio.sleep(self._locks.poll_s)

    def _take(self, lock: FileLock, key: str) -> bool:
        try:
            return self._locks.try_take(lock, key)
        except OSError as error:
            raise self._blobs.error(error) from error

    def _check_space(self, file: RemoteFile, identity: PartIdentity, *, is_unpacked: bool) -> None:
        if file.size_bytes is not None:
            needed = file.size_bytes - min(file.size_bytes, self._blobs.growing_bytes(identity.key))
            self._blobs.check_space(needed if is_unpacked else needed + file.size_bytes)


def _identity(file: RemoteFile) -> PartIdentity:
    return PartIdentity(file.origin, file.digest, file.size_bytes, file.validator)


def _check_promise(expected: RemoteFile, found: RemoteFile) -> None:
    """What the catalogue or the person expects against what the source says now."""
    if expected.digest not in (None, found.digest) or expected.size_bytes not in (None, found.size_bytes):
        raise DigestMismatch(
            "{name} at its source is not the file that was expected.",
            hint="It was changed after it was listed; pull it by its full reference if you trust it.",
            name=found.name,
        )


def _entry(file: RemoteFile, digest: Digest, size_bytes: int) -> ManifestFile:
    return ManifestFile(file.role, file.name, size_bytes, digest, origin=file.origin, validator=file.validator)
