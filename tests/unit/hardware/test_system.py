"""The operating system, containers, virtual machines and neural processors."""

from __future__ import annotations

import pytest

from unit.hardware.replay import Replay
from zhibei.hardware.probes import npu
from zhibei.hardware.probes.system import container, name_and_version, virtual_machine


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('PRETTY_NAME="Ubuntu 24.04.1 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\n', ("Ubuntu", "24.04")),
        ("NAME='Arch Linux'\nID=arch\n", ("Arch Linux", None)),
        ('NAME="broken\nVERSION_ID=1\n', ("Linux", "1")),
        ("", ("Linux", None)),
    ],
)
def test_linux(text: str, expected: tuple[str, str | None]) -> None:
    assert name_and_version(Replay(files={"/etc/os-release": text})) == expected


def test_other_systems() -> None:
    key = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion"
    values: dict[str, object] = {"DisplayVersion": "24H2", "CurrentBuildNumber": "26100"}
    assert name_and_version(Replay("Darwin", "15.1")) == ("macOS", "15.1")
    assert name_and_version(Replay("Windows", "11", keys={key: values})) == ("Windows", "24H2 (26100)")
    assert name_and_version(Replay("Windows", "11")) == ("Windows", "11")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"/.dockerenv": ""}, "docker"),
        ({"/run/.containerenv": 'engine="podman-5.0"\n'}, "podman"),
        ({"/proc/self/cgroup": "5:memory:/docker/0123abcd\n"}, "docker"),
        ({"/proc/1/cgroup": "1:name=systemd:/kubepods/burstable/pod1/crio-2\n", "/.dockerenv": ""}, "kubernetes"),
        ({"/run/systemd/container": "lxc\n"}, "lxc"),
        ({"/run/systemd/container": "wsl\n"}, None),
        ({"/proc/self/cgroup": "0::/user.slice\n"}, None),
    ],
)
def test_containers(files: dict[str, str], expected: str | None) -> None:
    assert container(Replay(files=files)) == expected
    assert container(Replay("Darwin", files=files)) is None


VENDOR, PRODUCT = "/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name"


@pytest.mark.parametrize(
    ("files", "hypervisor", "expected"),
    [
        ({}, False, None),
        ({}, True, "other"),
        ({VENDOR: "QEMU\n"}, True, "qemu"),
        ({VENDOR: "Amazon EC2\n", PRODUCT: "m7i.large\n"}, True, "ec2"),
        ({VENDOR: "Amazon EC2\n", PRODUCT: "m7i.metal-24xl\n", "/proc/cpuinfo": "flags : fpu\n"}, False, None),
        ({VENDOR: "Amazon EC2\n", "/proc/cpuinfo": "Features : fp asimd\n"}, False, "ec2"),
        ({VENDOR: "Microsoft Corporation\n", PRODUCT: "Virtual Machine\n"}, True, "hyper-v"),
        ({VENDOR: "Microsoft Corporation\n", PRODUCT: "Surface Pro\n", "/proc/cpuinfo": "flags : fpu\n"}, False, None),
        ({"/proc/version": "Linux version 5.15.167.4-microsoft-standard-WSL2 (gcc)\n"}, True, "wsl2"),
        ({"/proc/version": "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com)\n"}, False, "wsl1"),
    ],
)
def test_virtual_machines(files: dict[str, str], hypervisor: bool, expected: str | None) -> None:
    assert virtual_machine(Replay(files=files), hypervisor) == expected


def test_neural_processors() -> None:
    links = {"/sys/class/accel/accel0/device/driver": "intel_vpu", "/sys/class/accel/accel1/device/driver": "new_thing"}
    assert npu.probe(Replay(links=links)) == ("Intel NPU", "new_thing")
    assert npu.probe(Replay()) == ()
    assert npu.probe(Replay("Darwin"), is_apple=True) == ("Apple Neural Engine",)
