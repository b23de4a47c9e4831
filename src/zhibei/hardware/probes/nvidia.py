"""NVIDIA: the driver's library first, then its tool."""

from __future__ import annotations

from zhibei.hardware.machine import Machine
from zhibei.hardware.probes import nvidia_smi, nvml
from zhibei.plans import Gpu


def probe(machine: Machine) -> tuple[Gpu, ...]:
    """All GPUs that NVIDIA's driver knows."""
    if machine.system == "Darwin":
        return ()
    return nvml.probe(machine) or nvidia_smi.probe(machine)


def refreshed(machine: Machine, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The same GPUs with the free memory of this moment."""
    if not gpus:
        return gpus
    now = nvml.refreshed(machine, gpus)
    return nvidia_smi.refreshed(machine, gpus) if now is None else now
