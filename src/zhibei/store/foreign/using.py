"""A model of another program as a source has it, so that the store can record it where it lies."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from zhibei.errors import ModelNotFound, SourceError, Unsupported
from zhibei.models import WEIGHT_ROLES
from zhibei.store.filenames import harmless
from zhibei.store.foreign.found import ForeignFile, ForeignModel
from zhibei.store.sources.base import RemoteFile, RemoteModel
from zhibei.store.sources.file import resolve_path


def remote_of(model: ForeignModel) -> RemoteModel:
    """The files with their paths as they are now. The name is a suggestion; None: nothing there can be one.

    Raises:
        Unsupported: it has a problem.
        ModelNotFound, SourceError: a file has gone, changed or cannot be read since it was found.
        ModelFileError: of safetensors files it cannot be told which are one model.
    """
    if model.problem is not None or model.model_path is None:
        raise Unsupported("{name} cannot be used: {problem}.", param="model", name=model.name, problem=model.problem or "")
    ordered = sorted(model.files, key=lambda file: file.role not in WEIGHT_ROLES)
    if ordered[0].role == "weights":
        # Which files of a directory belong to its model is the file source's to say.
        return replace(resolve_path(str(ordered[0].path.parent)), name=model.suggested)
    taken: set[str] = set()
    files = tuple(_described(file, taken) for file in ordered)
    return RemoteModel(files[0].origin, model.suggested, files)


def _described(file: ForeignFile, taken: set[str]) -> RemoteFile:
    path = Path(os.path.abspath(file.path))  # noqa: PTH100  (resolve() would follow the other program's links)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFound("There is no file {path}.", hint="zhibei list --all shows what there is.", path=path) from None
    except OSError as error:
        raise SourceError(
            "{path} cannot be read: {reason}.", hint="Check that you may read it.", path=path, reason=error.strerror or str(error)
        ) from error
    if (status.st_dev, status.st_ino) != file.identity or status.st_size != file.size_bytes:
        raise SourceError("{path} has changed just now.", hint="Try again later.", path=path)
    name = _free_name(file.name or harmless(path.name), file.role, taken)
    modified = status.st_mtime_ns
    return RemoteFile(
        name, f"file:{path}", file.role, status.st_size, validator=str(modified), local_path=path, modified_ns=modified
    )


def _free_name(name: str, role: str, taken: set[str]) -> str:
    """The name, told apart from the others of the model: two directories may have files of one name."""
    base, number = name, 1
    while name.casefold() in taken:
        name = f"{role}-{base}" if number == 1 else f"{role}-{number}-{base}"
        number += 1
    taken.add(name.casefold())
    return name
