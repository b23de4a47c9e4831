"""What makes files a stored model: a name that is free, and a manifest. Shared by what fetches and what uses in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from zhibei.errors import BadReference, BadRequest
from zhibei.formats.inspect import inspect_files
from zhibei.models import WEIGHT_ROLES, ModelDefaults, ModelInfo, StoredModel
from zhibei.refs import ModelName
from zhibei.store.manifests import Manifest, ManifestFile
from zhibei.store.sources.base import RemoteFile, RemoteModel
from zhibei.store.ways import is_closer


def named(remote: RemoteModel, wanted: ModelName | None) -> ModelName:
    """The name a model gets.

    Raises:
        BadReference: none was given and none follows from the source.
    """
    name = wanted or remote.name
    if name is None:
        raise BadReference("{ref} does not give the model a name.", hint="Give it one with --name.", ref=remote.source)
    return name


def check_free(old: Manifest | None, remote: RemoteModel, show: Callable[[Manifest], StoredModel]) -> None:
    """A name is not taken from a healthy model that came from elsewhere.

    Raises:
        BadRequest: it would be.
    """
    if old is None or show(old).problem is not None:
        return
    if is_closer(old.source, remote.source) or is_closer(remote.source, old.source):
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


def in_place(file: RemoteFile) -> ManifestFile:
    """The entry of a file that stays where it lies."""
    assert file.size_bytes is not None and file.local_path is not None
    return ManifestFile(
        file.role, file.name, file.size_bytes, path=file.local_path, modified_ns=file.modified_ns, origin=file.origin
    )


def manifest_in_place(name: ModelName, remote: RemoteModel, defaults: ModelDefaults | None = None) -> Manifest:
    """The manifest of a model whose files stay where they lie.

    Raises:
        ModelFileError: they are no model.
    """
    files = tuple(map(in_place, remote.files))
    info = inspect_stored(files, {file.name: file.path for file in files if file.path is not None})
    licence = remote.licence or info.licence
    return Manifest(name, remote.source, datetime.now(timezone.utc), files, info, licence, defaults=defaults)


def inspect_stored(files: Sequence[ManifestFile], paths: Mapping[str, Path]) -> ModelInfo:
    """What a model's files say it is; ``paths`` are where they lie, by their names.

    Raises:
        ModelFileError: they are damaged, hostile, or no model.
    """
    named = {}
    for file in files:
        if file.role in (*WEIGHT_ROLES, "config"):
            # Shards are known by their own names, whatever directory a repository keeps them in.
            named[PurePosixPath(file.name).name if file.role in ("model", "shard") else file.name] = paths[file.name]
    return inspect_files(named)
