"""Intel: the kernel's files first, then ``xpu-smi`` for what they leave open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zhibei.hardware.gpus import merged
from zhibei.hardware.machine import Machine
from zhibei.hardware.probes.pci import DEVICES, read
from zhibei.hardware.quantities import document, label, pci_address, version, whole
from zhibei.plans import Gpu

_MAX_GPUS = 16


def probe(machine: Machine, on_bus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """All GPUs of Intel. ``on_bus``: what the PCI bus shows."""
    gpus = tuple(_from_files(machine, gpu) for gpu in on_bus)
    if gpus and all(gpu.is_integrated or gpu.total_bytes is not None for gpu in gpus):
        return gpus
    listed = devices(machine.output("xpu-smi", "discovery", "-j"))
    told = [gpu for gpu in (_from_device(_detailed(machine, device)) for device in listed) if gpu is not None]
    return merged(gpus, told)


def _detailed(machine: Machine, device: Mapping[str, Any]) -> Mapping[str, Any]:
    """A device of the list with its memory, which most versions tell only when they are asked for that one device."""
    number = whole(device.get("device_id"), 0, _MAX_GPUS)
    if number is None or "memory_physical_size_byte" in device:
        return device
    found = document(machine.output("xpu-smi", "discovery", "-d", str(number), "-j"))
    return {**device, **found} if isinstance(found, dict) else device


def refreshed(machine: Machine, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The same GPUs with the free memory of this moment, where a file tells it; asking the tool takes too long."""
    return tuple(replace(gpu, free_bytes=_local_memory(machine, gpu, "avail")) for gpu in gpus)


def devices(text: str | None) -> list[Mapping[str, Any]]:
    """The devices in what ``xpu-smi discovery -j`` prints."""
    found = document(text)
    listed = found.get("device_list") if isinstance(found, dict) else None
    return [device for device in listed[:_MAX_GPUS] if isinstance(device, dict)] if isinstance(listed, list) else []


def _from_device(device: Mapping[str, Any]) -> Gpu | None:
    name = label(device.get("device_name"))
    if name is None:
        return None
    return Gpu(
        name,
        "Intel",
        total_bytes=whole(device.get("memory_physical_size_byte"), 1),
        free_bytes=whole(device.get("memory_free_size_byte")),
        driver_version=version(device.get("driver_version")),
        pci_address=pci_address(device.get("pci_bdf_address")),
        uuid=label(device.get("uuid")),
    )


def _from_files(machine: Machine, gpu: Gpu) -> Gpu:
    total = _local_memory(machine, gpu, "total")
    # Graphics inside the processor has had this one place on the bus in all generations.
    integrated = True if gpu.pci_address == "0000:00:02.0" else False if total else None
    return replace(gpu, total_bytes=total, free_bytes=_local_memory(machine, gpu, "avail"), is_integrated=integrated)


def _local_memory(machine: Machine, gpu: Gpu, what: str) -> int | None:
    path = f"{DEVICES}/{gpu.pci_address}"
    cards = (name for name in machine.names(f"{path}/drm") if name.startswith("card"))
    found = (whole(read(machine, f"{path}/drm/{card}/lmem_{what}_bytes"), 1) for card in cards)
    known = next((number for number in found if number is not None), None)
    if known is None and what == "total":
        return whole(read(machine, f"{path}/tile0/physical_vram_size_bytes"), 1)
    return known
