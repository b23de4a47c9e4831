"""Which files of one directory are one model: GGUF files with their shards and projector, or safetensors with their tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zhibei.errors import ModelFileError
from zhibei.formats.gguf_facts import MAX_SHARDS
from zhibei.formats.gguf_shards import shard_names
from zhibei.refs import DEFAULT_TAG, ModelName
from zhibei.store.foreign.found import FOR_MLX, MISSING, TOO_SMALL, UNFINISHED, ForeignFile, ForeignModel
from zhibei.store.foreign.looking import Listing, file_at, read_object
from zhibei.store.naming import name_from_file

# Less is a pointer of Git LFS, or nothing.
_LEAST_BYTES = 256
_MAX_CONFIG_BYTES = 1024 * 1024
_PROJECTOR = re.compile(r"(?:^|[-._])mmproj(?:[-._]|$)", re.IGNORECASE)
_NO_MODEL = re.compile(r"imatrix|^ggml-vocab-|^incomplete-", re.IGNORECASE)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII | re.DOTALL)
_TENSORS = re.compile(r"(?P<stem>.+?)-(?P<part>\d{5})-of-(?P<count>\d{5})\.safetensors", re.ASCII)
_CONFIG_ENDINGS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_NO_CONFIG = re.compile(r"(?:readme|licen[cs]e|notice|requirements).*|.*\.index\.json\.lock|training_args.*", re.IGNORECASE)
_MLX = re.compile(r"(?:^|[-_./\\])mlx(?:[-_./\\]|$)", re.IGNORECASE)
_SAYS_NOTHING = re.compile(r"(?:ggml-)?model(?:$|[-._])", re.IGNORECASE)
_PRECISIONS = ("f16", "bf16", "f32", "q8_0")


@dataclass(frozen=True, slots=True)
class Pack:
    """Files that are one model. ``stem`` is the name of the first without ending and number; empty for a directory."""

    stem: str
    files: tuple[ForeignFile, ...]
    problem: str | None = None

    @property
    def tag(self) -> str | None:
        """The quantisation in its name, in lower case; None: there is none."""
        name = name_from_file(f"{self.stem}.gguf") if self.stem else None
        return name.tag if name is not None and name.tag != DEFAULT_TAG else None

    def suggested(self, label: str) -> ModelName | None:
        """What the model could be called: as its file is, or where that says nothing as ``label``, its owner's name for it."""
        if self.stem and not _SAYS_NOTHING.match(self.stem):
            return name_from_file(f"{self.stem}.gguf")
        stem = re.sub(r"[-_.]gguf$", "", label, flags=re.IGNORECASE)
        return name_from_file(f"{stem}.{self.tag}.gguf" if self.tag else f"{stem}.gguf")

    def named(self, program: str, name: str, label: str) -> ForeignModel:
        """The model of a program, with its name there after ``program/``."""
        suggested = self.suggested(label)
        quantisation = suggested.tag.upper() if suggested is not None and suggested.tag != DEFAULT_TAG else None
        return ForeignModel(f"{program}/{name}", program, self.files, self.problem, suggested, quantisation)


def gguf_packs(listing: Listing) -> tuple[Pack, ...]:
    """The models in GGUF files in a directory. A projector that lies there belongs to each of them."""
    names = [name for name in listing.files if name.lower().endswith(".gguf") and not name.startswith(".")]
    if not names:
        return ()
    projectors = {name for name in names if _PROJECTOR.search(name[: -len(".gguf")])}
    projector = _projector(listing.path, projectors)
    packs: dict[str, Pack] = {}
    for stem, group in _grouped(name for name in names if name not in projectors and not _NO_MODEL.search(name)).items():
        pack = _gguf_pack(listing.path, stem, group)
        if pack is not None:
            packs[stem] = pack
    if projector is None:
        return tuple(packs.values())
    return tuple(replace(pack, files=(*pack.files, projector)) if pack.files else pack for pack in packs.values())


def tensors_pack(listing: Listing, label: str) -> Pack | None:
    """The model in safetensors files that the directory is; None if it is none. ``label`` is what its owner calls it."""
    if "config.json" not in listing.files:
        return None
    names = [name for name in listing.files if name.endswith(".safetensors") and not name.startswith((".", "adapter_"))]
    if any(name.startswith("model") for name in names):
        # The same weights a second time, for other programs.
        names = [name for name in names if not name.startswith("consolidated")]
    index = read_object(listing.path / "model.safetensors.index.json") if "model.safetensors.index.json" in listing.files else {}
    wanted = _indexed(index)
    if not names and not wanted:
        return None
    weights = [file_at(listing.path / name, "weights") for name in sorted(names)]
    configs = [file_at(listing.path / name, "config") for name in listing.files if _is_config(name)]
    files = tuple(file for file in (*weights, *configs) if file is not None)
    problem = None
    if None in weights or not wanted <= set(names) or not _are_all_numbers_there(names):
        problem = MISSING
    elif any(file.size_bytes < _LEAST_BYTES for file in weights if file is not None):
        problem = TOO_SMALL
    elif _is_mlx(listing.path, label):
        problem = FOR_MLX
    return Pack("", files, problem)


def explicit_pack(path: Path, projector: Path | None = None) -> Pack:
    """The model of a GGUF file that something names, with the projector that it names."""
    try:
        names = shard_names(path.name)
    except ModelFileError:
        names = ()
    pack = _gguf_pack(path.parent, _stem(path.name), names) or Pack(_stem(path.name), (), MISSING)
    if projector is None or not pack.files:
        return pack
    found = file_at(projector, "projector")
    return replace(pack, files=(*pack.files, found)) if found is not None else replace(pack, problem=pack.problem or MISSING)


def unfinished(stem: str) -> Pack:
    """A model of which only a part has come."""
    return Pack(stem, (), UNFINISHED)


def _gguf_pack(directory: Path, stem: str, names: Sequence[str]) -> Pack | None:
    """The model of a file, or of several of one set; None if there is nothing that could be one."""
    match = _SHARD.fullmatch(names[0]) if names else None
    count = int(match["count"]) if match is not None else 1
    if not 1 <= count <= MAX_SHARDS:
        return None
    role = "shard" if count > 1 else "model"
    found = [file_at(directory / name, role) for name in names]
    files = tuple(file for file in found if file is not None)
    if not files:
        return Pack(stem, (), MISSING) if any(_is_dangling(directory / name) for name in names) else None
    if len(files) < count:
        return Pack(stem, files, MISSING)
    return Pack(stem, files, TOO_SMALL if files[0].size_bytes < _LEAST_BYTES else None)


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by what they have in common. Files that are numbered but cannot be of one set are passed over."""
    groups: dict[str, list[str]] = {}
    totals: dict[str, str] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match is None:
            groups[_stem(name)] = [name]
            totals[_stem(name)] = ""
        elif (
            1 <= int(match["part"]) <= int(match["count"]) and totals.setdefault(match["stem"], match["count"]) == match["count"]
        ):
            groups.setdefault(match["stem"], []).append(name)
    return groups


def _stem(name: str) -> str:
    match = _SHARD.fullmatch(name)
    return match["stem"] if match is not None else name[: -len(".gguf")] if name.lower().endswith(".gguf") else name


def _is_dangling(path: Path) -> bool:
    try:
        return path.is_symlink() and not path.exists()
    except (OSError, ValueError):
        return False


def _projector(directory: Path, names: Iterable[str]) -> ForeignFile | None:
    """The one to use of several: the one whose precision is most widely supported."""

    def rank(name: str) -> tuple[int, str]:
        tag = name_from_file(name)
        return (_PRECISIONS.index(tag.tag) if tag is not None and tag.tag in _PRECISIONS else len(_PRECISIONS), name)

    found = (file_at(directory / name, "projector") for name in sorted(names, key=rank))
    return next((file for file in found if file is not None), None)


def _indexed(index: dict[str, object]) -> set[str]:
    places = index.get("weight_map")
    return set(map(str, places.values())) if isinstance(places, dict) else set()


def _are_all_numbers_there(names: Sequence[str]) -> bool:
    """Whether of files that say how many they are none is missing."""
    parts: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if match := _TENSORS.fullmatch(name):
            parts.setdefault((match["stem"], int(match["count"])), set()).add(int(match["part"]))
    return all(len(found) == count for (_, count), found in parts.items())


def _is_config(name: str) -> bool:
    return name.endswith(_CONFIG_ENDINGS) and not name.startswith(".") and not _NO_CONFIG.fullmatch(name)


def _is_mlx(directory: Path, label: str) -> bool:
    """Whether the weights are laid out for MLX: its quantiser says so, or the name does."""
    described = read_object(directory / "config.json", _MAX_CONFIG_BYTES).get("quantization")
    return (isinstance(described, dict) and "group_size" in described) or bool(_MLX.search(label))
