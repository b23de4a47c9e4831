"""What a reference names, and what its models are, without fetching them: here, in the catalogue, or at their source.

Owns where is looked and in which order; judges nothing. What is found has the shape of a stored model, so that one planner
plans all: the paths of files that are not here are their names at the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from zhibei.errors import DigestMismatch, ModelFileError, ModelNotFound, SourceError, ZhibeiError
from zhibei.events import Notice
from zhibei.formats.inspect import inspect_path
from zhibei.formats.unread import scaled
from zhibei.models import ModelInfo, StoredFile, StoredModel
from zhibei.refs import ModelRef
from zhibei.store import hub_choice, owners
from zhibei.store.catalog import Catalog
from zhibei.store.failures import PassingFailure
from zhibei.store.library import Library
from zhibei.store.options import PullOptions
from zhibei.store.partial_headers import Basis, Budget, read_gguf, read_safetensors
from zhibei.store.sources import open_source
from zhibei.store.sources.base import RemoteFile, RemoteModel, Source, SourceContext, StartOver, Variant, prefer_four_bits
from zhibei.store.threads import in_thread
from zhibei.store.ways import Way, rivals, ways_to, with_first

_MAX_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Appraised:
    """One model that a reference may mean. ``ref`` gets it; ``label`` is its quantisation where there are several."""

    ref: str
    model: StoredModel
    basis: Basis
    label: str | None = None
    is_here: bool = False


@dataclass(frozen=True, slots=True)
class Appraisal:
    """All that a reference may mean: one model, or every quantisation of a repository, the smallest first."""

    asked: str
    models: tuple[Appraised, ...]
    notices: tuple[Notice, ...] = ()


async def appraise(asked: str, library: Library, options: PullOptions, catalog: Catalog | None = None) -> Appraisal:
    """Look at what a reference names, wherever it lies.

    Raises:
        BadReference: it does not parse.
        ModelNotFound: it names nothing.
        ModelBroken: it is here and cannot be used.
        ModelFileError: a header or a configuration that is damaged or hostile.
        SourceError, Offline: its source cannot be asked.
    """
    ref = ModelRef.parse(asked)
    here = await in_thread(_here, ref, library)
    if here is not None:
        return Appraisal(asked, (Appraised(here.name, here, "headers", is_here=True),))
    ways = ways_to(ref, None, catalog or Catalog())
    hub = await in_thread(hub_choice.remembered, library.home / "state" / "hub.json") if rivals(ways) else None
    ways = with_first(ways, hub) if hub is not None else ways
    first: ZhibeiError | None = None
    for position, way in enumerate(ways, start=1):
        try:
            return replace(await _from(way, library, options), asked=asked)
        except (SourceError, ModelNotFound, DigestMismatch) as error:
            first = first or error
            is_unreachable = isinstance(first.__cause__, PassingFailure)
            if position == len(ways) or (ways[position].is_second and not is_unreachable):
                raise first from error
    raise AssertionError("there is always a way")


def _here(ref: ModelRef, library: Library) -> StoredModel | None:
    """The stored model that a reference means: by name, or by where it came from."""
    if ref.source is None:
        try:
            return library.get(ref.name)
        except ModelNotFound:
            return None
    return next((model for model in library.list() if model.source == str(ref) and model.problem is None), None)


async def _from(way: Way, library: Library, options: PullOptions) -> Appraisal:
    """What is at one source; looked at again where it changes meanwhile."""
    for _ in range(_MAX_ROUNDS):
        offered: list[Variant] = []

        def choose(variants: tuple[Variant, ...], offered: list[Variant] = offered) -> Variant:
            offered[:] = variants
            return prefer_four_bits(variants)

        workspace = library.home / "tmp" / owners.new_token()
        context = SourceContext(workspace, options.fetch, options.pip_environment, options.hubs, choose)
        source = open_source(way.ref.source or "", context)
        try:
            remote = await source.resolve(way.ref.location)
            return await _look(source, remote, way, offered)
        except StartOver:
            continue
        finally:
            await source.close()
    raise SourceError("{source} changes while it is being read.", hint="Try again later.", source=str(way.ref))


async def _look(source: Source, remote: RemoteModel, way: Way, offered: Sequence[Variant]) -> Appraisal:
    info, basis = await _read(source, remote.files)
    name = str(way.name or remote.name or way.ref)
    model = _as_stored(name, remote, remote.files, info)
    if not offered:
        return Appraisal(str(way.ref), (Appraised(str(way.ref), model, basis),))
    # The notices tell which variant a pull would take; all of them are shown here.
    chosen = prefer_four_bits(tuple(offered))
    found = []
    for variant in offered:
        ref = f"{way.ref}:{variant.label}"
        if variant is chosen:
            found.append(Appraised(ref, model, basis, variant.label))
        elif variant.size_bytes is not None:
            found.append(Appraised(ref, _variant(model, variant, info, remote.files), "another variant", variant.label))
    return Appraisal(str(way.ref), tuple(sorted(found, key=lambda item: item.model.size_bytes)))


def _variant(model: StoredModel, variant: Variant, info: ModelInfo, files: Sequence[RemoteFile]) -> StoredModel:
    """The model in another quantisation: the same header and projector, and weights by the size in the listing."""
    assert variant.size_bytes is not None
    weights = sum(file.size_bytes or 0 for file in files if file.role in ("model", "shard"))
    header_bytes = max(0, weights - info.weights_bytes) if info.weights_bytes else 0
    total_bytes = max(0, variant.size_bytes - header_bytes)
    rest = tuple(file for file in model.files if file.role not in ("model", "shard"))
    file = StoredFile("model", Path(f"{variant.label}.gguf"), variant.size_bytes)
    return replace(model, files=(file, *rest), info=scaled(info, total_bytes, variant.label))


async def _read(source: Source, files: Sequence[RemoteFile]) -> tuple[ModelInfo, Basis]:
    first = files[0]
    if first.local_path is not None:
        path = first.local_path.parent if first.role == "weights" else first.local_path
        return await in_thread(inspect_path, path), "headers"
    if first.role == "weights":
        return await read_safetensors(source, files, Budget())
    ggufs = [file for file in files if file.role in ("model", "shard")]
    return await read_gguf(source, ggufs, Budget())


def _as_stored(name: str, remote: RemoteModel, files: Sequence[RemoteFile], info: ModelInfo) -> StoredModel:
    found = []
    for file in files:
        if file.size_bytes is None and file.role != "config":
            raise ModelFileError("its size is not known", field=file.name, offset=0)
        found.append(StoredFile(file.role, file.local_path or Path(file.name), file.size_bytes or 0))
    return StoredModel(name, tuple(found), info, remote.source, datetime.now(timezone.utc), remote.licence or info.licence)
