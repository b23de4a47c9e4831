"""What the GGUF files of a repository are, by their names: forms of the model, projectors, drafts, things that are no model.

Pure. Knows how publishers name files; knows no hub.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from zhibei.errors import ModelFileError
from zhibei.formats.gguf import shard_names
from zhibei.store.sources.base import Variant

_QUANT = re.compile(
    r"(?:^|[-._ ])(?:i1-)?((?:ud-)?(?:i?q\d(?:_[a-z0-9]+)*|tq\d_\d(?:_[a-z0-9]+)*|mxfp4(?:_moe)?|nvfp4|bf16|f16|f32|fp16|fp32))"
    r"(?:[-._]imat(?:rix)?)?$",
    re.ASCII | re.IGNORECASE,
)
_SHARD_ENDING = re.compile(r"-\d{5}-of-\d{5}$", re.ASCII)
_PROJECTOR = re.compile(r"mmproj", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"(?:^|[-._])(?:vocab|c-?vector|control[-_]?vector)(?:[-._]|$)|^imatrix|(?:^|[-._])imatrix(?:[-._]unsloth)?$", re.IGNORECASE
)
_DRAFT = re.compile(r"(?:^|[-._])(?:draft|mtp|eagle\d?|dflash|speculator)(?:[-._]|$)", re.IGNORECASE)
_ADAPTER = re.compile(r"(?:^|[-._])(?:lora|adapter)(?:[-._]|$)", re.IGNORECASE)
_PROJECTOR_ORDER = ("F16", "FP16", "BF16", "F32", "FP32", "Q8_0")


@dataclass(frozen=True, slots=True)
class GgufSet:
    """One GGUF model of a repository: its file, or all its shards in order. ``quant`` None: the name does not say.

    ``base`` is what the name has beside the quantisation, in lower case, with the directory.
    """

    label: str
    names: tuple[str, ...]
    size_bytes: int | None
    quant: str | None
    base: str

    @property
    def variant(self) -> Variant:
        """For choosing and showing."""
        return Variant(self.label, self.size_bytes, len(self.names))

    @property
    def stem(self) -> str:
        """The file's name without directory, shard number and ending."""
        return _stem(self.names[0])


@dataclass(frozen=True, slots=True)
class GgufFiles:
    """The GGUF files of a repository, by what they are. ``incomplete``: labels of sets that lack a shard."""

    variants: tuple[GgufSet, ...] = ()
    projectors: tuple[GgufSet, ...] = ()
    drafts: tuple[GgufSet, ...] = ()
    others: tuple[GgufSet, ...] = ()
    incomplete: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[GgufSet, ...]:
        """Each of them."""
        return self.variants + self.projectors + self.drafts + self.others


def sort_files(sizes: Mapping[str, int | None]) -> GgufFiles:
    """Group the GGUF files among names of a repository, given with their sizes in bytes."""
    sets, incomplete = _sets(sizes)
    projectors = tuple(found for found in sets if _PROJECTOR.search(found.stem))
    left = [found for found in sets if found not in projectors]
    others = [found for found in left if _NO_MODEL.search(found.stem) and not _is_made_with_matrix(found)]
    left = [found for found in left if found not in others]
    adapters, left = _apart(left, _ADAPTER)
    drafts, left = _apart(left, _DRAFT)
    variants = _labelled(left)
    return GgufFiles(variants, projectors, tuple(drafts), (*others, *adapters), incomplete)


def find_variant(variants: Iterable[GgufSet], text: str) -> GgufSet | None:
    """The variant of a label, whatever the case; ``Q4_K_XL`` finds ``UD-Q4_K_XL`` where that is the only one of the kind."""
    wanted = text.casefold().removeprefix("i1-")
    known = tuple(variants)
    for found in known:
        if found.label.casefold() == wanted:
            return found
    nearly = [found for found in known if found.label.casefold() == f"ud-{wanted}"]
    return nearly[0] if len(nearly) == 1 else None


def find_file(files: GgufFiles, name: str) -> GgufSet | None:
    """The set that a file belongs to: by its path, or by its bare name where that is the only one."""
    by_path = [found for found in files.all if name in found.names]
    by_name = [found for found in files.all if any(path.rpartition("/")[2] == name for path in found.names)]
    if by_path:
        return by_path[0]
    return by_name[0] if len(by_name) == 1 else None


def projector_for(chosen: GgufSet, projectors: Iterable[GgufSet]) -> GgufSet | None:
    """The projector that goes with a variant: of the same model, f16 before the rest."""

    def rank(projector: GgufSet) -> tuple[bool, bool, int, str]:
        rest = re.sub(r"mmproj|model|vision", "", _words(projector.base), flags=re.IGNORECASE).strip("-")
        base = _words(chosen.base)
        is_of_it = not rest or rest in base or base in rest
        is_near = _directory(projector.names[0]) == _directory(chosen.names[0])
        kind = (projector.quant or "").upper()
        order = _PROJECTOR_ORDER.index(kind) if kind in _PROJECTOR_ORDER else len(_PROJECTOR_ORDER)
        return not is_of_it, not is_near, order, projector.names[0]

    return min(projectors, key=rank, default=None)


def _sets(sizes: Mapping[str, int | None]) -> tuple[list[GgufSet], tuple[str, ...]]:
    """Files and whole sets of shards in the order of their names, and the names of sets that lack some."""
    sets: list[GgufSet] = []
    incomplete: list[str] = []
    seen: set[str] = set()
    for name in sorted(sizes):
        if not name.lower().endswith(".gguf") or name in seen:
            continue
        directory = _directory(name)
        try:
            names = tuple(f"{directory}{part}" for part in shard_names(name.rpartition("/")[2]))
        except ModelFileError:
            continue
        seen.update(names)
        quant, base = _describe(name)
        if not all(part in sizes for part in names):
            incomplete.append(quant or _stem(name))
            continue
        all_sizes = [sizes[part] for part in names]
        total = None if None in all_sizes else sum(size or 0 for size in all_sizes)
        sets.append(GgufSet(quant or _stem(name), names, total, quant, base))
    return sets, tuple(dict.fromkeys(incomplete))


def _is_made_with_matrix(found: GgufSet) -> bool:
    """``name-Q4_K_M-imatrix`` is a model; ``imatrix`` and ``name.imatrix`` are what it was made with."""
    return found.quant is not None and found.stem.lower().endswith("imatrix")


def _apart(sets: list[GgufSet], pattern: re.Pattern[str]) -> tuple[list[GgufSet], list[GgufSet]]:
    """``(those of the pattern, the rest)``; where every one is, the word belongs to the model's own name."""
    found = [item for item in sets if pattern.search(item.stem)]
    if len(found) == len(sets):
        return [], sets
    return found, [item for item in sets if item not in found]


def _labelled(sets: list[GgufSet]) -> tuple[GgufSet, ...]:
    """The variants with labels that differ: of several models in one repository, the most frequent keeps the short ones."""
    counts = Counter(found.base for found in sets)
    order = sorted(counts, key=lambda base: (-counts[base], len(base), base))
    labelled: list[GgufSet] = []
    taken: set[str] = set()
    for found in sorted(sets, key=lambda item: order.index(item.base)):
        label = found.label
        for longer in (found.stem, found.names[0]):
            if label.casefold() in taken:
                label = longer
        taken.add(label.casefold())
        labelled.append(GgufSet(label, found.names, found.size_bytes, found.quant, found.base))
    return tuple(sorted(labelled, key=lambda item: (item.size_bytes or 0, item.label)))


def _describe(name: str) -> tuple[str | None, str]:
    """``(quantisation as it is written elsewhere, the rest of the name)``; a directory may be named for it too."""
    stem = _stem(name)
    match = _QUANT.search(stem)
    quant, rest = (match[1], stem[: match.start()]) if match else (None, stem)
    directories = []
    for part in _directory(name).split("/")[:-1]:
        alone = _QUANT.search(part)
        if alone and quant is None:
            quant = alone[1]
        elif not alone:
            directories.append(part)
    return _written(quant), "/".join([*directories, rest]).lower()


def _written(quant: str | None) -> str | None:
    """``q4_k_m`` → ``Q4_K_M``."""
    return None if quant is None else quant.upper()


def _stem(name: str) -> str:
    return _SHARD_ENDING.sub("", re.sub(r"\.gguf$", "", name.rpartition("/")[2], flags=re.IGNORECASE))


def _directory(name: str) -> str:
    head, slash, _ = name.rpartition("/")
    return head + slash


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
