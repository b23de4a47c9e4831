"""What ``lscpu`` prints. Asked only where the kernel's files leave something open: it knows the names of Arm's cores."""

from __future__ import annotations

import re

from zhibei.hardware.machine import Machine
from zhibei.hardware.processor import Processor
from zhibei.hardware.quantities import field, label, size, whole


def probe(machine: Machine) -> str | None:
    """Its output in English."""
    return machine.output("env", "LC_ALL=C", "lscpu") if machine.system == "Linux" else None


def parse(text: str | None) -> Processor:
    """The processor it describes. A machine with cores of two kinds has a part for each."""
    parts = re.split(r"^(?=[ \t]*Model name:)", text or "", flags=re.MULTILINE)[1:]
    kinds = [_kind(part) for part in parts] if len(parts) > 1 else [_kind(text or "")]
    counts = [cores for _, cores, _ in kinds]
    fast, slow = _by_speed(kinds)
    names = dict.fromkeys(name for name, _, _ in kinds if name)
    return Processor(
        name=label(" + ".join(names)),
        vendor=field(text, "Vendor ID"),
        num_physical_cores=sum(count for count in counts if count) if None not in counts else None,
        num_logical_cores=whole(field(text, "CPU(s)"), 1, 65_536),
        num_performance_cores=fast,
        num_efficiency_cores=slow,
        l1d_bytes=_cache(text, "L1d"),
        l2_bytes=_cache(text, "L2"),
        l3_bytes=_cache(text, "L3"),
        num_numa_nodes=whole(field(text, "NUMA node(s)"), 1, 4096),
    )


def flags(text: str | None) -> str | None:
    """The words that name instruction sets; newer versions break the line."""
    match = re.search(r"^[ \t]*Flags:((?:[^\n]*)(?:\n[ \t]{12,}[^\n:]+)*)$", text or "", re.MULTILINE)
    # A line is broken between words or, in a narrow terminal, inside one; outside of terminals it is not broken.
    return " ".join(match[1].split()) if match else None


def _kind(part: str) -> tuple[str | None, int | None, float | None]:
    """(name, cores, highest MHz)"""
    for cores, groups in (("Core(s) per socket", "Socket(s)"), ("Core(s) per cluster", "Cluster(s)")):
        per_group, num_groups = whole(field(part, cores), 1, 4096), whole(field(part, groups), 1, 4096)
        if per_group is not None and num_groups is not None:
            break
    match = re.fullmatch(r"(\d{1,6})[.,]\d{1,6}", field(part, "CPU max MHz") or "")
    count = None if per_group is None or num_groups is None else per_group * num_groups
    return label(field(part, "Model name")), count, float(match[1]) if match else None


def _by_speed(kinds: list[tuple[str | None, int | None, float | None]]) -> tuple[int | None, int | None]:
    known = [(speed, cores) for _, cores, speed in kinds if speed is not None and cores is not None]
    if len(known) != len(kinds) or len({speed for speed, _ in known}) < 2:
        return None, None
    fastest = max(speed for speed, _ in known)
    fast = sum(cores for speed, cores in known if speed == fastest)
    return fast, sum(cores for _, cores in known) - fast


def _cache(text: str | None, level: str) -> int | None:
    told = field(text, f"{level} cache") or field(text, level)
    # Older versions give one cache's size, as "32K", and not how many there are.
    return size(told) if told is not None and re.match(r"\d+(?:\.\d+)? [KMG]iB\b", told) else None
