"""This machine, all that is known of it at once: hardware, measurements, disk, engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zhibei.engines.registry import AUTOMATIC, create
from zhibei.hardware import bandwidth, disk
from zhibei.hardware.detect import detect
from zhibei.hardware.disk import Room
from zhibei.hardware.measured import Measured
from zhibei.plans import EngineInfo, Hardware


@dataclass(frozen=True, slots=True)
class Machine:
    """``measured`` None: never measured. ``room``: on the disk of the models; None: the system does not tell."""

    hardware: Hardware
    measured: Measured | None
    room: Room | None
    engines: tuple[EngineInfo, ...]


def machine(home: Path) -> Machine:
    """This machine as it is now; ``home`` is where models and state are kept. Measures nothing."""
    hardware = detect()
    return Machine(hardware, bandwidth.kept(home / "state", hardware), disk.room(home), engines_here())


def engines_here() -> tuple[EngineInfo, ...]:
    """What the engines say of themselves; those for tests are left out."""
    return tuple(create(name).probe() for name in AUTOMATIC)
