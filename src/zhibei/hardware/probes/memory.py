"""Memory and swap of this moment, a container's limits respected, and what kind of memory it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zhibei.hardware import cgroups
from zhibei.hardware.machine import Counts, Machine
from zhibei.hardware.quantities import whole

_UDEV = "/run/udev/data/+dmi:id"
_EDAC = "/sys/devices/system/edac/mc"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. ``limit_bytes``: the control group's limit, where it is the smaller."""

    total_bytes: int | None
    available_bytes: int | None
    limit_bytes: int | None
    swap_total_bytes: int | None
    swap_free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Modules:
    """The memory modules, where the system tells a program without special rights."""

    kind: str | None = None
    transfers_per_s: int | None = None
    count: int | None = None


def probe(machine: Machine, counts: Counts, total_bytes: int | None = None) -> Memory:
    """The memory of this moment. ``total_bytes``: what another probe says, where the system does not."""
    text = machine.text("/proc/meminfo") if machine.system == "Linux" else None
    total, available = _kibibytes(text, "MemTotal"), _kibibytes(text, "MemAvailable")
    swap_total, swap_free = _kibibytes(text, "SwapTotal"), _kibibytes(text, "SwapFree")
    if total is None or available is None:
        total, available = total or counts.total_bytes or total_bytes, counts.available_bytes
        swap_total, swap_free = counts.swap_total_bytes, counts.swap_free_bytes
    elif available > total:
        # In some containers the one number is the container's and the other the machine's.
        available = _kibibytes(text, "MemFree")
    if swap_total is not None and swap_free is not None and swap_free > swap_total:
        swap_free = None
    limits = cgroups.memory_limits(read=lambda path: machine.text(path.as_posix())) if machine.system == "Linux" else []
    return limited(Memory(total, available, None, swap_total, swap_free), limits)


def limited(memory: Memory, limits: Sequence[cgroups.MemoryLimit]) -> Memory:
    """What remains of a machine's memory under its limits."""
    total, available, smallest = memory.total_bytes, memory.available_bytes, None
    if total is None:
        return memory
    for limit in limits:
        # Version 1 writes "no limit" as a number beyond any machine's memory.
        if limit.limit_bytes < (memory.total_bytes or 0):
            total = smallest = min(total, limit.limit_bytes)
            free = max(0, limit.limit_bytes - (limit.used_bytes or 0))
            if available is not None:
                available = min(available, free)
            elif limit.used_bytes is not None:
                available = free
    return Memory(total, available, smallest, memory.swap_total_bytes, memory.swap_free_bytes)


def modules(machine: Machine) -> Modules:
    """From udev's notes of the firmware's table, which only root may read; else the kind from the error counters."""
    text = machine.text(_UDEV) if machine.system == "Linux" else None
    noted = dict(re.findall(r"^E:MEMORY_DEVICE_(\d{1,2}_[A-Z_]+)=([^\n]*)$", text or "", re.MULTILINE))
    kinds, speeds = [], []
    for number in range(100):
        if noted.get(f"{number}_PRESENT") != "0" and f"{number}_SIZE" in noted:
            kinds.append(noted.get(f"{number}_TYPE"))
            speeds.append(noted.get(f"{number}_CONFIGURED_SPEED_MTS") or noted.get(f"{number}_SPEED_MTS"))
    if kinds:
        rates = [whole(speed, 100, 50_000) for speed in speeds]
        slowest = None if None in rates else min(rate for rate in rates if rate is not None)
        return Modules(_kind(kinds[0]), None if slowest is None else slowest * 1_000_000, len(kinds))
    return Modules(_kind_by_counters(machine))


def _kind(text: str | None) -> str | None:
    match = re.search(r"\b(?:LP)?DDR\d[Xx]?\b|\bHBM\d?e?\b", text or "")
    return match[0] if match else None


def _kind_by_counters(machine: Machine) -> str | None:
    if machine.system != "Linux":
        return None
    for controller in machine.names(_EDAC):
        for module in machine.names(f"{_EDAC}/{controller}"):
            kind = _kind(machine.text(f"{_EDAC}/{controller}/{module}/dimm_mem_type")) if module.startswith("dimm") else None
            if kind is not None:
                return kind
    return None


def _kibibytes(text: str | None, name: str) -> int | None:
    match = re.search(rf"^{name}:\s*(\d{{1,18}}) kB$", text or "", re.MULTILINE)
    return whole(int(match[1]) * 1024) if match else None
