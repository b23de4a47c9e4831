"""The limits of this process's control group, versions 1 and 2: what a container or a service may use of its machine.

A limit holds for all groups below it, so the group's ancestors count too, as far as they can be seen from here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Bytes a group may use and uses. Cache that can be dropped at once is not used; ``used_bytes`` None: not known."""

    limit_bytes: int
    used_bytes: int | None


def read(path: Path) -> str | None:
    """The text of one of the kernel's files; None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


Read = Callable[[Path], str | None]


def memory_limits(root: Path = ROOT, membership: Path = MEMBERSHIP, read: Read = read) -> list[MemoryLimit]:
    """Every limit that is set on this process's memory; none where nothing limits it."""
    found = []
    for directory in _directories("memory", root, membership, read):
        for limit_name, used_name in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, used = _number(read(directory / limit_name)), _number(read(directory / used_name))
            if limit is not None:
                cache = _inactive_file(read(directory / "memory.stat"))
                found.append(MemoryLimit(limit, None if used is None else max(0, used - cache)))
    return found


def cpu_limit(root: Path = ROOT, membership: Path = MEMBERSHIP, read: Read = read) -> int | None:
    """Whole cores' worth of time that this process gets, at least one; None where nothing limits it."""
    found = []
    for directory in _directories("cpu", root, membership, read):
        version_2 = (read(directory / "cpu.max") or "").split()
        quota, period = version_2 if len(version_2) == 2 else ("", "")
        if not version_2:
            quota = (read(directory / "cpu.cfs_quota_us") or "").strip()
            period = (read(directory / "cpu.cfs_period_us") or "").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            # Threads that wait for each other are slowed by a share of a core, so it does not count.
            found.append(max(1, int(quota) // int(period)))
    return min(found, default=None)


def _directories(controller: str, root: Path, membership: Path, read: Read) -> Iterator[Path]:
    """Where the group and its ancestors may be, the group first. A container sees its own group as the root."""
    for controllers, path in re.findall(r"^\d+:([^:\n]*):(/.*)$", read(membership) or "", re.MULTILINE):
        if controllers and controller not in controllers.split(","):
            continue
        parts = PurePosixPath(path).parts[1:]
        if ".." not in parts:
            base = root / controller if controllers else root
            yield from (base.joinpath(*parts[:depth]) for depth in range(len(parts), 0, -1))
    yield root
    yield root / controller


def _inactive_file(stat: str | None) -> int:
    text = stat or ""
    # Version 1 also has the group's own share, without the groups below it.
    match = re.search(r"^total_inactive_file (\d+)$", text, re.MULTILINE) or re.search(
        r"^inactive_file (\d+)$", text, re.MULTILINE
    )
    return int(match[1]) if match else 0


def _number(content: str | None) -> int | None:
    text = (content or "").strip()
    return int(text) if text.isdigit() else None
