"""What the probes may look at: files, tools, libraries. Owns time limits and bounds; knows no hardware.

``LocalMachine`` looks at this machine; tests put another machine's recorded answers in its place.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

if sys.platform == "win32":
    import winreg

PATIENCE_S = 2.5
MAX_BYTES = 4 << 20

# Where a tool lies when it is not on the path. On Windows nothing else is tried: there the path begins where one stands.
_PLACES: dict[str, tuple[str, ...]] = {
    "nvidia-smi": ("/usr/lib/wsl/lib/nvidia-smi", "C:\\Windows\\System32\\nvidia-smi.exe"),
    "rocm-smi": ("/opt/rocm/bin/rocm-smi",),
    "amd-smi": ("/opt/rocm/bin/amd-smi",),
    "sysctl": ("/usr/sbin/sysctl",),
    "system_profiler": ("/usr/sbin/system_profiler",),
}

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Counts:
    """What the operating system counts for this process; None where it does not."""

    usable_threads: int | None = None
    physical_cores: int | None = None
    total_bytes: int | None = None
    available_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None


class Machine(Protocol):
    """A machine to look at. Nothing here raises: what cannot be found is None or empty."""

    @property
    def system(self) -> str:
        """``Linux``, ``Darwin`` or ``Windows``."""

    @property
    def release(self) -> str | None:
        """The operating system's version as it calls it itself; on Linux the kernel's."""

    def text(self, path: str) -> str | None:
        """The text of a file, 4 MiB of it at most."""

    def names(self, directory: str) -> tuple[str, ...]:
        """What lies in a directory, sorted."""

    def target(self, link: str) -> str | None:
        """The last part of what a symbolic link points to."""

    def output(self, *command: str) -> str | None:
        """What a tool prints; None if it is missing, fails, or takes longer than its time."""

    def library(self, *names: str) -> Any | None:
        """The first of the shared libraries that loads."""

    def registry(self, key: str) -> Mapping[str, object]:
        """The values of a key below HKEY_LOCAL_MACHINE."""

    def counts(self) -> Counts:
        """Threads, cores and memory of this moment."""

    def metal_bytes(self) -> int | None:
        """The memory that Metal recommends to use at most."""


class LocalMachine:
    """This machine."""

    @property
    def system(self) -> str:
        return platform.system()

    @property
    def release(self) -> str | None:
        return (platform.mac_ver()[0] if self.system == "Darwin" else platform.release()) or None

    def text(self, path: str) -> str | None:
        try:
            with Path(path).open("rb") as file:
                return file.read(MAX_BYTES).decode(errors="replace")
        except (OSError, ValueError):
            return None

    def names(self, directory: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(path.name for path in Path(directory).iterdir()))
        except OSError:
            return ()

    def target(self, link: str) -> str | None:
        try:
            return Path(link).readlink().name
        except OSError:
            return None

    def output(self, *command: str) -> str | None:
        program = find_tool(command[0], self.system)
        return None if program is None else run((program, *command[1:]))

    def library(self, *names: str) -> Any | None:
        for name in names:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
        return None

    def registry(self, key: str) -> Mapping[str, object]:
        if sys.platform == "win32":
            try:
                with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                    count = winreg.QueryInfoKey(opened)[1]
                    return {name: value for name, value, _ in (winreg.EnumValue(opened, index) for index in range(count))}
            except OSError:
                return {}
        return {}

    def counts(self) -> Counts:
        memory, swap = _counted(psutil.virtual_memory), None
        if self.system != "Linux":
            # The kernel's own file has it there, and psutil warns where that file is unusual.
            swap = _counted(psutil.swap_memory)
        return Counts(
            usable_threads=_counted(_usable_threads),
            physical_cores=_counted(lambda: psutil.cpu_count(logical=False)),
            total_bytes=None if memory is None else int(memory.total),
            available_bytes=None if memory is None else int(memory.available),
            swap_total_bytes=None if swap is None else int(swap.total),
            swap_free_bytes=None if swap is None else int(swap.free),
        )

    def metal_bytes(self) -> int | None:
        return None if self.system != "Darwin" else within(PATIENCE_S, _recommended_working_set)


def find_tool(name: str, system: str) -> str | None:
    """The absolute path of a tool that is installed."""
    found = None if system == "Windows" else shutil.which(name)
    if found is not None and Path(found).is_absolute():
        return found
    return next((place for place in _PLACES.get(name, ()) if Path(place).is_file()), None)


def run(command: Sequence[str], patience_s: float = PATIENCE_S) -> str | None:
    """What a command prints on stdout. It is ended when its time is over or it prints too much."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    assert process.stdout is not None
    stream = process.stdout

    def drain() -> bytes:
        # Who reads closes it, also when nobody waits for the answer any more.
        with stream:
            return stream.read(MAX_BYTES)

    printed = within(patience_s, drain)
    try:
        # Closing its output comes just before a program's end.
        status = process.wait(0 if printed is None or len(printed) == MAX_BYTES else 1)
    except subprocess.TimeoutExpired:
        process.kill()
        # What hangs in a driver may not die; then it is left to the system.
        within(1, process.wait)
        status = None
    return printed.decode(errors="replace") if printed is not None and status == 0 else None


def within(seconds: float, function: Callable[[], Answer]) -> Answer | None:
    """The answer of a call into foreign code; None if it fails, or hangs and is left alone."""
    answers: list[Answer] = []

    def ask() -> None:
        try:
            answers.append(function())
        except (OSError, AttributeError, ValueError, ctypes.ArgumentError):
            return

    thread = threading.Thread(target=ask, daemon=True, name="hardware probe")
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def _counted(count: Callable[[], Answer]) -> Answer | None:
    try:
        return count()
    except (OSError, RuntimeError, ValueError, psutil.Error):
        return None


def _usable_threads() -> int | None:
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count(logical=True)


def _recommended_working_set() -> int | None:
    """``MTLCreateSystemDefaultDevice().recommendedMaxWorkingSetSize``, through the Objective-C runtime."""
    metal = ctypes.CDLL("/System/Library/Frameworks/Metal.framework/Metal")
    runtime = ctypes.CDLL("/usr/lib/libobjc.A.dylib")
    metal.MTLCreateSystemDefaultDevice.restype = ctypes.c_void_p
    device = metal.MTLCreateSystemDefaultDevice()
    if not device:
        return None
    runtime.sel_registerName.restype = ctypes.c_void_p
    runtime.sel_registerName.argtypes = [ctypes.c_char_p]
    selector = runtime.sel_registerName(b"recommendedMaxWorkingSetSize")
    send = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(("objc_msgSend", runtime))
    return int(send(device, selector))
