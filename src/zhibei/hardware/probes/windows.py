"""Windows: processor and graphics from the registry, which any program may read."""

from __future__ import annotations

from zhibei.hardware.machine import Machine
from zhibei.hardware.quantities import label, version, whole
from zhibei.plans import Gpu

_PROCESSOR = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
_VERSION = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion"
_DISPLAYS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
_VENDORS = {"ven_10de": "NVIDIA", "ven_1002": "AMD", "ven_8086": "Intel"}
_MAX_DISPLAYS = 16


def processor(machine: Machine) -> tuple[str | None, str | None]:
    """(name, maker) of the processor."""
    found = machine.registry(_PROCESSOR)
    return label(found.get("ProcessorNameString")), label(found.get("VendorIdentifier"))


def build(machine: Machine) -> str | None:
    """The version as people tell it: ``23H2 (22631)``."""
    found = machine.registry(_VERSION)
    name, number = label(found.get("DisplayVersion")), label(found.get("CurrentBuildNumber"))
    return f"{name} ({number})" if name and number else number


def gpus(machine: Machine) -> tuple[Gpu, ...]:
    """Graphics adapters that have a driver. Free memory is not told here."""
    found = []
    for index in range(_MAX_DISPLAYS):
        values = machine.registry(f"{_DISPLAYS}\\{index:04}")
        name = label(values.get("DriverDesc"))
        hardware = str(values.get("MatchingDeviceId", "")).lower()
        vendor = next((vendor for key, vendor in _VENDORS.items() if key in hardware), None)
        if name is not None and vendor is not None:
            total = whole(values.get("HardwareInformation.qwMemorySize"), 1)
            found.append(Gpu(name, vendor, total_bytes=total, driver_version=version(values.get("DriverVersion"))))
    return tuple(found)
