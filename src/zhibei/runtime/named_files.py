"""Files that a person names for loading: adapters, a projector, a draft model. Knows no engine and no pool."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from zhibei.errors import ModelFileError, ModelNotFound
from zhibei.formats.inspect import inspect_path
from zhibei.models import ModelInfo, StoredFile, StoredModel
from zhibei.options import LoadOptions


def with_absolute_paths(load: LoadOptions) -> LoadOptions:
    """The options as an engine's process understands them: it has a working directory of its own."""
    if not (load.lora or load.mmproj or load.draft_model):
        return load
    return replace(
        load,
        lora=tuple((_absolute(path), scale) for path, scale in load.lora),
        mmproj=load.mmproj and _absolute(load.mmproj),
        draft_model=load.draft_model and _absolute(load.draft_model),
    )


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def with_files(model: StoredModel, load: LoadOptions) -> StoredModel:
    """The model with the files that the load options name among its own, so that the plan counts them.

    Raises:
        ModelNotFound: one does not exist.
    """
    named = [("adapter", path) for path, _ in load.lora]
    named += [("projector", load.mmproj)] if load.mmproj else []
    named += [("draft", load.draft_model)] if load.draft_model else []
    replaced = {role for role, _ in named}
    kept = tuple(file for file in model.files if file.role not in replaced)
    files = kept + tuple(_option_file(role, Path(path)) for role, path in named)
    return replace(model, files=files, draft=_described(files))


def _described(files: Sequence[StoredFile]) -> ModelInfo | None:
    """The draft model's header; None where there is none, or it cannot be read: then the engine says so."""
    for file in files:
        if file.role == "draft":
            with suppress(ModelFileError):
                return inspect_path(file.path)
    return None


def _option_file(role: str, path: Path) -> StoredFile:
    try:
        return StoredFile(role, path, path.stat().st_size)
    except OSError:
        raise ModelNotFound("There is no file {path} (asked for as {role}).", path=path, role=role) from None
