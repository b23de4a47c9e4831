"""Models that other programs keep on this disk: found, and described so that they can be used where they lie.

Reads only: no file or directory of theirs is ever made, changed or removed. One file per program; the table below has them
in order, so that of files that two programs share the first one's name is shown. Looks at names and sizes, not into weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from zhibei.store.foreign import folder, gpt4all, hf_cache, jan, lm_studio, modelscope, ollama
from zhibei.store.foreign.found import ForeignFile, ForeignModel, find_named, merged
from zhibei.store.foreign.ollama import defaults_of
from zhibei.store.foreign.places import ForeignPlaces, foreign_places
from zhibei.store.foreign.using import remote_of

__all__ = [
    "PROGRAMS",
    "ForeignFile",
    "ForeignModel",
    "ForeignPlaces",
    "defaults_of",
    "find_foreign",
    "find_named",
    "foreign_places",
    "remote_of",
]

MAX_MODELS = 10_000
"""Of one program; what goes beyond is not shown."""

PROGRAMS: dict[str, Callable[[ForeignPlaces], Iterator[ForeignModel]]] = {
    ollama.PROGRAM: ollama.find,
    lm_studio.PROGRAM: lm_studio.find,
    hf_cache.PROGRAM: hf_cache.find,
    modelscope.PROGRAM: modelscope.find,
    jan.PROGRAM: jan.find,
    gpt4all.PROGRAM: gpt4all.find,
    folder.PROGRAM: folder.find,
}


def find_foreign(places: ForeignPlaces) -> tuple[ForeignModel, ...]:
    """All models in the places, sorted by name; those that cannot be used here have ``problem`` set.

    Never fails: what cannot be read, or is no model, is passed over.
    """
    return merged(model for find in PROGRAMS.values() for model in islice(find(places), MAX_MODELS))
