"""The models on this disk: listed, named, pulled, copied, removed. Owns what a stored model is; reads no configuration.

Importing this imports nothing heavy: what a pull needs is imported when one begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from zhibei.errors import BadRequest, ModelBroken, ModelNotFound
from zhibei.i18n import Phrase
from zhibei.models import CREATED, Leftover, StoredFile, StoredModel
from zhibei.refs import ModelName, ModelRef
from zhibei.store.blobs import GRACE_S, BlobStore
from zhibei.store.catalog import Catalog
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.manifests import Manifest, ManifestFile, ManifestStore
from zhibei.store.views import Views, needs_view

if TYPE_CHECKING:
    from zhibei.events import CheckEvent, PullEvent
    from zhibei.store.created import Recipe
    from zhibei.store.foreign import ForeignModel, ForeignPlaces
    from zhibei.store.options import PullOptions
    from zhibei.store.parts import FoundPart
    from zhibei.store.pull import Pull
    from zhibei.store.rate_limit import RateLimit
    from zhibei.store.sources.base import RemoteModel

_LOCK_TIMEOUT_S = 5.0


class Library:
    """A store of models under a directory. Making one neither reads nor changes the disk; several processes may use it.

    Args:
        home: the directory; made by the first pull.
        disk: the file system operations, for tests.
        catalog: the short names.
        options: how pulls fetch.
        places: where other programs keep their models.
    """

    def __init__(
        self,
        home: Path,
        *,
        disk: Disk | None = None,
        catalog: Catalog | None = None,
        options: PullOptions | None = None,
        places: Callable[[], ForeignPlaces] | None = None,
    ) -> None:
        self.home = home.absolute()
        self._disk = disk or Disk()
        self._blobs = BlobStore(self.home, self._disk)
        self._manifests = ManifestStore(self.home, self._disk)
        self._views = Views(self.home, self._blobs, self._disk)
        self._places = places
        self._catalog = catalog or Catalog()
        self._options = options
        self._limit: RateLimit | None = None

    def list(self) -> list[StoredModel]:
        """All models, sorted by name; a broken one has ``problem`` set. Needs no network and no free space."""
        return [self._show(manifest) for manifest in self._manifests.read_all()]

    def get(self, name: ModelName) -> StoredModel:
        """A model by its name, or by the catalogue's short form of it.

        Raises:
            ModelNotFound: it is not here.
            ModelBroken: it is here and cannot be used.
        """
        manifest = self._find(name)
        if needs_view(manifest) and all(self._blobs.has(digest) for digest in manifest.digests):
            self._views.ensure(manifest)
        model = self._show(manifest)
        if model.problem is not None:
            raise ModelBroken(
                "The model {name} cannot be used: {problem}.",
                hint="Pull it again, or remove it: zhibei rm {name}",
                name=model.name,
                problem=model.problem,
            )
        return model

    def look(self, name: ModelName) -> StoredModel:
        """As ``get``, but a broken one too, with its ``problem``.

        Raises:
            ModelNotFound: it is not here.
        """
        return self._show(self._find(name))

    def resolve(self, ref_text: str) -> StoredModel:
        """A model by name, or a GGUF file by its path, which is then used where it lies.

        Raises:
            BadReference: the text does not parse.
            BadRequest: it names something that has to be pulled first.
            ModelNotFound, ModelBroken, ModelFileError, SourceError: there is none, or it cannot be used.
        """
        ref = ModelRef.parse(ref_text)
        if ref.source is None:
            return self.get(ref.name)
        if ref.source != "file":
            raise BadRequest(
                "{ref} is not on this machine yet.", hint="Pull it first: zhibei pull {ref}", param="model", ref=str(ref)
            )
        return _unlisted(ref.location)

    def pull(self, ref: ModelRef, *, name: str | None = None, copy: bool = False) -> AsyncGenerator[PullEvent, None]:
        """Fetch a model, or import a file: Inspected, Progress …, Pulled. Closing it leaves a part that a later pull continues.

        Args:
            ref: a name in the catalogue, or a source and a location.
            name: the name to give it, instead of the one that follows from the reference.
            copy: copy a ``file:`` into the store instead of using it where it lies.

        Raises:
            ModelNotFound: nothing of that name, here, in the catalogue or at the source.
            BadRequest: the name is taken by a model from elsewhere.
            ModelFileError: what came is no model; it does not become visible.
            DiskFull, StoreError, SourceError, Offline: what came so far is kept.
            DigestMismatch: what came is not what was promised; it is thrown away.
        """
        from zhibei.store.handover import hand_over

        return hand_over(self._new_pull(copy=copy).run(ref, name))

    def foreign(self) -> tuple[ForeignModel, ...]:
        """The models that other programs keep on this disk, sorted by name; unusable ones have ``problem`` set."""
        from zhibei.store.foreign import find_foreign

        return find_foreign(self._places()) if self._places is not None else ()

    def use(self, reference: str, *, name: str | None = None) -> StoredModel:
        """Record a model that lies elsewhere on this disk, without copying it: by its name in ``foreign``, or by its path.

        Raises:
            BadReference, ModelNotFound: there is no such model.
            BadRequest: the name is taken by a model from elsewhere.
            Unsupported, ModelFileError, SourceError: it cannot be used.
        """
        from zhibei.store.foreign import defaults_of
        from zhibei.store.recording import check_free, manifest_in_place, named

        remote, found = self._elsewhere(reference)
        target = named(remote, ModelName.parse(name) if name is not None else None)
        old = self._manifests.read(target)
        check_free(old, remote, self._show)
        manifest = manifest_in_place(target, remote)
        if found is not None:
            has_template = manifest.info is not None and manifest.info.chat_template is not None
            manifest = replace(manifest, defaults=defaults_of(found, has_template=has_template))
        self._manifests.write(manifest)
        if old is not None:
            self._tidy(old.digests)
        return self._show(manifest)

    def verify(self, names: Sequence[ModelName] = ()) -> AsyncGenerator[CheckEvent, None]:
        """Read models again, all if none is named, and compare them with their digests: Progress …, Checked for each.

        Raises:
            ModelNotFound: one is not here; nothing was read then.
        """
        from zhibei.store.handover import hand_over

        return hand_over(self._verify([self._find(name) for name in names] or self._manifests.read_all()))

    def repair(self, name: ModelName) -> AsyncGenerator[PullEvent | CheckEvent, None]:
        """Read a model again and fetch what is wrong of it: Progress …, Checked, and then as ``pull``; only Pulled if nothing is.

        Raises:
            ModelNotFound: it is not here.
            ModelBroken: its manifest cannot be read, so that nothing is known of where it came from.
            And as ``pull`` does.
        """
        from zhibei.store.handover import hand_over

        return hand_over(self._repair(self._find(name)))

    def update(self, name: ModelName) -> AsyncGenerator[PullEvent, None]:
        """Ask a model's source whether it has a newer version, and fetch that: as ``pull``.

        Raises:
            ModelNotFound, ModelBroken: it is not here, or nothing is known of where it came from.
            And as ``pull`` does.
        """
        from zhibei.store.handover import hand_over

        manifest = self._find(name)
        return hand_over(self._update(manifest, self._source_of(manifest)))

    def pullable(self, name: ModelName) -> bool:
        """Whether the catalogue knows where to get it."""
        return self._catalog.find(name) is not None

    def remove(self, name: ModelName) -> None:
        """Remove a model, and its blobs that no other model uses. Files used in place are not touched. Needs no free space.

        Raises:
            ModelNotFound: it is not here.
            StoreError: the disk does not allow it.
        """
        manifest = self._find(name)
        self._manifests.remove(manifest.name)
        self._tidy(manifest.digests)

    def copy(self, source: ModelName, target: ModelName) -> None:
        """Give a model a second name. No bytes are copied.

        Raises:
            ModelNotFound, ModelBroken: there is no such model to copy.
            BadRequest: the second name is taken by another model.
            StoreBusy: one of its blobs is being worked on.
        """
        self.get(source)
        manifest = self._find(source)
        old = self._manifests.read(target)
        if old is not None and self._show(old).problem is None and old.files != manifest.files:
            raise BadRequest(
                "There is already a model {name}.", hint="Remove it first: zhibei rm {name}", param="target", name=str(target)
            )
        with contextlib.ExitStack() as held:
            for digest in sorted(manifest.digests, key=str):
                lock = held.enter_context(self._blobs.lock(digest.hex))
                lock.acquire(_LOCK_TIMEOUT_S)
            self.get(source)
            self._manifests.write(replace(manifest, name=target, added_at=datetime.now(timezone.utc)))

    def create(self, recipe: Recipe) -> StoredModel:
        """Make a model of another one, or of uploaded files; see ``created.create`` for what it raises. Blocks."""
        from zhibei.store.created import Workshop, create

        manifest, old = create(Workshop(self._blobs, self._disk, self._manifests, self._views, self._find, self._show), recipe)
        if old is not None:
            self._tidy(old.digests - manifest.digests)
        return self._show(manifest)

    def has_blob(self, digest: Digest) -> bool:
        """Whether a file of that digest is in the store."""
        return self._blobs.has(digest)

    async def receive(self, digest: Digest, pieces: AsyncIterable[bytes], size_bytes: int | None = None) -> bool:
        """Take in a file that a client sends, to make a model of; see ``uploads.receive``."""
        from zhibei.store.uploads import receive

        return await receive(self._blobs, self._disk, digest, pieces, size_bytes)

    async def _verify(self, manifests: Iterable[Manifest]) -> AsyncGenerator[CheckEvent, None]:
        from zhibei.store.checking import check

        for manifest in manifests:
            async with contextlib.aclosing(check(manifest, self._blobs, self._show(manifest).problem)) as events:
                async for event in events:
                    yield event

    async def _repair(self, manifest: Manifest) -> AsyncGenerator[PullEvent | CheckEvent, None]:
        from zhibei.events import Checked, Pulled
        from zhibei.store.checking import take_apart
        from zhibei.store.threads import in_thread

        source = self._source_of(manifest)
        found: Checked | None = None
        async with contextlib.aclosing(self._verify((manifest,))) as events:
            async for event in events:
                found = event if isinstance(event, Checked) else found
                yield event
        if found is not None and found.problem is None:
            # A sound model needs no source, which may be out of reach, or have a newer version by now.
            yield Pulled(self._show(manifest))
            return
        bad = found.bad_files if found is not None else ()
        await in_thread(take_apart, manifest, bad, self._blobs)
        async with contextlib.aclosing(self._update(manifest, source)) as steps:
            async for step in steps:
                yield step

    async def _update(self, manifest: Manifest, source: ModelRef) -> AsyncGenerator[PullEvent, None]:
        """Have what the source has now, in place or copied as it was."""
        from zhibei.events import Inspected, Pulled
        from zhibei.store.threads import in_thread

        used = await in_thread(self._used, manifest)
        if used is not None:
            model = await in_thread(self.use, used.name, name=str(manifest.name))
            yield Inspected(model.name, model.info, model.size_bytes)
            yield Pulled(model)
            return
        pull = self._new_pull(copy=not manifest.in_place, may_replace=True)
        async with contextlib.aclosing(pull.run(source, str(manifest.name))) as steps:
            async for step in steps:
                yield step

    def _used(self, manifest: Manifest) -> ForeignModel | None:
        """The model of another program that was recorded: only there is known what belongs to it beside its weights."""
        if not manifest.in_place:
            return None
        path = Path(manifest.source.removeprefix("file:"))
        found = (model for model in self.foreign() if model.problem is None and model.model_path is not None)
        return next((model for model in found if model.model_path and path in (model.model_path, model.model_path.parent)), None)

    def _source_of(self, manifest: Manifest) -> ModelRef:
        if manifest.source.startswith(CREATED):
            raise BadRequest(
                "The model {name} was made on this machine; no source has it.", hint="Make it again.", name=str(manifest.name)
            )
        if not manifest.source:
            raise ModelBroken(
                "The model {name} cannot be used: {problem}.",
                hint="Pull it again, or remove it: zhibei rm {name}",
                name=str(manifest.name),
                problem=manifest.problem,
            )
        return ModelRef.parse(manifest.source)

    def _new_pull(self, *, copy: bool = False, may_replace: bool = False) -> Pull:
        from zhibei.store.options import PullOptions
        from zhibei.store.pull import Pull, StoreAccess
        from zhibei.store.rate_limit import RateLimit

        options = self._options or PullOptions()
        self._limit = self._limit or RateLimit(options.fetch.max_bytes_per_s)
        access = StoreAccess(
            self.home, self._blobs, self._manifests, self._views, self._catalog, self._show, self._tidy, self._limit
        )
        return Pull(access, options, copy=copy, may_replace=may_replace)

    def _elsewhere(self, reference: str) -> tuple[RemoteModel, ForeignModel | None]:
        """A model outside the store, and what is known of it where another program keeps it."""
        from zhibei.store.foreign import PROGRAMS, find_named, remote_of
        from zhibei.store.sources.file import resolve_path

        found = find_named(self.foreign(), reference)
        if found is not None:
            return remote_of(found), found
        # A program's name for a model may be longer than any name here, and is a name all the same.
        is_theirs = reference.strip().partition("/")[0].casefold() in PROGRAMS
        ref = None if is_theirs else ModelRef.parse(reference)
        if ref is None or ref.source != "file":
            raise ModelNotFound(
                "No other program here has a model {name}.", hint="zhibei list --all shows what there is.", name=reference
            )
        return resolve_path(ref.location), None

    def leftovers(self, *, grace_s: float = GRACE_S) -> tuple[Leftover, ...]:
        """What ``prune`` would remove: blobs that no model uses (and older than ``grace_s``), downloads that were cut off,
        views of models that are gone.
        """
        manifests = self._manifests.read_all()
        orphans = self._blobs.orphans(_referenced(manifests), grace_s=grace_s)
        return (
            *(_part(part) for part in self._blobs.parts() if not part.is_active),
            *(Leftover("blob", orphan.path, orphan.size_bytes) for orphan in orphans),
            *(Leftover("view", path, 0) for path in self._views.stale(manifests)),
        )

    def partials(self) -> tuple[Leftover, ...]:
        """Downloads that were cut off, or are under way."""
        return tuple(map(_part, self._blobs.parts()))

    def prune(self, *, grace_s: float = GRACE_S) -> tuple[Leftover, ...]:
        """Remove the leftovers that nobody is working on; returns what was removed."""
        manifests = self._manifests.read_all()
        removed = [_part(part) for part in self._blobs.parts() if self._blobs.drop(part)]
        for orphan in list(self._blobs.orphans(_referenced(manifests), grace_s=grace_s)):
            if self._remove_unused(orphan.digest):
                removed.append(Leftover("blob", orphan.path, orphan.size_bytes))
        removed += [Leftover("view", path, 0) for path in self._views.stale(manifests)]
        self._views.tidy(manifests)
        return tuple(removed)

    def _find(self, name: ModelName) -> Manifest:
        manifest = self._manifests.read(name)
        if manifest is not None:
            return manifest
        entry = self._catalog.find(name)
        if entry is not None:
            manifest = self._manifests.read(entry.name)
            if manifest is not None:
                return manifest
            raise ModelNotFound(
                "The model {name} is not on this machine.", hint="Pull it: zhibei pull {name}", name=str(entry.name)
            )
        raise ModelNotFound("There is no model {name}.", hint="zhibei list shows what is here.", name=str(name))

    def _show(self, manifest: Manifest) -> StoredModel:
        problem = manifest.problem
        files = []
        has_view = needs_view(manifest)
        for file in manifest.files:
            path = file.path or self._blob_path(manifest, file, has_view=has_view)
            files.append(StoredFile(file.role, path, file.size_bytes, str(file.digest) if file.digest else None))
            # A view may still show what is gone from the blobs, and then shows what nobody verified.
            blob = self._blobs.path(file.digest) if file.digest else path
            problem = problem or _problem_of(file, blob) or _problem_of(file, path)
        return StoredModel(
            name=str(manifest.name),
            files=tuple(files),
            info=manifest.info,
            source=manifest.source,
            added_at=manifest.added_at,
            licence=manifest.licence,
            in_place=manifest.in_place,
            problem=problem,
            defaults=manifest.defaults,
        )

    def _blob_path(self, manifest: Manifest, file: ManifestFile, *, has_view: bool) -> Path:
        assert file.digest is not None
        return self._views.path(manifest, file) if has_view else self._blobs.path(file.digest)

    def _tidy(self, digests: Collection[Digest]) -> None:
        for digest in digests:
            self._remove_unused(digest)
        self._views.tidy(self._manifests.read_all())

    def _remove_unused(self, digest: Digest) -> bool:
        """Remove a blob that no manifest refers to. One that a pull holds is left to it, or to ``prune``."""
        with self._blobs.lock(digest.hex) as lock:
            try:
                if not lock.try_acquire():
                    return False
            except OSError:
                return False
            return digest not in _referenced(self._manifests.read_all()) and self._blobs.remove(digest)


def _referenced(manifests: Iterable[Manifest]) -> frozenset[Digest]:
    return frozenset(digest for manifest in manifests for digest in manifest.digests)


def _part(part: FoundPart) -> Leftover:
    return Leftover("part", part.path, part.size_bytes, part.origin, part.total_bytes, part.is_active)


def _problem_of(file: ManifestFile, path: Path) -> Phrase | None:
    """Why a file cannot be used; None if it can."""
    in_place = file.path is not None
    where = Phrase("the file {path}", path=path) if in_place else Phrase("its file {name}", name=file.name)
    try:
        status = path.stat() if in_place else path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return Phrase("{where} is missing", where=where)
    except (OSError, ValueError) as error:
        return Phrase("{where} cannot be read ({reason})", where=where, reason=str(error))
    if status.st_size != file.size_bytes:
        return Phrase("{where} has {found} bytes instead of {wanted}", where=where, found=status.st_size, wanted=file.size_bytes)
    if in_place and status.st_mtime_ns != file.modified_ns:
        return Phrase("{where} has changed since it was imported", where=where)
    return None


def _unlisted(location: str) -> StoredModel:
    """A model used from its path without being imported; its name is the path's reference."""
    from zhibei.formats.inspect import inspect_path
    from zhibei.store.sources.file import resolve_path

    remote = resolve_path(location)
    files = tuple(StoredFile(file.role, file.local_path, file.size_bytes or 0) for file in remote.files if file.local_path)
    info = inspect_path(files[0].path)
    newest = max(file.modified_ns or 0 for file in remote.files)
    added_at = datetime.fromtimestamp(newest / 1e9, timezone.utc)
    return StoredModel(remote.source, files, info, remote.source, added_at, info.licence, in_place=True)
