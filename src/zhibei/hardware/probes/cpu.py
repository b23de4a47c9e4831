"""The processor: the kernel's files, and ``lscpu`` for what they leave open; ``sysctl`` or the registry elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable

from zhibei.hardware.cpuinfo import value, words
from zhibei.hardware.machine import Machine
from zhibei.hardware.probes import apple, lscpu, windows
from zhibei.hardware.processor import Processor
from zhibei.hardware.quantities import label, members, numbers, size, whole

CPUS = "/sys/devices/system/cpu"
_HYBRID = "/sys/devices"
_FEATURES = (
    "avx2 avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 neon asimddp i8mm bf16 sve sve2 sme"
).split()
_VENDORS = {
    "GenuineIntel": "Intel",
    "AuthenticAMD": "AMD",
    "HygonGenuine": "Hygon",
    "CentaurHauls": "Zhaoxin",
    "Shanghai": "Zhaoxin",
    "ARM": "Arm",
    "FUJITSU": "Fujitsu",
}
_IMPLEMENTERS = {
    0x41: "Arm",
    0x42: "Broadcom",
    0x43: "Cavium",
    0x46: "Fujitsu",
    0x48: "HiSilicon",
    0x4E: "NVIDIA",
    0x51: "Qualcomm",
    0x61: "Apple",
    0x70: "Phytium",
    0xC0: "Ampere",
}
# Arm's numbers of the cores that are met most; lscpu knows more, but small systems lack it.
_ARM_CORES = {
    0xD03: "Cortex-A53",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD49: "Neoverse-N2",
    0xD4F: "Neoverse-V2",
    0xD85: "Cortex-X925",
    0xD87: "Cortex-A725",
}


def probe(machine: Machine) -> tuple[Processor, bool]:
    """The processor as the machine shows it, and whether it says that it is a virtual one."""
    if machine.system == "Darwin":
        return apple.processor(apple.read_sysctl(machine)), False
    if machine.system == "Windows":
        name, vendor = windows.processor(machine)
        return Processor(name=name, vendor=maker(vendor)), False
    text = machine.text("/proc/cpuinfo")
    found = from_cpuinfo(text).filled(_from_files(machine))
    if found.name is None or found.l1d_bytes is None or found.num_physical_cores is None:
        listed = lscpu.probe(machine)
        more = lscpu.parse(listed)
        found = found.filled(more).filled(Processor(vendor=maker(more.vendor), features=features(lscpu.flags(listed))))
    return _tidied(found), "hypervisor" in words(text, "flags")


def _tidied(found: Processor) -> Processor:
    made_by = Processor(vendor=maker(found.vendor))
    return made_by.filled(found)


def from_cpuinfo(text: str | None) -> Processor:
    """What ``/proc/cpuinfo`` says; on Arm it has numbers in place of names."""
    packages = len(set(re.findall(r"^physical id\s*:\s*(\d{1,5})$", text or "", re.MULTILINE))) or None
    cores, threads = (_first(text, name, 1, 4096) for name in ("cpu cores", "siblings"))
    listed = len(re.findall(r"^processor\s*:\s*\d", text or "", re.MULTILINE)) or None
    return Processor(
        name=cpu_name(text),
        vendor=maker(value(text, "vendor_id")) or _implementer(text),
        num_physical_cores=cores * packages if cores and packages else None,
        num_logical_cores=max(filter(None, (listed, threads * packages if threads and packages else None)), default=None),
        features=features(words(text, "flags") or words(text, "Features")),
    )


def cpu_name(text: str | None) -> str | None:
    """The model name in the text of ``/proc/cpuinfo``, or the names of Arm's cores there."""
    name = label(value(text, "model name"))
    if name is not None:
        return name
    parts = dict.fromkeys(re.findall(r"^CPU part\s*:\s*0x([0-9a-fA-F]{1,4})$", text or "", re.MULTILINE))
    names = [_ARM_CORES.get(int(part, 16)) for part in parts]
    return " + ".join(name for name in names if name) if names and None not in names and _implementer(text) == "Arm" else None


def features(found: str | Iterable[str] | None) -> tuple[str, ...]:
    """The instruction sets that matter to inference, of those that the kernel's words name."""
    named = set((found or "").split() if isinstance(found, str) else found or ())
    if "asimd" in named:
        named.add("neon")
    return tuple(name for name in _FEATURES if name in named)


def maker(text: str | None) -> str | None:
    """A maker's usual name."""
    clean = label(text)
    return _VENDORS.get(clean, clean) if clean is not None else None


def _implementer(text: str | None) -> str | None:
    number = value(text, "CPU implementer")
    return _IMPLEMENTERS.get(int(number, 16)) if number and re.fullmatch(r"0x[0-9a-fA-F]{1,2}", number) else None


def _first(text: str | None, name: str, low: int, high: int) -> int | None:
    return whole(value(text, name), low, high)


def _from_files(machine: Machine) -> Processor:
    online = numbers(machine.text(f"{CPUS}/online"))
    fast, slow = _hybrid_cores(machine, online)
    return Processor(
        num_physical_cores=_num_cores(machine, online),
        num_logical_cores=len(online) or None,
        num_performance_cores=fast,
        num_efficiency_cores=slow,
        l1d_bytes=_cache(machine, online, 1),
        l2_bytes=_cache(machine, online, 2),
        l3_bytes=_cache(machine, online, 3),
        num_numa_nodes=members(machine.text("/sys/devices/system/node/online")),
    )


def _num_cores(machine: Machine, threads: frozenset[int]) -> int | None:
    """How many cores these hardware threads are; threads of one core name the same group."""
    groups = {(machine.text(f"{CPUS}/cpu{number}/topology/thread_siblings_list") or "").strip() for number in sorted(threads)}
    return None if not groups or "" in groups else len(groups)


def _hybrid_cores(machine: Machine, online: frozenset[int]) -> tuple[int | None, int | None]:
    """(performance, efficiency) cores: Intel's kinds are performance counters of their own, Arm's have a capacity."""
    slow = frozenset[int]().union(*(numbers(machine.text(f"{_HYBRID}/{kind}/cpus")) for kind in ("cpu_atom", "cpu_lowpower")))
    fast = numbers(machine.text(f"{_HYBRID}/cpu_core/cpus"))
    if not (fast and slow):
        capacities = {number: whole(machine.text(f"{CPUS}/cpu{number}/cpu_capacity"), 1, 1024) for number in sorted(online)[:512]}
        best = max((capacity for capacity in capacities.values() if capacity), default=None)
        if best is None or None in capacities.values():
            return None, None
        fast = frozenset(number for number, capacity in capacities.items() if capacity == best)
        slow = online - fast
    counts = _num_cores(machine, fast), _num_cores(machine, slow)
    return counts if None not in counts and slow else (None, None)


def _cache(machine: Machine, online: frozenset[int], level: int) -> int | None:
    """All data caches of a level. Threads that share one are looked at once."""
    total, seen = 0, set[int]()
    for number in sorted(online):
        if number in seen:
            continue
        for index in range(5):
            path = f"{CPUS}/cpu{number}/cache/index{index}"
            if (machine.text(f"{path}/level") or "").strip() != str(level):
                continue
            if (machine.text(f"{path}/type") or "").strip() == "Instruction":
                continue
            total += size(machine.text(f"{path}/size")) or 0
            seen |= numbers(machine.text(f"{path}/shared_cpu_list"))
            break
        seen.add(number)
    return total or None
