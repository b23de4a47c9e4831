"""Graphics processors on the PCI bus, with or without a driver: what the kernel's files say of every maker's alike."""

from __future__ import annotations

import re

from zhibei.hardware.machine import Machine
from zhibei.hardware.quantities import label, pci_address, version
from zhibei.plans import Gpu

DEVICES = "/sys/bus/pci/devices"
VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_NAMES = ("/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids")
# Display controllers, and the processing accelerators that data centres put in their place.
_CLASSES = ("0x03", "0x12")


def probe(machine: Machine) -> tuple[Gpu, ...]:
    """Every display controller of a maker whose processors compute."""
    gpus = []
    for address in machine.names(DEVICES):
        path = f"{DEVICES}/{address}"
        if not read(machine, f"{path}/class").startswith(_CLASSES):
            continue
        vendor, device = read(machine, f"{path}/vendor"), read(machine, f"{path}/device")
        if vendor in VENDORS and pci_address(address) is not None:
            gpus.append(_gpu(machine, path, vendor, device))
    return tuple(gpus)


def _gpu(machine: Machine, path: str, vendor: str, device: str) -> Gpu:
    fallback = f"{VENDORS[vendor]} GPU {device.removeprefix('0x')}"
    return Gpu(
        device_name(machine, vendor, device) or fallback,
        VENDORS[vendor],
        driver_version=version(read(machine, f"{path}/driver/module/version")),
        pci_address=pci_address(path.rpartition("/")[2]),
    )


def read(machine: Machine, path: str) -> str:
    """One of the kernel's short files, or nothing."""
    return (machine.text(path) or "").strip()


def device_name(machine: Machine, vendor: str, device: str) -> str | None:
    """The name in the list of PCI devices, if the system has one: what stands in brackets is what it is sold as."""
    listed = next((text for text in map(machine.text, _NAMES) if text), "")
    makers = re.search(rf"^{re.escape(vendor.removeprefix('0x'))}  [^\n]*\n((?:[\t#][^\n]*\n)*)", listed, re.MULTILINE)
    found = re.search(rf"^\t{re.escape(device.removeprefix('0x'))}  ([^\n]+)$", makers[1] if makers else "", re.MULTILINE)
    if found is None:
        return None
    sold_as = re.search(r"\[([^\]]+)\]\s*$", found[1])
    return label(sold_as[1] if sold_as else found[1])
