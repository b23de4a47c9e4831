"""All facts about this machine, in one value. Never raises for a fact that cannot be found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from zhibei.hardware import cgroups
from zhibei.hardware.gpus import merged
from zhibei.hardware.machine import PATIENCE_S, Counts, LocalMachine, Machine
from zhibei.hardware.probes import amd, apple, cpu, intel, memory, npu, nvidia, pci, system, windows
from zhibei.plans import Gpu, Hardware

_VULKAN = {"Linux": ("libvulkan.so.1",), "Windows": ("C:\\Windows\\System32\\vulkan-1.dll",), "Darwin": ("libvulkan.1.dylib",)}
_LEVEL_ZERO = {"Linux": ("libze_loader.so.1",), "Windows": ("C:\\Windows\\System32\\ze_loader.dll",)}


class Detector:
    """Looks at a machine. What does not change is asked once; memory and limits are of the moment of each call."""

    def __init__(self, machine: Machine, clock: Callable[[], float] = time.monotonic) -> None:
        self._machine = machine
        self._clock = clock
        self._lasting: Hardware | None = None
        self._asks_gpus = True
        self._lock = threading.Lock()

    def __call__(self) -> Hardware:
        """The machine as it is now."""
        with self._lock:
            if self._lasting is None:
                self._lasting = lasting = _lasting(self._machine)
                gpus = lasting.gpus
            else:
                lasting = self._lasting
                gpus = self._gpus_now(lasting.gpus)
        return replace(_momentary(self._machine, lasting, self._machine.counts()), gpus=gpus)

    def _gpus_now(self, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
        """The GPUs with the free memory of this moment. A driver that hung once is not waited for again."""
        if not self._asks_gpus:
            return tuple(replace(gpu, free_bytes=None) for gpu in gpus)
        begin = self._clock()
        found = _refreshed(self._machine, gpus)
        self._asks_gpus = self._clock() - begin < PATIENCE_S
        return found


@cache
def _this_machine() -> Detector:
    return Detector(LocalMachine())


def detect() -> Hardware:
    """Ask every probe about this machine. A few milliseconds; the first call in a process may wait for slow tools."""
    return _this_machine()()


def _lasting(machine: Machine) -> Hardware:
    processor, is_virtual = cpu.probe(machine)
    sysctl = apple.read_sysctl(machine)
    profile = apple.profile(machine)
    gpus = _gpus(machine, apple.gpus(profile, processor, machine.metal_bytes()))
    modules = memory.modules(machine)
    name, version = system.name_and_version(machine)
    return Hardware(
        cpu_name=processor.name,
        num_physical_cores=processor.num_physical_cores,
        num_logical_cores=processor.num_logical_cores,
        total_bytes=apple.total_bytes(sysctl),
        available_bytes=None,
        gpus=gpus,
        cpu_features=processor.features,
        cpu_vendor=processor.vendor,
        num_performance_cores=processor.num_performance_cores,
        num_efficiency_cores=processor.num_efficiency_cores,
        l1d_bytes=processor.l1d_bytes,
        l2_bytes=processor.l2_bytes,
        l3_bytes=processor.l3_bytes,
        num_numa_nodes=processor.num_numa_nodes,
        memory_kind=modules.kind or apple.memory_kind(profile),
        memory_transfers_per_s=modules.transfers_per_s,
        num_memory_modules=modules.count,
        system=name,
        system_version=version,
        container=system.container(machine),
        virtual_machine=system.virtual_machine(machine, is_virtual),
        npus=npu.probe(machine, processor.vendor == apple.APPLE),
        backends=_backends(machine, gpus),
    )


def _gpus(machine: Machine, apples: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    if machine.system == "Darwin":
        return apples
    on_bus = pci.probe(machine) if machine.system == "Linux" else ()
    found = [nvidia.probe(machine)]
    for vendor, probe in (("AMD", amd.probe), ("Intel", intel.probe)):
        theirs = tuple(gpu for gpu in on_bus if gpu.vendor == vendor)
        # Where the bus can be seen and shows none, no tool need be asked.
        if theirs or not machine.names(pci.DEVICES):
            found.append(probe(machine, theirs))
    more = windows.gpus(machine) if machine.system == "Windows" else on_bus
    return merged(*found, more)


def _refreshed(machine: Machine, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Free memory of this moment, in the order of before."""
    by_maker = {"NVIDIA": nvidia.refreshed, "AMD": amd.refreshed, "Intel": intel.refreshed}
    found: dict[str, list[Gpu]] = {}
    for vendor in {gpu.vendor for gpu in gpus}:
        theirs = tuple(gpu for gpu in gpus if gpu.vendor == vendor)
        refresh = by_maker.get(vendor) if machine.system != "Darwin" else None
        found[vendor] = list(refresh(machine, theirs) if refresh is not None else theirs)
    return tuple(found[gpu.vendor].pop(0) for gpu in gpus)


def _momentary(machine: Machine, lasting: Hardware, counts: Counts) -> Hardware:
    limit = cgroups.cpu_limit(read=lambda path: machine.text(path.as_posix())) if machine.system == "Linux" else None
    now = memory.probe(machine, counts, lasting.total_bytes)
    logical = _least(counts.usable_threads or lasting.num_logical_cores, limit)
    return replace(
        lasting,
        num_physical_cores=_least(counts.physical_cores or lasting.num_physical_cores, logical),
        num_logical_cores=logical,
        total_bytes=now.total_bytes,
        available_bytes=now.available_bytes,
        swap_total_bytes=now.swap_total_bytes,
        swap_free_bytes=now.swap_free_bytes,
        memory_limit_bytes=now.limit_bytes,
        cpu_limit=limit,
    )


def _least(*counts: int | None) -> int | None:
    return min((count for count in counts if count), default=None)


def _backends(machine: Machine, gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    """What the drivers that are there let an engine use."""
    makers = {gpu.vendor for gpu in gpus}
    allowed = {
        "cuda": any(gpu.vendor == "NVIDIA" and gpu.cuda_version is not None for gpu in gpus),
        "rocm": "AMD" in makers and bool(machine.names(amd.NODES)) and any(gpu.architecture for gpu in gpus),
        "sycl": "Intel" in makers and machine.library(*_LEVEL_ZERO.get(machine.system, ())) is not None,
        "metal": machine.system == "Darwin" and any(gpu.vendor == apple.APPLE or gpu.architecture for gpu in gpus),
        "vulkan": bool(gpus) and machine.library(*_VULKAN.get(machine.system, ())) is not None,
    }
    return tuple(name for name, is_allowed in allowed.items() if is_allowed)
