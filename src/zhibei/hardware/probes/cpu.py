"""Processor and memory, through psutil and the kernel's own files. Containers' limits count as the machine's size."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

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
    return _read(Path("/proc/cpuinfo"))


def physical_cores() -> int | None:
    """Cores this process may use, hyper-threads not counted."""
    cores = psutil.cpu_count(logical=False)
    logical = logical_cores()
    return min(cores, logical) if cores and logical else cores or logical


def logical_cores() -> int | None:
    """Hardware threads this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return len(process.cpu_affinity())
    return psutil.cpu_count(logical=True)


def memory(root: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """(total, available) bytes of memory, a container's limit respected."""
    system = psutil.virtual_memory()
    limit, used = cgroup_memory(root)
    if limit is None or limit >= system.total:
        return system.total, system.available
    return limit, min(system.available, max(0, limit - (used or 0)))


def cgroup_memory(root: Path) -> tuple[int | None, int | None]:
    """(limit, used) bytes of this process's control group; None where there is no limit. Reclaimable cache is not used."""
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = _number(root / limit_name)
        if limit is not None:
            used = _number(root / used_name)
            cache = _inactive_file(root / Path(limit_name).parent / "memory.stat")
            return limit, None if used is None else max(0, used - cache)
    return None, None


def _inactive_file(path: Path) -> int:
    match = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(path) or "", re.MULTILINE)
    return int(match[1]) if match else 0


def _number(path: Path) -> int | None:
    text = (_read(path) or "").strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
