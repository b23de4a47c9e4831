"""The operating system, and whether it runs inside another: container, WSL, virtual machine."""

from __future__ import annotations

import re
import shlex

from zhibei.hardware.machine import Machine
from zhibei.hardware.probes import windows
from zhibei.hardware.quantities import label

_CONTAINERS = (
    ("kubepods", "kubernetes"),
    ("docker", "docker"),
    ("libpod", "podman"),
    ("containerd", "containerd"),
    ("lxc", "lxc"),
)
# Words in what the firmware says of the machine, and whose virtual machines say them.
_MACHINES = (
    ("vmware", "vmware"),
    ("virtualbox", "virtualbox"),
    ("innotek", "virtualbox"),
    ("parallels", "parallels"),
    ("xen", "xen"),
    ("amazon ec2", "ec2"),
    ("google compute engine", "gce"),
    ("microsoft corporation virtual machine", "hyper-v"),
    ("openstack", "openstack"),
    ("bhyve", "bhyve"),
    ("qemu", "qemu"),
    ("kvm", "kvm"),
)


def name_and_version(machine: Machine) -> tuple[str | None, str | None]:
    """(``Ubuntu``, ``24.04``), (``macOS``, ``15.1``) or (``Windows``, ``24H2 (26100)``)."""
    if machine.system == "Darwin":
        return "macOS", label(machine.release)
    if machine.system == "Windows":
        return "Windows", windows.build(machine) or label(machine.release)
    text = machine.text("/etc/os-release") or machine.text("/usr/lib/os-release")
    return _release_value(text, "NAME") or label(machine.system), _release_value(text, "VERSION_ID")


def _release_value(text: str | None, key: str) -> str | None:
    match = re.search(rf"^{key}=([^\n]*)$", text or "", re.MULTILINE)
    try:
        words = shlex.split(match[1]) if match else []
    except ValueError:
        return None
    return label(" ".join(words))


def container(machine: Machine) -> str | None:
    """The kind of container this process is in."""
    if machine.system != "Linux":
        return None
    told = label(machine.text("/run/systemd/container"))
    if machine.text("/run/.containerenv") is not None:
        return "podman"
    groups = (machine.text("/proc/self/cgroup") or "") + (machine.text("/proc/1/cgroup") or "")
    found = next((name for word, name in _CONTAINERS if word in groups), None)
    if machine.text("/.dockerenv") is not None and found is None:
        return "docker"
    return found or (told if told != "wsl" else None)


def virtual_machine(machine: Machine, has_hypervisor: bool) -> str | None:
    """The kind of virtual machine; ``other`` if only that it is one is known. ``has_hypervisor``: the processor says so."""
    if machine.system != "Linux":
        return None
    kernel = (machine.text("/proc/version") or "").lower()
    if "microsoft" in kernel:
        return "wsl2" if "wsl2" in kernel or "microsoft-standard" in kernel else "wsl1"
    files = ("sys_vendor", "product_name", "board_vendor", "bios_vendor")
    firmware = " ".join((machine.text(f"/sys/class/dmi/id/{name}") or "").strip() for name in files).lower()
    found = next((name for word, name in _MACHINES if word in firmware), None)
    # Where processors tell, a machine of a cloud that is no virtual one says no; Arm's processors do not tell.
    tells = re.search(r"^flags\s*:", machine.text("/proc/cpuinfo") or "", re.MULTILINE) is not None
    if has_hypervisor or (found is not None and not tells):
        return found or "other"
    return None
