"""The models on this disk: listed, named, pulled, copied, removed. Owns what a stored model is; reads no configuration.

Importing this imports nothing heavy: what a pull needs is imported when one begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zhibei.errors import BadRequest, ModelBroken, ModelNotFound
from zhibei.models import StoredFile, StoredModel
from zhibei.refs import ModelName, ModelRef
from zhibei.store.blobs import GRACE_S, BlobStore
from zhibei.store.catalog import Catalog
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.manifests import Manifest, ManifestFile, ManifestStore

if TYPE_CHECKING:
    from zhibei.events import PullEvent
    from zhibei.store.options import PullOptions
    from zhibei.store.rate_limit import RateLimit

_LOCK_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something in the store that belongs to no model: a blob, or a download that was cut off (``origin``: of what)."""

    kind: Literal["blob", "part"]
    path: Path
    size_bytes: int
    origin: str | None = None


class Library:
    """A store of models under a directory. Making one neither reads nor changes the disk; several processes may use it.

    Args:
        home: the directory; made by the first pull.
        disk: the file system operations, for tests.
        catalog: the short names.
        options: how pulls fetch, for tests.
    """

    def __init__(
        self, home: Path, *, disk: Disk | None = None, catalog: Catalog | None = None, options: PullOptions | None = None
    ) -> None:
        self.home = home.absolute()
        self._disk = disk or Disk()
        self._blobs = BlobStore(self.home, self._disk)
        self._manifests = ManifestStore(self.home, self._disk)
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
        model = self._show(self._find(name))
        if model.problem is not None:
            raise ModelBroken(
                "The model {name} cannot be used: {problem}.",
                hint="Pull it again, or remove it: zhibei rm {name}",
                name=model.name,
                problem=model.problem,
            )
        return model

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
        from zhibei.store.options import PullOptions
        from zhibei.store.pull import Pull, StoreAccess
        from zhibei.store.rate_limit import RateLimit

        options = self._options or PullOptions()
        self._limit = self._limit or RateLimit(options.fetch.max_bytes_per_s)
        access = StoreAccess(self.home, self._blobs, self._manifests, self._catalog, self._show, self._tidy, self._limit)
        work = Pull(access, options, copy=copy).run(ref, name)
        return hand_over(work)

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

    def leftovers(self, *, grace_s: float = GRACE_S) -> tuple[Leftover, ...]:
        """Blobs that no model uses (and older than ``grace_s``), and downloads that were cut off."""
        parts = [Leftover("part", part.path, part.size_bytes, part.origin) for part in self._blobs.parts() if not part.is_active]
        orphans = self._blobs.orphans(self._referenced(), grace_s=grace_s)
        return (*parts, *(Leftover("blob", orphan.path, orphan.size_bytes) for orphan in orphans))

    def prune(self, *, grace_s: float = GRACE_S) -> tuple[Leftover, ...]:
        """Remove the leftovers that nobody is working on; returns what was removed."""
        removed = [
            Leftover("part", part.path, part.size_bytes, part.origin) for part in self._blobs.parts() if self._blobs.drop(part)
        ]
        for orphan in list(self._blobs.orphans(self._referenced(), grace_s=grace_s)):
            if self._remove_unused(orphan.digest):
                removed.append(Leftover("blob", orphan.path, orphan.size_bytes))
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
        for file in manifest.files:
            path = file.path if file.path is not None else self._blobs.path(file.digest) if file.digest else self.home
            files.append(StoredFile(file.role, path, file.size_bytes, str(file.digest) if file.digest else None))
            problem = problem or _problem_of(file, path)
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

    def _referenced(self) -> frozenset[Digest]:
        return frozenset(digest for manifest in self._manifests.read_all() for digest in manifest.digests)

    def _tidy(self, digests: Collection[Digest]) -> None:
        for digest in digests:
            self._remove_unused(digest)

    def _remove_unused(self, digest: Digest) -> bool:
        """Remove a blob that no manifest refers to. One that a pull holds is left to it, or to ``prune``."""
        with self._blobs.lock(digest.hex) as lock:
            try:
                if not lock.try_acquire():
                    return False
            except OSError:
                return False
            return digest not in self._referenced() and self._blobs.remove(digest)


def _problem_of(file: ManifestFile, path: Path) -> str | None:
    """Why a file cannot be used, in English; None if it can."""
    where = f"the file {path}" if file.path is not None else f"its file {file.name}"
    try:
        status = path.stat() if file.path is not None else path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return f"{where} is missing"
    except (OSError, ValueError) as error:
        return f"{where} cannot be read ({error})"
    if status.st_size != file.size_bytes:
        return f"{where} has {status.st_size} bytes instead of {file.size_bytes}"
    if file.path is not None and status.st_mtime_ns != file.modified_ns:
        return f"{where} has changed since it was imported"
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
