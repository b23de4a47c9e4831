"""ModelScope's cache, in the layouts of its client's versions (the ``modelscope`` and ``modelscope_hub`` packages,
``modelscope/hub/utils/utils.py`` and ``modelscope_hub/_download.py``):

``models/<owner>--<name>/snapshots/<revision>/…`` now; earlier ``[hub/]models/<owner>/<name>/…`` and ``[hub/]<owner>/<name>/…``,
where ``___`` in a name stands for a dot. Downloads under way lie in ``._____temp`` or end with ``.incomplete``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zhibei.store.foreign.found import ForeignModel
from zhibei.store.foreign.hf_cache import models_of_repository, named_packs
from zhibei.store.foreign.looking import Look, is_directory
from zhibei.store.foreign.packs import Pack, gguf_packs, tensors_pack, unfinished
from zhibei.store.foreign.places import ForeignPlaces

PROGRAM = "modelscope"
_NO_OWNERS = frozenset(("models", "datasets", "hub", "ast_indexer", "credentials", "temp", "lock", "locks", "studios"))
_MAX_DEPTH = 2


def find(places: ForeignPlaces) -> Iterator[ForeignModel]:
    """``modelscope/<owner>/<name>:<quantisation>`` for GGUF files, without one for safetensors."""
    for root in places.modelscope:
        for below in (root / "models", root / "hub" / "models", root / "hub", root):
            yield from _models_of_owners(Look(), below)


def _models_of_owners(look: Look, root: Path) -> Iterator[ForeignModel]:
    for directory in look.listing(root).directories:
        if directory in _NO_OWNERS or directory.startswith("."):
            continue
        if "--" in directory and is_directory(root / directory / "snapshots"):
            yield from models_of_repository(look, root / directory, PROGRAM, directory.split("--", 1))
            continue
        for name in look.listing(root / directory).directories:
            if not name.startswith("."):
                yield from _flat(look, root / directory / name, [directory, name.replace("___", ".")])


def _flat(look: Look, repository: Path, identifier: list[str]) -> Iterator[ForeignModel]:
    """The models of a repository whose files lie in it as they are."""
    packs: dict[tuple[str, ...], Pack] = {}
    is_under_way = False
    for listing in look.walk(repository, max_depth=_MAX_DEPTH):
        where = listing.path.relative_to(repository).parts
        packs.update({(*where, pack.stem): pack for pack in gguf_packs(listing)})
        tensors = tensors_pack(listing, "/".join(identifier)) if not where else None
        if tensors is not None:
            packs[()] = tensors
        is_under_way |= any(name.endswith(".incomplete") for name in listing.files)
    if not packs and is_under_way:
        packs[()] = unfinished("")
    yield from named_packs(packs, PROGRAM, identifier)
