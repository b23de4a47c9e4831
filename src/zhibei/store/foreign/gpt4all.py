"""GPT4All's models: ``*.gguf`` in one directory, ``nomic.ai/GPT4All`` among the application's data.

The Python bindings use ``~/.cache/gpt4all`` (docs.gpt4all.io/gpt4all_python); downloads under way begin with ``incomplete-``.
"""

from __future__ import annotations

from collections.abc import Iterator

from zhibei.store.foreign.folder import models_below
from zhibei.store.foreign.found import ForeignModel, spoken
from zhibei.store.foreign.looking import Look
from zhibei.store.foreign.packs import unfinished
from zhibei.store.foreign.places import ForeignPlaces

PROGRAM = "gpt4all"
_UNDER_WAY = "incomplete-"


def find(places: ForeignPlaces) -> Iterator[ForeignModel]:
    """``gpt4all/<file>``, without ``.gguf``."""
    for root in places.gpt4all:
        yield from models_below(root, PROGRAM, max_depth=0)
        for name in Look().listing(root).files:
            if name.startswith(_UNDER_WAY) and name.endswith(".gguf"):
                stem = name[len(_UNDER_WAY) : -len(".gguf")]
                yield unfinished(stem).named(PROGRAM, spoken(stem), stem)
