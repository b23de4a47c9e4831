"""The Hugging Face cache: ``models--<owner>--<name>`` with ``refs/main``, ``snapshots/<commit>/<file>`` (links into ``blobs``,
or plain files where links cannot be made) and ``blobs/*.incomplete`` (huggingface.co/docs/hub/local-cache)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from zhibei.store.foreign.found import ForeignModel, spoken
from zhibei.store.foreign.looking import Listing, Look, read_small
from zhibei.store.foreign.packs import Pack, gguf_packs, tensors_pack, unfinished
from zhibei.store.foreign.places import ForeignPlaces

PROGRAM = "hf-cache"
_REPOSITORY = re.compile(r"models--(?P<id>[^/\\]+)")
_COMMIT = re.compile(r"[0-9a-f]{6,64}", re.ASCII)
_MAX_REF_BYTES = 256
_MAX_SNAPSHOTS = 16
_MAX_DEPTH = 2


def find(places: ForeignPlaces) -> Iterator[ForeignModel]:
    """``hf-cache/<owner>/<name>:<quantisation>`` for GGUF files, without one for a repository of safetensors."""
    for root in places.hf_cache:
        look = Look()
        for directory in look.listing(root).directories:
            match = _REPOSITORY.fullmatch(directory)
            if match is not None:
                yield from models_of_repository(look, root / directory, PROGRAM, match["id"].split("--", 1))


def models_of_repository(look: Look, repository: Path, program: str, identifier: list[str]) -> Iterator[ForeignModel]:
    """The models in a repository's snapshots; of a file that several snapshots have, the preferred one's."""
    packs: dict[tuple[str, ...], Pack] = {}
    for snapshot in _snapshots(look, repository):
        for listing in look.walk(snapshot, max_depth=_MAX_DEPTH):
            _add_packs(packs, listing, listing.path.relative_to(snapshot).parts, "/".join(identifier))
    if not packs and any(name.endswith(".incomplete") for name in look.listing(repository / "blobs").files):
        packs[()] = unfinished("")
    yield from named_packs(packs, program, identifier)


def named_packs(packs: dict[tuple[str, ...], Pack], program: str, identifier: list[str]) -> Iterator[ForeignModel]:
    """Models by quantisation where that tells them apart, else by file."""
    tags = [pack.tag for pack in packs.values()]
    for (where, pack), tag in zip(packs.items(), tags, strict=True):
        name = spoken(*identifier)
        if pack.stem:
            is_enough = tag is not None and tags.count(tag) == 1
            name = f"{name}:{tag if is_enough else spoken(*where).replace('/', '-').lower()}"
        yield pack.named(program, name, identifier[-1])


def _add_packs(packs: dict[tuple[str, ...], Pack], listing: Listing, where: tuple[str, ...], label: str) -> None:
    for pack in gguf_packs(listing):
        key = (*where, pack.stem)
        if key not in packs or (packs[key].problem and not pack.problem):
            packs[key] = pack
    tensors = tensors_pack(listing, label) if not where else None
    if tensors is not None and (() not in packs or (packs[()].problem and not tensors.problem)):
        packs[()] = tensors


def _snapshots(look: Look, repository: Path) -> list[Path]:
    """The snapshots: first the one that ``main`` is, then the newest."""
    root = repository / "snapshots"
    raw = read_small(repository / "refs" / "main", _MAX_REF_BYTES) or b""
    commit = raw.decode("ascii", "replace").strip()
    names = list(look.listing(root).directories)

    def rank(name: str) -> tuple[bool, float, str]:
        try:
            modified = (root / name).stat().st_mtime
        except OSError:
            modified = 0.0
        return (bool(_COMMIT.fullmatch(commit)) and name == commit, modified, name)

    return [root / name for name in sorted(names, key=rank, reverse=True)[:_MAX_SNAPSHOTS]]
