"""What a machine has left for one more model. Pure: the machine and the models on it in, a machine out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from zhibei.hardware.measured import Measured, with_measured
from zhibei.planner.space import space_of
from zhibei.plans import Gpu, Hardware
from zhibei.runtime.scheduler import Model
from zhibei.runtime.vacancy import room_bytes, room_gpu_bytes


def left_on(
    hardware: Hardware, running: Collection[Model], freed: Sequence[Model], devices: tuple[str, ...], measured: Measured | None
) -> Hardware:
    """The machine as a plan is to see it beside ``running``, at the moment when those in ``freed`` are gone.

    Main memory is what is free now: what the freed ones hold is told to a plan on its own.
    """
    room = room_bytes(running, hardware.available_bytes, hardware.total_bytes)
    used = space_of(hardware, devices=devices).gpus
    free = room_gpu_bytes(running, _free_bytes(used))
    gone = [sum(m.gpu_bytes[number] for m in freed if number < len(m.gpu_bytes)) for number in range(len(used))]
    # Starting models have not taken theirs yet: it was never missing from what is free.
    now = {id(gpu): free[number] + gone[number] for number, gpu in enumerate(used) if gpu.free_bytes is not None}
    gpus = tuple(replace(gpu, free_bytes=now[id(gpu)]) if id(gpu) in now else gpu for gpu in hardware.gpus)
    return replace(with_measured(hardware, measured), available_bytes=room, gpus=gpus)


def free_gpu_bytes(hardware: Hardware, devices: tuple[str, ...]) -> tuple[int, ...]:
    """Of each graphics processor that an engine for these devices uses."""
    return _free_bytes(space_of(hardware, devices=devices).gpus)


def _free_bytes(gpus: Sequence[Gpu]) -> tuple[int, ...]:
    return tuple(gpu.free_bytes or gpu.total_bytes or gpu.shared_bytes or 0 for gpu in gpus)
