"""Models of other programs on the command line: rows, documents and completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zhibei.cli.connect import local_store, run_sync
from zhibei.cli.invocation import Invocation
from zhibei.errors import BadRequest, ZhibeiError
from zhibei.settings import Settings
from zhibei.units import format_bytes

if TYPE_CHECKING:
    from zhibei.store.foreign import ForeignModel


FOLDER = "folder"
"""The program that models in plain folders go by."""


def find(settings: Settings, folders: Sequence[str] = ()) -> Sequence[ForeignModel]:
    """The models of other programs on this disk, and those in folders besides.

    Raises:
        BadRequest: one of the folders is none.
    """
    paths = tuple(Path(folder).expanduser().absolute() for folder in folders)
    for path in paths:
        if not path.is_dir():
            raise BadRequest("There is no folder {path}.", param="--folder", path=path)
    looked = replace(settings, model_folders=(*settings.model_folders, *paths))
    return run_sync(local_store(looked).foreign_models())


def rows_of(models: Sequence[ForeignModel]) -> list[list[str]]:
    """Rows as ``list --all`` has them: name, size, quantisation, program. What no file name says is a dash."""
    return [[model.name, format_bytes(model.size_bytes), model.quantisation or "-", model.program] for model in models]


def document(model: ForeignModel) -> dict[str, Any]:
    """A model as ``--json`` has it."""
    files = [{"role": file.role, "path": str(file.path), "size_bytes": file.size_bytes} for file in model.files]
    return {
        "name": model.name,
        "other_names": list(model.other_names),
        "program": model.program,
        "size_bytes": model.size_bytes,
        "quantisation": model.quantisation,
        "problem": model.problem,
        "files": files,
    }


def complete_foreign(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of models of other programs that can be used; nothing where they cannot be looked for."""
    from click.shell_completion import CompletionItem

    invocation: Invocation = ctx.find_root().obj
    try:
        models = find(invocation.settings)
    except (ZhibeiError, OSError):
        return []
    start = incomplete.casefold()
    return [CompletionItem(model.name) for model in models if model.problem is None and model.name.casefold().startswith(start)]
