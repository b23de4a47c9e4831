"""Plain folders that the person names, and what every program's folders share: models below a directory.

What koboldcpp, text-generation-webui and llama.cpp are pointed at is such a folder; they have no fixed place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zhibei.store.foreign.found import ForeignModel, spoken
from zhibei.store.foreign.looking import MAX_DEPTH, Listing, Look
from zhibei.store.foreign.packs import gguf_packs, tensors_pack
from zhibei.store.foreign.places import ForeignPlaces

PROGRAM = "folder"


def find(places: ForeignPlaces) -> Iterator[ForeignModel]:
    """``folder/<its name>/<below>/<file>``, without ``.gguf``; a directory of safetensors goes by its own name."""
    for folder in places.folders:
        for listing in Look().walk(folder):
            below = listing.path.relative_to(folder).parts
            yield from models_in(listing, PROGRAM, (folder.name, *below))


def models_below(
    root: Path, program: str, *, max_depth: int = MAX_DEPTH, skip: frozenset[str] = frozenset()
) -> Iterator[ForeignModel]:
    """Every model below a directory, as ``program/<directories>/<file>``; directories named in ``skip`` are passed over."""
    for listing in Look().walk(root, max_depth=max_depth):
        below = listing.path.relative_to(root).parts
        if skip.isdisjoint(below):
            yield from models_in(listing, program, below)


def models_in(listing: Listing, program: str, where: tuple[str, ...]) -> Iterator[ForeignModel]:
    """The models in one directory, which ``where`` names."""
    label = where[-1] if where else program
    for pack in gguf_packs(listing):
        yield pack.named(program, spoken(*where, pack.stem), label)
    tensors = tensors_pack(listing, "/".join(where[-2:]))
    if tensors is not None:
        yield tensors.named(program, spoken(*(where or (listing.path.name,))), label)
