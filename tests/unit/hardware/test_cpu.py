"""The processor and memory: texts of real machines, and what this one says."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from zhibei.hardware import cgroups
from zhibei.hardware.cgroups import MemoryLimit
from zhibei.hardware.detect import detect
from zhibei.hardware.probes import cpu

GIB = 1 << 30

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
        (INTEL, "Intel(R) Xeon(R) Platinum 8480+", ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")),
        (AMD, "AMD Ryzen 9 7950X 16-Core Processor", ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")),
        (OLD, "Intel(R) Core(TM)2 Duo CPU     E8400  @ 3.00GHz", ()),
        (ARM, None, ("asimddp", "i8mm", "sve")),
        (RASPBERRY, None, ()),
        ("", None, ()),
        (None, None, ()),
        ("model name\nflags\n", None, ()),
    ],
)
def test_cpuinfo(text: str | None, name: str | None, features: tuple[str, ...]) -> None:
    assert cpu.cpu_name(text) == name
    assert cpu.cpu_features(text) == features


@pytest.mark.parametrize(
    ("physical", "affinity", "limit", "cores", "threads"),
    [
        (8, 16, None, 8, 16),
        (8, 4, None, 4, 4),
        (8, 16, 2, 2, 2),
        (8, 16, 12, 8, 12),
        (None, 16, None, 16, 16),
        (0, 4, None, 4, 4),
    ],
)
def test_cores(
    monkeypatch: pytest.MonkeyPatch, physical: int | None, affinity: int, limit: int | None, cores: int, threads: int
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 99 if logical else physical)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_affinity=lambda: list(range(affinity))))
    assert (cpu.physical_cores(limit), cpu.logical_cores(limit)) == (cores, threads)


def test_cores_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS knows none."""
    counts = {True: 10, False: 8}
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: counts[logical])
    monkeypatch.setattr(psutil, "Process", SimpleNamespace)
    assert (cpu.physical_cores(), cpu.logical_cores()) == (8, 10)
    counts.update({True: None, False: None})  # type: ignore[dict-item]
    assert (cpu.physical_cores(), cpu.logical_cores()) == (None, None)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([], (16 * GIB, 10 * GIB)),
        ([MemoryLimit(9223372036854771712, 3 * GIB)], (16 * GIB, 10 * GIB)),
        ([MemoryLimit(16 * GIB, 15 * GIB)], (16 * GIB, 10 * GIB)),
        ([MemoryLimit(4 * GIB, GIB)], (4 * GIB, 3 * GIB)),
        ([MemoryLimit(4 * GIB, None)], (4 * GIB, 4 * GIB)),
        ([MemoryLimit(12 * GIB, GIB)], (12 * GIB, 10 * GIB)),
        ([MemoryLimit(4 * GIB, 5 * GIB)], (4 * GIB, 0)),
        ([MemoryLimit(4 * GIB, GIB), MemoryLimit(8 * GIB, 7 * GIB)], (4 * GIB, GIB)),
    ],
)
def test_memory(monkeypatch: pytest.MonkeyPatch, limits: list[MemoryLimit], expected: tuple[int, int]) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=10 * GIB))
    assert cpu.memory(limits) == expected


def test_this_machine() -> None:
    found = detect()
    system = psutil.virtual_memory()
    assert found.total_bytes is not None and found.available_bytes is not None
    assert 0 < found.available_bytes <= found.total_bytes <= system.total
    assert found.num_physical_cores is not None and found.num_logical_cores is not None
    assert 1 <= found.num_physical_cores <= found.num_logical_cores <= (psutil.cpu_count() or 1)
    assert found.cpu_name is None or found.cpu_name == found.cpu_name.strip() != ""


def test_what_cannot_be_found_is_not_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "read", lambda path: None)
    found = detect()
    assert (found.cpu_name, found.cpu_features, found.gpus) == (None, (), ())
