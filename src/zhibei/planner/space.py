"""The memory a model may fill: main memory, and the graphics processors that the engine at hand can use. Pure.

Decides which devices count; where on them what lies is decided in planner/placement.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zhibei.i18n import N_
from zhibei.planner import quality
from zhibei.planner.placement import Room
from zhibei.plans import Gpu, Hardware, Reason

# Left free whatever has been taken: numbers of what is free are never quite true.
MARGIN_SHARE = 0.05
# Of a small machine the system gets no more than this.
RESERVE_SHARE = 0.25
# The first that both engine and drivers know; llama.cpp prefers a maker's own to the general one.
_PREFERRED = ("cuda", "rocm", "metal", "sycl", "vulkan")
_MAKERS = {"cuda": "NVIDIA", "rocm": "AMD", "metal": "Apple", "sycl": "Intel"}


@dataclass(frozen=True, slots=True)
class Space:
    """Memory for one model. ``main_bytes``: what may be taken; ``comfortable_bytes``: without what others should keep.

    None: not known. ``rooms`` are of ``gpus``; ``is_shared``: they lie in main memory. ``backend``: how they are used.
    """

    main_bytes: int | None
    comfortable_bytes: int | None
    gpus: tuple[Gpu, ...] = ()
    rooms: tuple[Room, ...] = ()
    is_shared: bool = False
    backend: str | None = None
    reasons: tuple[Reason, ...] = ()

    @property
    def total_bytes(self) -> int | None:
        """What may comfortably be filled, on all devices together."""
        if self.comfortable_bytes is None:
            return None
        if self.is_shared:
            return self.comfortable_bytes
        return self.comfortable_bytes + sum(room.usable_bytes for room in self.rooms)


def space_of(hardware: Hardware, extra_bytes: int = 0, devices: Sequence[str] | None = None) -> Space:
    """The space on a machine.

    Args:
        extra_bytes: main memory that can be freed.
        devices: what the engine can compute on; None: whatever the machine's drivers allow.
    """
    available = None if hardware.available_bytes is None else hardware.available_bytes + extra_bytes
    comfortable = None if available is None else _comfortable_bytes(hardware, available)
    backend, reasons = _backend(hardware, devices)
    gpus = _gpus(hardware, backend)
    space = Space(available, comfortable, backend=backend, reasons=reasons)
    if not gpus:
        return space
    is_shared = all(gpu.is_integrated for gpu in gpus)
    rooms = tuple(_room(gpu, comfortable) for gpu in gpus)
    return replace(space, gpus=gpus, rooms=rooms, is_shared=is_shared)


def _comfortable_bytes(hardware: Hardware, available: int) -> int:
    """What is free now, less a margin; and never what the system and a browser need, also where they do not run yet."""
    comfortable = int(available * (1 - MARGIN_SHARE))
    if hardware.total_bytes is not None and hardware.memory_limit_bytes is None:
        reserve = min(quality.tables().reserve_ram_bytes, int(hardware.total_bytes * RESERVE_SHARE))
        comfortable = min(comfortable, hardware.total_bytes - reserve)
    return comfortable


def _backend(hardware: Hardware, devices: Sequence[str] | None) -> tuple[str | None, tuple[Reason, ...]]:
    if not hardware.gpus:
        return ("cpu" if devices is not None and tuple(devices) == ("cpu",) else None), ()
    names = ", ".join(dict.fromkeys(gpu.name for gpu in hardware.gpus))
    if not hardware.backends:
        return "cpu", ((N_("{gpus} is not used: no driver was found that an engine could use."), {"gpus": names}),)
    known = [name for name in _PREFERRED if name in hardware.backends and (devices is None or name in devices)]
    if not known:
        return "cpu", (
            (N_("{gpus} is not used: the engine that is installed computes on the processor alone."), {"gpus": names}),
        )
    return known[0], ()


def _gpus(hardware: Hardware, backend: str | None) -> tuple[Gpu, ...]:
    """Those that the engine would use: one that is part of the processor only where there is no other."""
    if backend in (None, "cpu"):
        return ()
    maker = _MAKERS.get(backend or "")
    usable = [gpu for gpu in hardware.gpus if maker is None or gpu.vendor == maker]
    discrete = tuple(gpu for gpu in usable if not gpu.is_integrated and _known_bytes(gpu) is not None)
    return discrete or tuple(gpu for gpu in usable if gpu.is_integrated and gpu.shared_bytes is not None)[:1]


def _known_bytes(gpu: Gpu) -> int | None:
    return gpu.free_bytes if gpu.free_bytes is not None else gpu.total_bytes


def _room(gpu: Gpu, comfortable_bytes: int | None) -> Room:
    if gpu.is_integrated:
        shared = gpu.shared_bytes or 0
        return Room(shared if comfortable_bytes is None else min(shared, comfortable_bytes))
    # How much of it is taken already is not known: what a desktop takes is left.
    guessed = 0 if gpu.free_bytes is not None else quality.tables().reserve_display_bytes
    return Room(max(0, (_known_bytes(gpu) or 0) - guessed), bool(gpu.has_display))
