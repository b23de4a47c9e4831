"""Processor and memory, through psutil and the kernel's own files. A container's limits count as the machine's size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import psutil

from zhibei.hardware import cgroups

_FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimddp", "i8mm", "sve")


def cpu_name(cpuinfo: str | None) -> str | None:
    """The model name in the text of ``/proc/cpuinfo``."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo or "", re.MULTILINE)
    return match[1].strip() if match else None


def cpu_features(cpuinfo: str | None) -> tuple[str, ...]:
    """The instruction sets that matter to inference, of those in the text of ``/proc/cpuinfo``."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo or "", re.MULTILINE)
    found = set(match[1].split()) if match else set()
    return tuple(name for name in _FEATURES if name in found)


def read_cpuinfo() -> str | None:
    """The text of ``/proc/cpuinfo``; None where there is none."""
    return cgroups.read(Path("/proc/cpuinfo"))


def physical_cores(limit: int | None = None) -> int | None:
    """Cores this process may use, hyper-threads not counted. ``limit``: cores' worth of time that it gets."""
    return _least(psutil.cpu_count(logical=False), logical_cores(limit))


def logical_cores(limit: int | None = None) -> int | None:
    """Hardware threads this process may use. ``limit``: cores' worth of time that it gets."""
    process = psutil.Process()
    usable = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count(logical=True)
    return _least(usable, limit)


def _least(*counts: int | None) -> int | None:
    return min((count for count in counts if count), default=None)


def memory(limits: Sequence[cgroups.MemoryLimit]) -> tuple[int, int]:
    """(total, available) bytes of memory, a container's limits respected."""
    system = psutil.virtual_memory()
    total, available = int(system.total), int(system.available)
    for limit in limits:
        # Version 1 writes "no limit" as a number beyond any machine's memory.
        if limit.limit_bytes < system.total:
            total = min(total, limit.limit_bytes)
            available = min(available, max(0, limit.limit_bytes - (limit.used_bytes or 0)))
    return total, available
