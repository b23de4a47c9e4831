"""From a reference to a stored model: which source, what it is, its bytes, and last its manifest.

Owns the order of a pull. The steps themselves are in ``ways``, ``sources``, ``transfer``, ``blobs``, ``views`` and ``manifests``.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from zhibei.errors import DigestMismatch, ModelNotFound, SourceError, ZhibeiError
from zhibei.events import Inspected, Notice, Progress, Pulled, PullEvent
from zhibei.formats.inspect import inspect_path
from zhibei.models import WEIGHT_ROLES, ModelDefaults, ModelInfo, StoredModel
from zhibei.refs import ModelName, ModelRef
from zhibei.store import hub_choice, owners
from zhibei.store.blobs import BlobStore
from zhibei.store.catalog import Catalog
from zhibei.store.digests import Digest
from zhibei.store.failures import PassingFailure
from zhibei.store.headers import read_remote_header
from zhibei.store.manifests import Manifest, ManifestFile, ManifestStore
from zhibei.store.options import PullOptions
from zhibei.store.rate_limit import RateLimit
from zhibei.store.recording import check_free, inspect_stored, manifest_in_place, named
from zhibei.store.sources import open_source
from zhibei.store.sources.base import Chooser, RemoteFile, RemoteModel, Source, SourceContext, StartOver, Variant
from zhibei.store.threads import in_thread
from zhibei.store.transfer import Locks, Transfer
from zhibei.store.views import Views, needs_view
from zhibei.store.ways import Way, rivals, variants_of, ways_to, with_first

_MAX_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """What a pull uses of the store. ``show`` makes the StoredModel of a manifest; ``tidy`` removes blobs nobody refers to."""

    home: Path
    blobs: BlobStore
    manifests: ManifestStore
    views: Views
    catalog: Catalog
    show: Callable[[Manifest], StoredModel]
    tidy: Callable[[frozenset[Digest]], None]
    limit: RateLimit


class Pull:
    """One pull into a store. ``may_replace``: the name may be taken from what has it."""

    def __init__(self, store: StoreAccess, options: PullOptions, *, copy: bool = False, may_replace: bool = False) -> None:
        self._store = store
        self._options = options
        self._copy = copy
        self._may_replace = may_replace

    async def run(self, ref: ModelRef, name: str | None) -> AsyncGenerator[PullEvent, None]:
        """Try each way in turn; see ``Library.pull`` for what it yields and raises."""
        await in_thread(_sweep, self._store.home / "tmp")
        target = ModelName.parse(name) if name is not None else None
        present = self._present(ref, target)
        if present is not None:
            yield Inspected(present.name, present.info, present.size_bytes)
            yield Pulled(present)
            return
        ways = ways_to(ref, target, self._store.catalog)
        if rivals(ways) and not self._options.fetch.is_offline:
            hub, is_new = await self._preferred(ways)
            if is_new:
                yield Notice(
                    "{hub} answers sooner; it will be tried first for the next week.",
                    (("hub", hub_choice.HUB_TITLES.get(hub or "", hub)),),
                )
            ways = with_first(ways, hub) if hub is not None else ways
        first: ZhibeiError | None = None
        for position, way in enumerate(ways, start=1):
            try:
                async with aclosing(self._from(way)) as events:
                    async for event in events:
                        yield event
                return
            except (SourceError, ModelNotFound, DigestMismatch) as error:
                # What is told in the end is the failure of the way that was asked for, not of a makeshift.
                first = first or error
                if position == len(ways) or (ways[position].is_second and not _is_unreachable(first)):
                    raise first from error
                yield Notice(
                    "{source} did not work ({reason}); trying {next}.",
                    (("source", str(way.ref)), ("reason", error), ("next", str(ways[position].ref))),
                )

    def _present(self, ref: ModelRef, target: ModelName | None) -> StoredModel | None:
        """The model, if asking any source is needless: it is here, whole, under its name."""
        if ref.source is not None or self._may_replace:
            return None
        entry = self._store.catalog.find(ref.name)
        manifest = self._store.manifests.read(target or (entry.name if entry else ref.name))
        if manifest is None or (target is not None and entry is None):
            return None
        model = self._store.show(manifest)
        if entry is None:
            return model if model.problem is None else None
        known = {source.digest for source in entry.sources if source.digest is not None}
        refs = {str(source.ref) for source in entry.sources}
        is_same = not manifest.digests.isdisjoint(known) or any(_begins(manifest.source, text) for text in refs)
        return model if model.problem is None and is_same else None

    async def _preferred(self, ways: tuple[Way, ...]) -> tuple[str | None, bool]:
        """Of two hubs that have the same model, the one that answers sooner, and whether that was found out just now."""
        path = self._store.home / "state" / "hub.json"
        hub = await in_thread(hub_choice.remembered, path)
        if hub is not None:
            return hub, False
        winner = await hub_choice.soonest(rivals(ways), self._ask)
        if winner is None or winner.ref.source is None:
            return None, False
        await in_thread(hub_choice.remember, path, winner.ref.source)
        return winner.ref.source, True

    async def _ask(self, way: Way) -> None:
        source = self._open(way)
        try:
            await source.resolve(way.ref.location)
        finally:
            await source.close()

    def _open(self, way: Way) -> Source:
        assert way.ref.source is not None
        options = self._options
        workspace = self._store.home / "tmp" / owners.new_token()
        context = SourceContext(workspace, options.fetch, options.pip_environment, options.hubs, self._choose(way.ref))
        return open_source(way.ref.source, context)

    def _choose(self, ref: ModelRef) -> Chooser:
        """Of a repository's variants one that is here already, so that pulling it again is pulling the same."""

        def choose(variants: tuple[Variant, ...]) -> Variant:
            here = variants_of(str(ref), (manifest.source for manifest in self._store.manifests.read_all()))
            return self._options.choose(tuple(variant for variant in variants if variant.label in here) or variants)

        return choose

    async def _from(self, way: Way) -> AsyncGenerator[PullEvent, None]:
        """All of one source's work, begun again when what it has changes meanwhile."""
        source = self._open(way)
        try:
            for _ in range(_MAX_ROUNDS):
                try:
                    async with aclosing(self._round(source, way)) as events:
                        async for event in events:
                            yield event
                    return
                except StartOver:
                    yield Notice("{source} cannot be continued where it was; starting over.", (("source", str(way.ref)),))
            raise SourceError(
                "{source} changes while it is being read, or cannot be continued after a cut.",
                hint="Try again later.",
                source=str(way.ref),
            )
        finally:
            await source.close()

    async def _round(self, source: Source, way: Way) -> AsyncGenerator[PullEvent, None]:
        remote = _with_promise(await source.resolve(way.ref.location), way)
        name = named(remote, way.name)
        for notice in remote.notices:
            yield notice
        old = self._store.manifests.read(name)
        if not (way.may_replace or self._may_replace):
            check_free(old, remote, self._store.show)
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
                manifest = await in_thread(self._describe, name, remote, files)
                manifest = replace(manifest, defaults=await self._defaults(source, manifest))
            else:
                manifest = await in_thread(manifest_in_place, name, remote)
            manifest = replace(manifest, licence=way.licence or manifest.licence)
            await in_thread(self._store.manifests.write, manifest)
            if needs_view(manifest):
                await in_thread(self._store.views.ensure, manifest)
        if old is not None:
            await in_thread(self._store.tidy, old.digests - manifest.digests)
        yield Pulled(self._store.show(manifest))

    async def _look(self, source: Source, remote: RemoteModel) -> ModelInfo | None:
        """What the model is, before its bytes have come."""
        first = remote.files[0]
        if first.role not in ("model", "shard"):
            return None
        if first.local_path is not None:
            return await in_thread(inspect_path, first.local_path)
        if first.role == "shard":
            return await read_remote_header(source, *(file for file in remote.files if file.role == "shard"))
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
        waiting = _in_lock_order(remote.files)
        while waiting:
            file = waiting.pop(0)
            async with aclosing(transfer.obtain(file)) as events:
                async for event in events:
                    yield event
            if file.is_packed and (unfolded := await source.unfold()) is not None:
                waiting = _in_lock_order(unfolded.files[1:])

    def _describe(self, name: ModelName, remote: RemoteModel, files: list[ManifestFile]) -> Manifest:
        """The manifest of files that have come, weights first, as their source has them."""
        order = {file.name: position for position, file in enumerate(remote.files)}
        files = sorted(files, key=lambda file: (file.role not in WEIGHT_ROLES, order.get(file.name, len(order)), file.name))
        paths = {file.name: self._store.blobs.path(file.digest) for file in files if file.digest is not None}
        info = inspect_stored(files, paths)
        licence = remote.licence or info.licence
        manifest = Manifest(name, remote.source, datetime.now(timezone.utc), tuple(files), info, licence)
        return replace(manifest, revision=remote.revision)

    async def _defaults(self, source: Source, manifest: Manifest) -> ModelDefaults | None:
        blobs = self._store.blobs
        return await source.read_defaults({file.name: blobs.path(file.digest) for file in manifest.files if file.digest})

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


def _in_lock_order(files: tuple[RemoteFile, ...]) -> list[RemoteFile]:
    """One order for all pulls, so that two that want the same files never wait for each other in a ring."""
    return sorted(files, key=lambda file: (file.digest is None, file.digest.hex if file.digest else file.name))


def _is_unreachable(error: ZhibeiError) -> bool:
    return isinstance(error.__cause__, PassingFailure)


def _begins(source: str, ref: str) -> bool:
    """Whether a recorded source is a catalogue's reference, or a closer form of it."""
    return source == ref or source.startswith((f"{ref}:", f"{ref}@"))


def _with_promise(remote: RemoteModel, way: Way) -> RemoteModel:
    """What the source says, with what the catalogue knows where the source is silent; contradictions are found later."""
    if way.digest is None and way.size_bytes is None:
        return remote
    file = remote.files[0]
    if None not in (way.digest, file.digest) and way.digest != file.digest:
        raise DigestMismatch(
            "{name} at its source is not the file that the catalogue has.",
            hint="The file at the source has been changed since. Pull it from another source.",
            name=file.name,
        )
    digest, size = way.digest or file.digest, way.size_bytes if way.size_bytes is not None else file.size_bytes
    return replace(remote, files=(replace(file, digest=digest, size_bytes=size), *remote.files[1:]))


def _sweep(directory: Path) -> None:
    """Remove what pulls that were killed left in the workspace."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if not owners.is_alive(path.name, path):
                shutil.rmtree(path, ignore_errors=True)
