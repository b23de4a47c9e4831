"""A machine in words: what it has, what was measured, what limits it. Facts that are not known are left out; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from zhibei.cli.sections import Section
from zhibei.plans import EngineInfo, Gpu, Hardware, Kernels
from zhibei.units import format_bytes

if TYPE_CHECKING:
    from zhibei.hardware.disk import Room
    from zhibei.hardware.measured import MatrixSpeed, Measured

_FEATURES = {
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
    "amx_tile": "AMX",
    "avx512_fp16": "AVX-512 FP16",
    "asimddp": "DOTPROD",
}
_BACKENDS = {"cpu": "CPU", "cuda": "CUDA", "rocm": "ROCm", "sycl": "SYCL", "metal": "Metal", "vulkan": "Vulkan"}


class Texts(Protocol):
    """Fills a template in the person's language."""

    def __call__(self, template: str, /, **values: object) -> str: ...


def sections(
    hardware: Hardware, measured: Measured | None, room: Room | None, engines: Sequence[EngineInfo], text: Texts
) -> list[Section]:
    """All that is known, in groups."""
    return [
        Section(text("Processor"), _processor(hardware, measured, text)),
        Section(text("Memory"), _memory(hardware, measured, text)),
        Section(text("Graphics"), _graphics(hardware, text)),
        Section(text("Disk"), _disk(measured, room, text)),
        Section(text("System"), _system(hardware, text)),
        Section(text("Engines"), _engines(hardware, engines, text)),
    ]


def rate(bytes_per_s: float | None) -> str:
    """``63 GB/s``: rates of memory are told in powers of ten."""
    if bytes_per_s is None:
        return ""
    for factor, unit in ((10**9, "GB/s"), (10**6, "MB/s"), (10**3, "KB/s")):
        if bytes_per_s >= factor:
            value = bytes_per_s / factor
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{bytes_per_s:.0f} B/s"


def backend_names(names: Sequence[str]) -> str:
    """``CUDA, Vulkan``."""
    return ", ".join(_BACKENDS.get(name, name) for name in names)


def _processor(hardware: Hardware, measured: Measured | None, text: Texts) -> list[tuple[str, str]]:
    caches = [("L1d", hardware.l1d_bytes), ("L2", hardware.l2_bytes), ("L3", hardware.l3_bytes)]
    limit = hardware.cpu_limit
    return [
        (text("Model"), hardware.cpu_name or text("not known")),
        (text("Cores"), cores(hardware, text)),
        (text("Limit"), text("{count} processors for this container or group", count=limit) if limit else ""),
        (text("Instructions"), instructions(hardware)),
        (text("Caches"), ", ".join(f"{name} {format_bytes(size)}" for name, size in caches if size)),
        (text("NUMA nodes"), _if_many(hardware.num_numa_nodes)),
        (text("Matrix product"), _matrix(measured.matrix if measured else (), text)),
        (text("NPU"), ", ".join(hardware.npus)),
    ]


def instructions(hardware: Hardware) -> str:
    """``AVX2, AVX-VNNI``."""
    return ", ".join(_FEATURES.get(name, name.upper()) for name in hardware.cpu_features)


def cores(hardware: Hardware, text: Texts) -> str:
    """``14, 20 threads (6 fast, 8 efficient)``."""
    count, threads = hardware.num_physical_cores, hardware.num_logical_cores
    if count is None and threads is None:
        return text("not known")
    told = str(count) if count is not None else text("{threads} threads", threads=threads)
    if count is not None and threads is not None and threads != count:
        told = text("{cores}, {threads} threads", cores=count, threads=threads)
    if hardware.num_performance_cores and hardware.num_efficiency_cores:
        fast, slow = hardware.num_performance_cores, hardware.num_efficiency_cores
        told += text(" ({fast} fast, {slow} efficient)", fast=fast, slow=slow)
    return told


def _matrix(speeds: Sequence[MatrixSpeed], text: Texts) -> str:
    """The best of each kind; it is what reading a prompt waits for."""
    best: dict[str, MatrixSpeed] = {}
    for speed in speeds:
        if speed.kind not in best or speed.ops_per_s > best[speed.kind].ops_per_s:
            best[speed.kind] = speed
    told = [f"{kind} {speed.ops_per_s / 1e9:.0f}" for kind, speed in best.items()]
    return text("{speeds} GFLOP/s (measured)", speeds=", ".join(told)) if told else ""


def _memory(hardware: Hardware, measured: Measured | None, text: Texts) -> list[tuple[str, str]]:
    total, free = hardware.total_bytes, hardware.available_bytes
    swap, swap_free = hardware.swap_total_bytes, hardware.swap_free_bytes
    limit = hardware.memory_limit_bytes
    return [
        (text("Total"), format_bytes(total) if total is not None else text("not known")),
        (text("Free"), format_bytes(free) if free is not None else text("not known")),
        (text("Limit"), text("{size} for this container or group", size=format_bytes(limit)) if limit else ""),
        (text("Swap"), _part(swap_free, swap, text) if swap else text("none") if swap == 0 else ""),
        (text("Kind"), _memory_kind(hardware, text)),
        (text("Read speed"), _reading(hardware, measured, text)),
        (text("Copy speed"), _copying(measured, text)),
    ]


def _copying(measured: Measured | None, text: Texts) -> str:
    speed = measured.copy_bytes_per_s if measured is not None else None
    return text("{rate} (measured, one thread)", rate=rate(speed)) if speed is not None else ""


def _reading(hardware: Hardware, measured: Measured | None, text: Texts) -> str:
    best = max(measured.read, key=lambda speed: speed.bytes_per_s, default=None) if measured else None
    if best is not None:
        return text("{rate} (measured, threads: {count})", rate=rate(best.bytes_per_s), count=best.num_threads)
    if hardware.bandwidth_bytes_per_s:
        return text("{rate} (by its kind)", rate=rate(hardware.bandwidth_bytes_per_s))
    return text("not measured")


def _memory_kind(hardware: Hardware, text: Texts) -> str:
    speed = hardware.memory_transfers_per_s
    kind = f"{hardware.memory_kind}-{speed // 10**6}" if hardware.memory_kind and speed else hardware.memory_kind or ""
    count = hardware.num_memory_modules
    return text("{kind}, modules: {count}", kind=kind, count=count) if kind and count else kind


def _graphics(hardware: Hardware, text: Texts) -> list[tuple[str, str]]:
    if not hardware.gpus:
        return [("", text("No graphics processor was found that an engine could use."))]
    rows = []
    for number, gpu in enumerate(hardware.gpus):
        rows.append((f"gpu{number}", f"{gpu.name}" + (f" · {gpu.architecture}" if gpu.architecture else "")))
        rows.append((text("Own memory"), gpu_memory(gpu, text)))
        facts = [rate(gpu.bandwidth_bytes_per_s), _driver(gpu, text), text("drives a screen") if gpu.has_display else ""]
        rows.append((text("Further"), ", ".join(filter(None, facts))))
    return rows


def gpu_memory(gpu: Gpu, text: Texts) -> str:
    """``5.0 GiB of 6.0 GiB free``."""
    own = _part(gpu.free_bytes, gpu.total_bytes, text) if gpu.total_bytes else ""
    shared = text("{size} of the system's", size=format_bytes(gpu.shared_bytes)) if gpu.shared_bytes else ""
    return "; ".join(filter(None, (own, shared))) or text("not known")


def _driver(gpu: Gpu, text: Texts) -> str:
    driver = text("driver {version}", version=gpu.driver_version) if gpu.driver_version else ""
    cuda = f"CUDA {gpu.cuda_version}" if gpu.cuda_version else ""
    return ", ".join(filter(None, (driver, cuda)))


def _part(free: int | None, total: int | None, text: Texts) -> str:
    if total is None:
        return ""
    if free is None:
        return format_bytes(total)
    return text("{free} of {total} free", free=format_bytes(free), total=format_bytes(total))


def _disk(measured: Measured | None, room: Room | None, text: Texts) -> list[tuple[str, str]]:
    speed = measured.disk_bytes_per_s if measured else None
    read = ""
    if speed is not None and measured is not None:
        read = text("{rate} (measured)", rate=rate(speed))
        if measured.is_disk_cached:
            read = text("{rate} (measured; the file may have come from memory)", rate=rate(speed))
    return [
        (text("For models"), _part(room.free_bytes, room.total_bytes, text) if room else text("not known")),
        (text("Read speed"), read),
    ]


def _system(hardware: Hardware, text: Texts) -> list[tuple[str, str]]:
    name = " ".join(filter(None, (hardware.system, hardware.system_version)))
    machine = hardware.virtual_machine
    return [
        (text("Name"), name or text("not known")),
        (text("Container"), hardware.container or ""),
        (text("Virtual machine"), text("yes") if machine == "other" else machine or ""),
    ]


def _engines(hardware: Hardware, engines: Sequence[EngineInfo], text: Texts) -> list[tuple[str, str]]:
    rows = []
    for engine in engines:
        told = text("{version}, on {devices}", version=engine.version or "", devices=backend_names(engine.devices))
        rows.append((engine.name, told if engine.installed else text("not installed")))
        if engine.installed and engine.kernels is not None:
            rows.append(("zhibei-kernels", _kernels(engine.kernels, text)))
    allowed = [name for name in hardware.backends if not any(engine.installed and name in engine.devices for engine in engines)]
    if allowed:
        told = text("{names}: the drivers are there, but no engine here uses them", names=backend_names(allowed))
        rows.append((text("Possible too"), told))
    return rows


def _kernels(kernels: Kernels, text: Texts) -> str:
    if kernels.problem is None:
        told = ", ".join(filter(None, (kernels.version, kernels.level)))
        return text("{told}, with attention", told=told) if kernels.attention else told
    problem = text("not used: {problem}", problem=kernels.problem)
    return f"{problem}. {text(kernels.hint)}" if kernels.hint is not None else problem


def _if_many(count: int | None) -> str:
    return str(count) if count is not None and count > 1 else ""
