"""All facts about this machine, in one value. Never raises for a fact that cannot be found."""

from __future__ import annotations

from zhibei.hardware import cgroups
from zhibei.hardware.probes import cpu
from zhibei.plans import Hardware


def detect() -> Hardware:
    """Ask every probe. Takes a few milliseconds; ``available_bytes`` is of this moment."""
    text = cpu.read_cpuinfo()
    total_bytes, available_bytes = cpu.memory(cgroups.memory_limits())
    cpu_limit = cgroups.cpu_limit()
    return Hardware(
        cpu_name=cpu.cpu_name(text),
        num_physical_cores=cpu.physical_cores(cpu_limit),
        num_logical_cores=cpu.logical_cores(cpu_limit),
        total_bytes=total_bytes,
        available_bytes=available_bytes,
        cpu_features=cpu.cpu_features(text),
    )
