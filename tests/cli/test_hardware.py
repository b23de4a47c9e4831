"""``zhibei hardware``: the groups, JSON, and measuring."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from support.program import Program
from zhibei.cli import machine_text
from zhibei.cli.render import columns
from zhibei.cli.sections import lines
from zhibei.hardware.disk import Room
from zhibei.hardware.measured import MatrixSpeed, Measured, ReadSpeed, parse
from zhibei.i18n import Translator
from zhibei.plans import EngineInfo, Gpu, Hardware, Kernels

GIB = 1 << 30
MACHINE = Hardware(
    cpu_name="12th Gen Intel Core i7-12700H",
    num_physical_cores=14,
    num_logical_cores=20,
    total_bytes=32 * GIB,
    available_bytes=20 * GIB,
    gpus=(
        Gpu(
            "NVIDIA GeForce RTX 3060 Laptop GPU",
            "NVIDIA",
            6 * GIB,
            5 * GIB,
            bandwidth_bytes_per_s=336 * 10**9,
            architecture="sm_86",
            driver_version="550.54",
            cuda_version="12.4",
            has_display=True,
        ),
        Gpu("Intel Iris Xe", "Intel", shared_bytes=16 * GIB, is_integrated=True),
    ),
    cpu_features=("avx2", "avx_vnni"),
    num_performance_cores=6,
    num_efficiency_cores=8,
    l2_bytes=12 << 20,
    l3_bytes=24 << 20,
    swap_total_bytes=8 * GIB,
    swap_free_bytes=8 * GIB,
    memory_limit_bytes=16 * GIB,
    cpu_limit=4,
    memory_kind="DDR5",
    memory_transfers_per_s=4800 * 10**6,
    num_memory_modules=2,
    system="Ubuntu",
    system_version="24.04",
    container="docker",
    virtual_machine="wsl2",
    npus=("Intel AI Boost",),
    backends=("cuda", "vulkan"),
)
DOCUMENT = {"version": 1, "fingerprint": "f", "measured_at": "2026-01-02T03:04:05+00:00", "disk_bytes_per_s": 3 * 10**9}
ENGINE = EngineInfo("llama.cpp", True, "2026.1")
EXPECTED = """\
Processor
  Model            12th Gen Intel Core i7-12700H
  Cores            14, 20 threads (6 fast, 8 efficient)
  Limit            4 processors for this container or group
  Instructions     AVX2, AVX-VNNI
  Caches           L2 12.0 MiB, L3 24.0 MiB
  Matrix product   Q4_0 210 GFLOP/s (measured)
  NPU              Intel AI Boost

Memory
  Total            32.0 GiB
  Free             20.0 GiB
  Limit            16.0 GiB for this container or group
  Swap             8.0 GiB of 8.0 GiB free
  Kind             DDR5-4800, modules: 2
  Read speed       61.5 GB/s (measured, threads: 8)

Graphics
  gpu0             NVIDIA GeForce RTX 3060 Laptop GPU · sm_86
  Own memory       5.0 GiB of 6.0 GiB free
  Further          336 GB/s, driver 550.54, CUDA 12.4, drives a screen
  gpu1             Intel Iris Xe
  Own memory       16.0 GiB of the system's

Disk
  For models       90.0 GiB of 500 GiB free
  Read speed       3.0 GB/s (measured)

System
  Name             Ubuntu 24.04
  Container        docker
  Virtual machine  wsl2

Engines
  llama.cpp        2026.1, on CPU
  Possible too     CUDA, Vulkan: the drivers are there, but no engine here uses
                   them
"""


def told(hardware: Hardware, measured: Measured | None, engines: tuple[EngineInfo, ...], width: int = 80) -> str:
    text = Translator("en").text
    sections = machine_text.sections(hardware, measured, Room(500 * GIB, 90 * GIB), engines, text)
    return "\n".join(lines(sections, width)) + "\n"


def test_a_machine_in_words() -> None:
    found = parse(DOCUMENT)
    assert found is not None
    measured = Measured(
        "f",
        found.measured_at,
        read=(ReadSpeed(1, 20 * 10**9), ReadSpeed(8, 61_500_000_000)),
        disk_bytes_per_s=found.disk_bytes_per_s,
        matrix=(MatrixSpeed("Q4_0", 1, 30 * 10**9), MatrixSpeed("Q4_0", 14, 210 * 10**9)),
    )
    assert told(MACHINE, measured, (ENGINE,)) == EXPECTED


def engine_lines(kernels: Kernels | None) -> list[str]:
    found = told(Hardware("x", 1, 1, GIB, GIB), None, (replace(ENGINE, kernels=kernels),), width=200)
    return found.partition("Engines\n")[2].splitlines()[1:]


def test_kernels_are_told_beside_their_engine() -> None:
    assert engine_lines(None) == []
    assert engine_lines(Kernels("0.1.0", "avx2")) == ["  zhibei-kernels  0.1.0, avx2"]
    assert engine_lines(Kernels("0.1.0", "avx2", attention=True)) == ["  zhibei-kernels  0.1.0, avx2, with attention"]
    assert engine_lines(Kernels(None, None, problem="x is wrong")) == ["  zhibei-kernels  not used: x is wrong"]
    assert engine_lines(Kernels(None, None, problem="x is wrong", hint="Do y")) == [
        "  zhibei-kernels  not used: x is wrong. Do y"
    ]


@pytest.mark.parametrize("width", [60, 44])
def test_narrow_terminals_wrap(width: int) -> None:
    assert max(map(columns, told(MACHINE, None, (ENGINE,), width).splitlines())) <= width


def test_what_is_not_known_is_not_invented() -> None:
    shown = told(Hardware(None, None, None, None, None), None, (EngineInfo("llama.cpp", False),))
    assert shown.count("not known") == 5
    assert "Swap" not in shown and "Caches" not in shown and "0" not in shown.replace("90.0", "").replace("500", "")
    assert "not installed" in shown
    assert "No graphics processor was found" in shown


def test_this_machine(program: Program) -> None:
    ran = program("hardware")
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line and not line.startswith(" ")] == [
        "Processor",
        "Memory",
        "Graphics",
        "Disk",
        "System",
        "Engines",
    ]
    assert ran.err == "Nothing was measured here yet. Measure: zhibei hardware --measure\n"
    assert not program.home.exists()


def test_measuring_is_kept_and_shown_again(program: Program) -> None:
    first = json.loads(program("hardware", "--measure", "--json").out)
    assert first["measured"]["read"][0]["bytes_per_s"] > 0
    again = program("hardware", "--json")
    assert json.loads(again.out)["measured"] == first["measured"]
    assert first["total_bytes"] > 0
    assert {"name", "installed", "version", "devices", "kernels"} == set(first["engines"][0])
    assert first["disk"]["total_bytes"] >= first["disk"]["free_bytes"] > 0
    assert "(measured, threads:" in program("hardware").out


def test_mistakes(program: Program) -> None:
    ran = program("hardware", "--fast")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: There is no option --fast.\n")
