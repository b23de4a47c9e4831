"""NVIDIA's management library, called through ctypes. It comes with the driver; nothing is installed for it."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char, c_int, c_uint, c_ulonglong, c_void_p
from dataclasses import replace
from typing import Any

from zhibei.hardware.machine import PATIENCE_S, Machine, within
from zhibei.hardware.quantities import label, pci_address, version, whole
from zhibei.plans import Gpu

_LIBRARIES = {
    "Linux": (
        "libnvidia-ml.so.1",
        "/usr/lib/wsl/lib/libnvidia-ml.so.1",
        "/run/opengl-driver/lib/libnvidia-ml.so.1",
    ),
    "Windows": ("C:\\Windows\\System32\\nvml.dll",),
}
_SUCCESS, _NOT_SUPPORTED = 0, 3
_CLOCK_MEMORY = 2
_MAX_GPUS = 64


class _Memory(ctypes.Structure):
    _fields_ = [("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong)]


class _Pci(ctypes.Structure):
    _fields_ = [
        ("bus_id_legacy", c_char * 16),
        ("domain", c_uint),
        ("bus", c_uint),
        ("device", c_uint),
        ("device_id", c_uint),
        ("subsystem_id", c_uint),
        ("bus_id", c_char * 32),
    ]


def probe(machine: Machine) -> tuple[Gpu, ...]:
    """All GPUs that the driver knows; none without driver, or if it does not answer in time."""
    return within(PATIENCE_S, lambda: _probe(machine)) or ()


def refreshed(machine: Machine, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...] | None:
    """The same GPUs with the free memory of this moment; None if the library does not tell."""
    return within(PATIENCE_S, lambda: _refreshed(machine, gpus))


def _open(machine: Machine) -> Any | None:
    library = machine.library(*_LIBRARIES.get(machine.system, ()))
    return library if library is not None and library.nvmlInit_v2() == _SUCCESS else None


def _probe(machine: Machine) -> tuple[Gpu, ...]:
    library = _open(machine)
    count = None if library is None else _number(library.nvmlDeviceGetCount_v2)
    if library is None or count is None:
        return ()
    driver = version(_text(library.nvmlSystemGetDriverVersion))
    cuda = whole(_number(library.nvmlSystemGetCudaDriverVersion_v2), 1000, 999_999)
    common = Gpu(
        "NVIDIA GPU", "NVIDIA", driver_version=driver, cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None
    )
    gpus = []
    for index in range(min(count, _MAX_GPUS)):
        handle = c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(c_uint(index), byref(handle)) == _SUCCESS:
            gpus.append(_gpu(library, handle, common))
    return tuple(gpus)


def _gpu(library: Any, handle: c_void_p, common: Gpu) -> Gpu:
    memory, pci = _Memory(), _Pci()
    memory_status = library.nvmlDeviceGetMemoryInfo(handle, byref(memory))
    has_memory = memory_status == _SUCCESS
    has_pci = library.nvmlDeviceGetPciInfo_v3(handle, byref(pci)) == _SUCCESS
    partition = _pair(library.nvmlDeviceGetMigMode, handle, c_uint)
    display = _number(library.nvmlDeviceGetDisplayActive, handle)
    return replace(
        common,
        name=label(_text(library.nvmlDeviceGetName, handle)) or common.name,
        total_bytes=whole(int(memory.total), 1) if has_memory else None,
        free_bytes=whole(int(memory.free)) if has_memory else None,
        # Only processors whose memory is the system's answer that the question does not apply.
        is_integrated=False if has_memory else True if memory_status == _NOT_SUPPORTED else None,
        bandwidth_bytes_per_s=_bandwidth(library, handle),
        architecture=_architecture(library, handle),
        has_display=None if display is None else bool(display),
        is_partitioned=None if partition is None else bool(partition[0]),
        pci_address=pci_address(bytes(pci.bus_id).decode(errors="replace")) if has_pci else None,
        uuid=label(_text(library.nvmlDeviceGetUUID, handle)),
    )


def _bandwidth(library: Any, handle: c_void_p) -> int | None:
    """Bytes per second: bus width times memory clock, which NVML gives at half the transfers of each kind of memory."""
    bits = whole(_number(library.nvmlDeviceGetMemoryBusWidth, handle), 32, 1 << 16)
    clock = c_uint()
    status = library.nvmlDeviceGetMaxClockInfo(handle, c_uint(_CLOCK_MEMORY), byref(clock))
    megahertz = whole(int(clock.value), 100, 100_000) if status == _SUCCESS else None
    return None if bits is None or megahertz is None else bits // 8 * 2 * megahertz * 1_000_000


def _architecture(library: Any, handle: c_void_p) -> str | None:
    capability = _pair(library.nvmlDeviceGetCudaComputeCapability, handle, c_int)
    return None if capability is None or not 1 <= capability[0] < 100 else f"sm_{capability[0]}{capability[1]}"


def _refreshed(machine: Machine, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...] | None:
    library = _open(machine)
    return None if library is None else tuple(_with_free_memory(library, gpu) for gpu in gpus)


def _with_free_memory(library: Any, gpu: Gpu) -> Gpu:
    handle, memory = c_void_p(), _Memory()
    address = (gpu.pci_address or "").encode()
    found = library.nvmlDeviceGetHandleByPciBusId_v2(address, byref(handle)) == _SUCCESS
    if not found or library.nvmlDeviceGetMemoryInfo(handle, byref(memory)) != _SUCCESS:
        return replace(gpu, free_bytes=None)
    return replace(gpu, free_bytes=whole(int(memory.free)))


def _number(function: Any, *arguments: object) -> int | None:
    value = c_uint()
    return int(value.value) if function(*arguments, byref(value)) == _SUCCESS else None


def _pair(function: Any, handle: c_void_p, kind: type[c_int] | type[c_uint]) -> tuple[int, int] | None:
    first, second = kind(), kind()
    return (int(first.value), int(second.value)) if function(handle, byref(first), byref(second)) == _SUCCESS else None


def _text(function: Any, *arguments: object) -> str | None:
    text = ctypes.create_string_buffer(96)
    return text.value.decode(errors="replace") if function(*arguments, text, c_uint(len(text))) == _SUCCESS else None
