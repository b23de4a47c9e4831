"""The processor and memory: texts of real machines, and what this one says."""

from __future__ import annotations

import psutil
import pytest

from unit.hardware.replay import Replay
from zhibei.hardware.detect import Detector, detect
from zhibei.hardware.machine import Counts
from zhibei.hardware.probes import cpu

INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480+
stepping\t: 8
cpu MHz\t\t: 2000.000
flags\t\t: fpu sse2 ssse3 fma avx avx2 bmi2 avx512f avx512dq avx_vnni avx512_bf16 avx512_vnni amx_bf16 amx_tile amx_int8
vmx flags\t: vnmi preemption_timer avx512f_not_this

processor\t: 1
model name\t: another one
flags\t\t: fpu
"""
AMD = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD Ryzen 9 7950X 16-Core Processor
flags\t\t: fpu vme sse2 avx avx2 avx512f avx512_bf16 avx512_vnni
bugs\t\t: sysret_ss_attrs avx2_is_no_flag_here
"""
OLD = "model name\t: Intel(R) Core(TM)2 Duo CPU     E8400  @ 3.00GHz\nflags\t\t: fpu sse sse2 ssse3 sse4_1\n"
ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd40
"""
RASPBERRY = """processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU part\t: 0xd08

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        (
            INTEL,
            "Intel(R) Xeon(R) Platinum 8480+",
            ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
        ),
        (AMD, "AMD Ryzen 9 7950X 16-Core Processor", ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")),
        (OLD, "Intel(R) Core(TM)2 Duo CPU E8400 @ 3.00GHz", ()),
        (ARM, "Neoverse-V1", ("neon", "asimddp", "i8mm", "bf16", "sve")),
        (RASPBERRY, None, ("neon",)),
        ("", None, ()),
        (None, None, ()),
        ("model name\nflags\n", None, ()),
    ],
)
def test_cpuinfo(text: str | None, name: str | None, features: tuple[str, ...]) -> None:
    found = cpu.from_cpuinfo(text)
    assert (found.name, found.features) == (name, features)


@pytest.mark.parametrize(
    ("physical", "affinity", "limit", "cores", "threads"),
    [
        (8, 16, None, 8, 16),
        (8, 4, None, 4, 4),
        (8, 16, 2, 2, 2),
        (8, 16, 12, 8, 12),
        (None, 16, None, 16, 16),
        (0, 4, None, 4, 4),
        (None, None, None, None, None),
    ],
)
def test_cores(physical: int | None, affinity: int | None, limit: int | None, cores: int | None, threads: int | None) -> None:
    machine = Replay(counted=Counts(affinity, physical))
    if limit is not None:
        machine.files["/sys/fs/cgroup/cpu.max"] = f"{limit * 100_000} 100000\n"
    found = Detector(machine)()
    assert (found.num_physical_cores, found.num_logical_cores, found.cpu_limit) == (cores, threads, limit)


def topology(groups: list[str]) -> dict[str, str]:
    files = {f"{cpu.CPUS}/online": f"0-{len(groups) - 1}\n"}
    return files | {f"{cpu.CPUS}/cpu{i}/topology/thread_siblings_list": f"{group}\n" for i, group in enumerate(groups)}


HYBRID = ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"]


def test_performance_and_efficiency_cores_of_intel() -> None:
    machine = Replay(files=topology(HYBRID))
    machine.files |= {"/sys/devices/cpu_core/cpus": "0-3\n", "/sys/devices/cpu_atom/cpus": "4-7\n"}
    found, _ = cpu.probe(machine)
    assert (found.num_physical_cores, found.num_logical_cores) == (6, 8)
    assert (found.num_performance_cores, found.num_efficiency_cores) == (2, 4)


def test_performance_and_efficiency_cores_of_arm() -> None:
    machine = Replay(files=topology(["0", "1", "2", "3"]))
    machine.files |= {
        f"{cpu.CPUS}/cpu{i}/cpu_capacity": capacity for i, capacity in enumerate(("430\n", "430\n", "430\n", "1024\n"))
    }
    found, _ = cpu.probe(machine)
    assert (found.num_performance_cores, found.num_efficiency_cores) == (1, 3)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"/sys/devices/cpu_core/cpus": "0-7\n"},
        {"/sys/devices/cpu_atom/cpus": "0-7\n"},
        {"/sys/devices/cpu_core/cpus": "nonsense", "/sys/devices/cpu_atom/cpus": "4-7"},
        {f"{cpu.CPUS}/cpu0/cpu_capacity": "1024"},
        {f"{cpu.CPUS}/cpu{i}/cpu_capacity": "1024" for i in range(8)},
    ],
)
def test_cores_of_one_kind_are_not_told_apart(more: dict[str, str]) -> None:
    found, _ = cpu.probe(Replay(files=topology(HYBRID) | more))
    assert (found.num_performance_cores, found.num_efficiency_cores) == (None, None)
    assert found.num_physical_cores == 6


def cache(number: int, index: int, level: int, kind: str, size: str, shared: str) -> dict[str, str]:
    path = f"{cpu.CPUS}/cpu{number}/cache/index{index}"
    return {
        f"{path}/level": f"{level}\n",
        f"{path}/type": f"{kind}\n",
        f"{path}/size": f"{size}\n",
        f"{path}/shared_cpu_list": shared,
    }


def test_caches_are_summed_and_shared_ones_counted_once() -> None:
    files = topology(["0-1", "0-1", "2", "3"])
    for number, shared in enumerate(("0-1", "0-1", "2", "3")):
        files |= cache(number, 0, 1, "Data", "48K" if number < 2 else "32K", shared)
        files |= cache(number, 1, 1, "Instruction", "64K", shared)
        files |= cache(number, 2, 2, "Unified", "2048K", shared if number < 2 else "2-3")
        files |= cache(number, 3, 3, "Unified", "36M", "0-3")
    found, _ = cpu.probe(Replay(files=files))
    assert (found.l1d_bytes, found.l2_bytes, found.l3_bytes) == ((48 + 32 + 32) << 10, 4 << 20, 36 << 20)


@pytest.mark.parametrize(("online", "nodes"), [("0\n", 1), ("0-1\n", 2), ("0,2-3\n", 3), ("", None), ("many", None)])
def test_numa_nodes(online: str, nodes: int | None) -> None:
    found, _ = cpu.probe(Replay(files={"/sys/devices/system/node/online": online}))
    assert found.num_numa_nodes == nodes


def test_lscpu_is_asked_only_for_what_is_open() -> None:
    machine = Replay(files=topology(["0"]) | cache(0, 0, 1, "Data", "32K", "0") | {"/proc/cpuinfo": OLD})
    cpu.probe(machine)
    assert machine.asked == []
    del machine.files["/proc/cpuinfo"]
    cpu.probe(machine)
    assert machine.asked == ["env LC_ALL=C lscpu"]


def test_a_processor_in_the_registry() -> None:
    key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
    values: dict[str, object] = {
        "ProcessorNameString": "AMD Ryzen 7 5800X 8-Core Processor   ",
        "VendorIdentifier": "AuthenticAMD",
    }
    found, is_virtual = cpu.probe(Replay("Windows", keys={key: values}))
    assert (found.name, found.vendor, is_virtual) == ("AMD Ryzen 7 5800X 8-Core Processor", "AMD", False)


def test_this_machine() -> None:
    found = detect()
    system = psutil.virtual_memory()
    assert found.total_bytes is not None and found.available_bytes is not None
    assert 0 < found.available_bytes <= found.total_bytes <= system.total
    assert found.num_physical_cores is not None and found.num_logical_cores is not None
    assert 1 <= found.num_physical_cores <= found.num_logical_cores <= (psutil.cpu_count() or 1)
    assert found.cpu_name is None or found.cpu_name == found.cpu_name.strip() != ""


def test_what_cannot_be_found_is_not_invented() -> None:
    for system in ("Linux", "Darwin", "Windows", "Plan9"):
        found = Detector(Replay(system))()
        assert (found.cpu_name, found.cpu_features, found.gpus, found.backends) == (None, (), (), ())
        assert (found.total_bytes, found.available_bytes, found.num_physical_cores) == (None, None, None)
