"""LM Studio's models: ``<home>/models/<owner>/<name>/<file>.gguf`` (lmstudio.ai/docs/basics/import-model).

Its home is ``~/.lmstudio``, earlier ``~/.cache/lm-studio``, or what ``~/.lmstudio-home-pointer`` names (the ``lms`` client
reads it); ``downloadsFolder`` in a ``settings.json`` names another folder for models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zhibei.store.foreign.folder import models_below
from zhibei.store.foreign.found import ForeignModel
from zhibei.store.foreign.looking import directory_from, read_object, read_small
from zhibei.store.foreign.places import ForeignPlaces

PROGRAM = "lm-studio"
_MAX_POINTER_BYTES = 8192
_MAX_DEPTH = 4


def find(places: ForeignPlaces) -> Iterator[ForeignModel]:
    """``lm-studio/<owner>/<name>/<file>``, without ``.gguf``; a directory of safetensors is ``lm-studio/<owner>/<name>``."""
    for root in _roots(places):
        yield from models_below(root, PROGRAM, max_depth=_MAX_DEPTH)


def _roots(places: ForeignPlaces) -> tuple[Path, ...]:
    """The folders for models, each once."""
    pointed = _pointed(places.lm_studio_pointer)
    homes = (*((pointed,) if pointed is not None else ()), *places.lm_studio)
    found: dict[Path, None] = {}
    for home in homes:
        chosen = directory_from(read_object(home / "settings.json").get("downloadsFolder"))
        if chosen is not None:
            found[chosen] = None
        found[home / "models"] = None
    return tuple(found)


def _pointed(pointer: Path | None) -> Path | None:
    raw = read_small(pointer, _MAX_POINTER_BYTES) if pointer is not None else None
    try:
        lines = raw.decode("utf-8-sig").strip().splitlines() if raw else []
    except UnicodeDecodeError:
        return None
    return directory_from(lines[0].strip()) if lines else None
