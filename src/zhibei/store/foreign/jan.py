"""Jan's models: ``<data folder>/llamacpp/models/<id>/model.yml``, whose ``model_path`` and ``mmproj_path`` are relative to the
data folder or absolute (github.com/janhq/jan, extensions/llamacpp-extension/src/index.ts).

Earlier versions kept GGUF files below ``<data folder>/models``, and the data folder in ``~/jan``. ``settings.json`` beside the
data folder may name another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from zhibei.store.foreign.folder import models_below
from zhibei.store.foreign.found import DAMAGED, ForeignModel, spoken
from zhibei.store.foreign.looking import Look, directory_from, read_object, read_small
from zhibei.store.foreign.packs import explicit_pack
from zhibei.store.foreign.places import ForeignPlaces

PROGRAM = "jan"
_MAX_YAML_BYTES = 64 * 1024
_MAX_DEPTH = 5
_KEY = re.compile(r"[a-z_]+", re.ASCII)
_NOT_PLAIN = "'\"&*!|>%@`#[{?,-"


def find(places: ForeignPlaces) -> Iterator[ForeignModel]:
    """``jan/<id>``; what earlier versions left is ``jan/<directories>/<file>``."""
    for data in _data_folders(places):
        models = data / "llamacpp" / "models"
        for listing in Look().walk(models, max_depth=_MAX_DEPTH):
            if "model.yml" in listing.files and listing.path != models:
                yield _described(data, listing.path, listing.path.relative_to(models).parts)
        yield from models_below(data / "models", PROGRAM, max_depth=_MAX_DEPTH)


def _data_folders(places: ForeignPlaces) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    for data in places.jan:
        chosen = directory_from(read_object(data.parent / "settings.json").get("data_folder")) if data.name == "data" else None
        if chosen is not None:
            found[chosen] = None
        found[data] = None
    return tuple(found)


def _described(data: Path, directory: Path, identifier: tuple[str, ...]) -> ForeignModel:
    """The model that a model.yml describes."""
    values = simple_values(read_small(directory / "model.yml", _MAX_YAML_BYTES) or b"")
    model, projector = values.get("model_path"), values.get("mmproj_path")
    name = spoken(*identifier)
    if not model:
        return ForeignModel(f"{PROGRAM}/{name}", PROGRAM, problem=DAMAGED)
    return explicit_pack(data / model, data / projector if projector else None).named(PROGRAM, name, identifier[-1])


def simple_values(raw: bytes) -> dict[str, str]:
    """``key: value`` lines at the left edge of a YAML file, plain or in quotes; everything else is passed over.

    A key that comes twice, or a value that goes on in the next line, is left out: it may mean something else.
    """
    try:
        lines = raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return {}
    found: dict[str, str] = {}
    refused: set[str] = set()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        key, colon, rest = line.partition(":")
        if not colon or not _KEY.fullmatch(key):
            continue
        value = _scalar(rest)
        if value is None or key in found or (following.startswith((" ", "\t")) and following.strip()):
            refused.add(key)
        found[key] = value or ""
    return {key: value for key, value in found.items() if key not in refused and value.isprintable()}


def _scalar(rest: str) -> str | None:
    """What follows a colon, if it is a plain or quoted text without anything special in it."""
    text = rest.strip()
    if not rest.startswith((" ", "\t")) or not text:
        return None
    inner, is_closed = text[1:-1], len(text) > 1 and text[-1] == text[0]
    if text[0] == '"':
        return inner if is_closed and '"' not in inner and "\\" not in inner else None
    if text[0] == "'":
        parts = inner.split("''")
        return "'".join(parts) if is_closed and not any("'" in part for part in parts) else None
    return None if text[0] in _NOT_PLAIN or ": " in text else text.partition(" #")[0].rstrip()
