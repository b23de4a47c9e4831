"""Neural processors: that there is one, by its driver. No engine here uses them; people ask whether theirs counts."""

from __future__ import annotations

from zhibei.hardware.machine import Machine

_ACCELERATORS = "/sys/class/accel"
_NAMES = {
    "intel_vpu": "Intel NPU",
    "amdxdna": "AMD XDNA",
    "habanalabs": "Intel Gaudi",
    "qaic": "Qualcomm Cloud AI",
    "rocket": "Rockchip NPU",
    "ethosu": "Arm Ethos-U",
}


def probe(machine: Machine, is_apple: bool = False) -> tuple[str, ...]:
    """The neural processors of a machine. ``is_apple``: it has one of Apple's own chips, all of which have one."""
    if is_apple:
        return ("Apple Neural Engine",)
    drivers = (machine.target(f"{_ACCELERATORS}/{name}/device/driver") for name in machine.names(_ACCELERATORS))
    return tuple(_NAMES.get(driver, driver) for driver in drivers if driver)
