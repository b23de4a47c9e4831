"""What was found of another program: values, and the names they go by. No I/O."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zhibei.i18n import N_
from zhibei.models import WEIGHT_ROLES
from zhibei.refs import ModelName

MISSING = N_("one of its files is missing")
UNFINISHED = N_("it was not downloaded to the end")
TOO_SMALL = N_("its file is too small to be a model")
DAMAGED = N_("its description is damaged")
UNREADABLE = N_("one of its files cannot be read")
FOR_MLX = N_("it is made for Apple's MLX")
FOR_OLLAMA = N_("it is in a form that only Ollama can load")
ELSEWHERE = N_("it runs on a server, and has no weights here")
IN_PIECES = N_("its weights are in several files, which only the program they were made for can use")

_MAX_PART = 100


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """One file. ``role`` is one of ``zhibei.models.ROLES``; ``identity`` is the same for two paths of one file.

    ``name`` is what it is called within the model; None: as its path is.
    """

    role: str
    path: Path
    size_bytes: int
    identity: tuple[int, int]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """A model that another program keeps. ``name`` is ``program/…``, distinct without regard to case.

    ``files`` has the weights first. ``problem`` says in English why the model cannot be used here. ``suggested`` is what it
    could be called in the store, and ``quantisation`` what the name of its file says. ``other_names``: the same files again.
    """

    name: str
    program: str
    files: tuple[ForeignFile, ...] = ()
    problem: str | None = None
    suggested: ModelName | None = None
    quantisation: str | None = None
    other_names: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of its files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def model_path(self) -> Path | None:
        """The first file of its weights; None if nothing of them is here."""
        return next((file.path for file in self.files if file.role in WEIGHT_ROLES), None)


def spoken(*parts: str) -> str:
    """A name from parts that come from outside: printable, without spaces, each part bounded."""
    cleaned = (re.sub(r"[^\w.+@-]+", "-", unicodedata.normalize("NFC", part))[:_MAX_PART].strip("-") for part in parts)
    return "/".join(part or "-" for part in cleaned)


def merged(models: Iterable[ForeignModel]) -> tuple[ForeignModel, ...]:
    """The models with distinct names, sorted by them; those that share all files are one, under the first one's name."""
    kept: dict[object, ForeignModel] = {}
    for model in models:
        # Of a broken one the files say too little.
        key: object = frozenset(file.identity for file in model.files) if model.problem is None else model.name
        first = kept.get(key)
        if first is None:
            kept[key] = model
        elif model.name.casefold() not in map(str.casefold, (first.name, *first.other_names)):
            kept[key] = replace(first, other_names=(*first.other_names, model.name))
    return _distinct(sorted(kept.values(), key=lambda model: (model.name.casefold(), model.problem is not None)))


def find_named(models: Sequence[ForeignModel], name: str) -> ForeignModel | None:
    """The model of a name, or of another name of it; None if there is none."""
    wanted = name.strip().casefold()
    for model in models:
        if model.name.casefold() == wanted:
            return model
    for model in models:
        if wanted in map(str.casefold, model.other_names):
            return model
    return None


def _distinct(models: Sequence[ForeignModel]) -> tuple[ForeignModel, ...]:
    taken = {model.name.casefold() for model in models}
    used: set[str] = set()
    found = []
    for model in models:
        name, number = model.name, 1
        while name.casefold() in used or (number > 1 and name.casefold() in taken):
            number += 1
            name = f"{model.name}-{number}"
        used.add(name.casefold())
        found.append(replace(model, name=name) if name != model.name else model)
    return tuple(found)
