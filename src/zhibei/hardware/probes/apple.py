"""Apple: ``sysctl`` for the processor, ``system_profiler`` and Metal for the graphics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from zhibei.hardware.machine import Machine
from zhibei.hardware.processor import Processor
from zhibei.hardware.quantities import document, field, label, size, whole
from zhibei.plans import Gpu

_KINDS = {"lp_ddr4": "LPDDR4", "lpddr4": "LPDDR4", "lpddr5": "LPDDR5", "ddr3": "DDR3", "ddr4": "DDR4"}
_VENDORS = {"apple": "Apple", "amd": "AMD", "intel": "Intel", "nvidia": "NVIDIA"}
_MAX_LEVELS = 4
APPLE = "Apple"


def read_sysctl(machine: Machine) -> str | None:
    """All that macOS tells of its hardware."""
    return machine.output("sysctl", "hw", "machdep") if machine.system == "Darwin" else None


def processor(text: str | None) -> Processor:
    """The processor that the output of ``sysctl hw machdep`` describes."""
    name = label(field(text, "machdep.cpu.brand_string"))
    is_apple = field(text, "hw.optional.arm64") == "1" or (name or "").startswith("Apple")
    levels = [level for level in range(_MAX_LEVELS) if _number(text, f"hw.perflevel{level}.physicalcpu")]
    cores = [_number(text, f"hw.perflevel{level}.physicalcpu") or 0 for level in levels]
    mixed = len(cores) > 1
    physical = _number(text, "hw.physicalcpu") or _number(text, "machdep.cpu.core_count") or sum(cores) or None
    return Processor(
        name=name,
        vendor=APPLE if is_apple else "Intel" if name is not None else None,
        num_physical_cores=physical,
        num_logical_cores=_number(text, "hw.logicalcpu") or _number(text, "machdep.cpu.thread_count") or _number(text, "hw.ncpu"),
        num_performance_cores=cores[0] if mixed else None,
        num_efficiency_cores=sum(cores[1:]) if mixed else None,
        l1d_bytes=_of_levels(text, levels, "l1dcachesize", None),
        l2_bytes=_of_levels(text, levels, "l2cachesize", "cpusperl2"),
        l3_bytes=whole(field(text, "hw.l3cachesize"), 1),
        features=_features(text, is_apple),
    )


def total_bytes(text: str | None) -> int | None:
    """The memory that the output of ``sysctl hw`` tells."""
    return whole(field(text, "hw.memsize"), 1)


def _number(text: str | None, name: str) -> int | None:
    return whole(field(text, name), 1, 4096)


def _of_levels(text: str | None, levels: list[int], name: str, sharing: str | None) -> int | None:
    """A cache's size over all cores of all kinds; None if one of the facts is missing."""
    total = 0
    for level in levels:
        cores = _number(text, f"hw.perflevel{level}.physicalcpu")
        per_cache = _number(text, f"hw.perflevel{level}.{sharing}") if sharing else 1
        one = whole(field(text, f"hw.perflevel{level}.{name}"), 1)
        if cores is None or per_cache is None or one is None:
            return None
        total += one * -(-cores // per_cache)
    return total or None


def _features(text: str | None, is_apple: bool) -> tuple[str, ...]:
    if is_apple:
        optional = {"asimddp": "FEAT_DotProd", "i8mm": "FEAT_I8MM", "bf16": "FEAT_BF16", "sme": "FEAT_SME"}
        return ("neon", *(name for name, flag in optional.items() if field(text, f"hw.optional.arm.{flag}") == "1"))
    flags = {"avx2": "hw.optional.avx2_0", "avx512f": "hw.optional.avx512f", "avx512_vnni": "hw.optional.avx512vnni"}
    return tuple(name for name, flag in flags.items() if field(text, flag) == "1")


def profile(machine: Machine) -> Mapping[str, Any]:
    """What ``system_profiler`` says of graphics and memory; it takes some tenths of a second."""
    if machine.system != "Darwin":
        return {}
    found = document(machine.output("system_profiler", "SPDisplaysDataType", "SPMemoryDataType", "-json"))
    return found if isinstance(found, dict) else {}


def gpus(profiled: Mapping[str, Any], cpu: Processor, metal_bytes: int | None) -> tuple[Gpu, ...]:
    """The graphics processors; that of Apple's own chips is known by the chip."""
    found = tuple(gpu for gpu in (_gpu(item, metal_bytes) for item in _items(profiled, "SPDisplaysDataType")) if gpu)
    if not found and cpu.vendor == APPLE and cpu.name:
        return (Gpu(cpu.name, APPLE, shared_bytes=metal_bytes, is_integrated=True),)
    return found


def memory_kind(profiled: Mapping[str, Any]) -> str | None:
    """The kind of memory, such as ``LPDDR5``."""
    for item in _items(profiled, "SPMemoryDataType"):
        kind = label(item.get("dimm_type"))
        if kind is not None:
            return _KINDS.get(kind.lower(), kind)
    return None


def _items(profiled: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    listed = profiled.get(name)
    return [item for item in listed[:16] if isinstance(item, dict)] if isinstance(listed, list) else []


def _gpu(item: Mapping[str, Any], metal_bytes: int | None) -> Gpu | None:
    name = label(item.get("sppci_model")) or label(item.get("_name"))
    if name is None:
        return None
    # Older systems write a key of their own in place of the name.
    name = re.sub(r"^kHW_(Apple)(M\d\w*)Item$", r"\1 \2", name)
    told = f"{item.get('spdisplays_vendor', '')} {item.get('sppci_vendor', '')} {name}".lower()
    vendor = next((vendor for word, vendor in _VENDORS.items() if word in told), "AMD" if "radeon" in told else None)
    if vendor is None:
        return None
    own = size(label(item.get("spdisplays_vram")))
    integrated = True if vendor == "Apple" else False if own else None
    displays = item.get("spdisplays_ndrvs")
    return Gpu(
        name,
        vendor,
        total_bytes=None if vendor == "Apple" else own,
        shared_bytes=metal_bytes if integrated else None,
        is_integrated=integrated,
        architecture=_metal(item),
        num_cores=whole(item.get("sppci_cores"), 1, 1024),
        has_display=bool(displays) if isinstance(displays, list) else None,
    )


def _metal(item: Mapping[str, Any]) -> str | None:
    for key in ("spdisplays_mtlgpufamilysupport", "spdisplays_metalfamily"):
        match = re.search(r"(?:spdisplays_)?(?:mtlgpufamily)?((?:metal|apple|mac)\d{1,2})$", label(item.get(key)) or "")
        if match is not None:
            return match[1]
    return None
