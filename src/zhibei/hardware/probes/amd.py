"""AMD: the kernel's files first, then ``amd-smi`` or ``rocm-smi`` for what they leave open."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zhibei.hardware.gpus import merged
from zhibei.hardware.machine import Machine
from zhibei.hardware.probes.pci import DEVICES, read
from zhibei.hardware.quantities import document, label, pci_address, size, whole
from zhibei.plans import Gpu

NODES = "/sys/class/kfd/kfd/topology/nodes"
# Processors with graphics that share the system's memory, by their target in LLVM's table of AMD processors.
_INTEGRATED = frozenset("gfx902 gfx909 gfx90c gfx1013 gfx1033 gfx1035 gfx1036 gfx1103 gfx1150 gfx1151 gfx1152 gfx1153".split())
_UNNAMED = re.compile(r"AMD GPU [0-9a-f]*|N/A|0x[0-9a-f]+", re.IGNORECASE)


def probe(machine: Machine, on_bus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """All GPUs of AMD. ``on_bus``: what the PCI bus shows."""
    gpus = tuple(_from_files(machine, gpu) for gpu in on_bus)
    if gpus and all(gpu.total_bytes is not None and not _UNNAMED.fullmatch(gpu.name) for gpu in gpus):
        return gpus
    told = from_amd_smi(machine.output("amd-smi", "static", "--asic", "--bus", "--vram", "--json"))
    told = told or from_rocm_smi(
        machine.output("rocm-smi", "--showproductname", "--showbus", "--showmeminfo", "vram", "gtt", "--json")
    )
    # A tool's name beats a number; all else that the files say stands.
    named = {gpu.pci_address: gpu.name for gpu in told}
    better = (replace(gpu, name=named.get(gpu.pci_address, gpu.name)) if _UNNAMED.fullmatch(gpu.name) else gpu for gpu in gpus)
    return merged(better, told)


def refreshed(machine: Machine, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The same GPUs with the free memory of this moment."""
    return tuple(replace(gpu, free_bytes=_free(machine, gpu)) if gpu.pci_address else gpu for gpu in gpus)


def from_amd_smi(text: str | None) -> tuple[Gpu, ...]:
    """``amd-smi static --json``: a list of devices, in newer versions inside ``gpu_data``."""
    found = document(text)
    listed = found.get("gpu_data") if isinstance(found, dict) else found
    devices = [device for device in listed[:64] if isinstance(device, dict)] if isinstance(listed, list) else []
    gpus = []
    for device in devices:
        asic, bus, memory = (_inside(device, key) for key in ("asic", "bus", "vram"))
        gigabytes = whole(_inside(memory, "max_bandwidth").get("value"), 1, 100_000)
        capacity = _inside(memory, "size")
        gpus.append(
            _from_tool(
                asic.get("market_name"),
                size(f"{capacity.get('value')}{capacity.get('unit')}"),
                asic.get("target_graphics_version"),
                bus.get("bdf"),
                bandwidth_bytes_per_s=None if gigabytes is None else gigabytes * 1_000_000_000,
                num_cores=whole(asic.get("num_compute_units"), 1, 4096),
            )
        )
    return tuple(gpu for gpu in gpus if gpu is not None)


def from_rocm_smi(text: str | None) -> tuple[Gpu, ...]:
    """``rocm-smi --json``: an object for each card; older versions write the names in other letters."""
    found = document(text)
    cards = (
        sorted((key, value) for key, value in found.items() if re.fullmatch(r"card\d{1,2}", key))
        if isinstance(found, dict)
        else []
    )
    gpus = []
    for _, card in cards:
        facts = {str(key).lower(): value for key, value in card.items()} if isinstance(card, dict) else {}
        names = (label(facts.get(key)) for key in ("card series", "device name", "card model"))
        total, used = whole(facts.get("vram total memory (b)"), 1), whole(facts.get("vram total used memory (b)"))
        gpu = _from_tool(
            next((name for name in names if name and not _UNNAMED.fullmatch(name)), None),
            total,
            facts.get("gfx version"),
            facts.get("pci bus"),
            free_bytes=total - used if total is not None and used is not None and used <= total else None,
        )
        if gpu is not None:
            shared = whole(facts.get("gtt total memory (b)"), 1) if gpu.is_integrated else None
            gpus.append(replace(gpu, shared_bytes=shared))
    return tuple(gpus)


def _from_tool(name: object, total: int | None, target: object, address: object, **more: Any) -> Gpu | None:
    clean, architecture = label(name), _architecture(target)
    if clean is None and total is None and architecture is None:
        return None
    return Gpu(
        clean or "AMD GPU",
        "AMD",
        total_bytes=total,
        is_integrated=_is_integrated(architecture),
        architecture=architecture,
        pci_address=pci_address(address),
        **more,
    )


def _from_files(machine: Machine, gpu: Gpu) -> Gpu:
    path = f"{DEVICES}/{gpu.pci_address}"
    target, num_cores = _compute_node(machine, gpu.pci_address or "")
    integrated = _is_integrated(target)
    shared = whole(read(machine, f"{path}/mem_info_gtt_total"), 1) if integrated else None
    name = label(read(machine, f"{path}/product_name"))
    return replace(
        gpu,
        name=name or gpu.name,
        total_bytes=whole(read(machine, f"{path}/mem_info_vram_total"), 1),
        free_bytes=_free(machine, gpu),
        shared_bytes=shared,
        is_integrated=integrated,
        architecture=target,
        num_cores=num_cores,
        uuid=label(read(machine, f"{path}/unique_id")),
    )


def _free(machine: Machine, gpu: Gpu) -> int | None:
    path = f"{DEVICES}/{gpu.pci_address}"
    total = whole(read(machine, f"{path}/mem_info_vram_total"), 1)
    used = whole(read(machine, f"{path}/mem_info_vram_used"))
    return None if total is None or used is None else max(0, total - used)


def _compute_node(machine: Machine, address: str) -> tuple[str | None, int | None]:
    """Target and compute units of the device at a PCI address, from the compute driver's list of nodes."""
    for node in machine.names(NODES):
        lines = (line.split() for line in (machine.text(f"{NODES}/{node}/properties") or "").splitlines())
        facts = {words[0]: number for words in lines if len(words) == 2 and (number := whole(words[1])) is not None}
        place = facts.get("location_id", 0)
        here = f"{facts.get('domain', 0):04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"
        version = facts.get("gfx_target_version", 0)
        if here == address and 10_000 <= version < 1_000_000:
            target = f"gfx{version // 10_000}{version // 100 % 100:x}{version % 100:x}"
            units, per_unit = facts.get("simd_count", 0), facts.get("simd_per_cu", 0)
            return target, (units // per_unit or None) if per_unit else None
    return None, None


def _architecture(target: object) -> str | None:
    text = label(target)
    return text if text is not None and re.fullmatch(r"gfx[0-9a-f]{3,5}", text) else None


def _is_integrated(architecture: str | None) -> bool | None:
    # The accelerator with processor cores has the target of the one without.
    if architecture is None or architecture == "gfx942":
        return None
    return architecture in _INTEGRATED


def _inside(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}
