"""Memory, swap, limits and modules."""

from __future__ import annotations

import pytest

from unit.hardware.replay import Replay
from zhibei.hardware.cgroups import MemoryLimit
from zhibei.hardware.machine import Counts
from zhibei.hardware.probes.memory import Memory, Modules, limited, modules, probe

GIB = 1 << 30
NOTHING = Counts()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([], (16 * GIB, 10 * GIB, None)),
        ([MemoryLimit(9223372036854771712, 3 * GIB)], (16 * GIB, 10 * GIB, None)),
        ([MemoryLimit(16 * GIB, 15 * GIB)], (16 * GIB, 10 * GIB, None)),
        ([MemoryLimit(4 * GIB, GIB)], (4 * GIB, 3 * GIB, 4 * GIB)),
        ([MemoryLimit(4 * GIB, None)], (4 * GIB, 4 * GIB, 4 * GIB)),
        ([MemoryLimit(12 * GIB, GIB)], (12 * GIB, 10 * GIB, 12 * GIB)),
        ([MemoryLimit(4 * GIB, 5 * GIB)], (4 * GIB, 0, 4 * GIB)),
        ([MemoryLimit(4 * GIB, GIB), MemoryLimit(8 * GIB, 7 * GIB)], (4 * GIB, GIB, 4 * GIB)),
    ],
)
def test_limits(limits: list[MemoryLimit], expected: tuple[int, int, int | None]) -> None:
    found = limited(Memory(16 * GIB, 10 * GIB, None, None, None), limits)
    assert (found.total_bytes, found.available_bytes, found.limit_bytes) == expected


def test_limits_where_little_is_known() -> None:
    assert limited(Memory(None, None, None, None, None), [MemoryLimit(GIB, 0)]).total_bytes is None
    assert limited(Memory(4 * GIB, None, None, None, None), [MemoryLimit(GIB, None)]).available_bytes is None
    assert limited(Memory(4 * GIB, None, None, None, None), [MemoryLimit(GIB, GIB // 4)]).available_bytes == GIB * 3 // 4


def test_the_group_of_this_process_limits() -> None:
    files = {
        "/proc/meminfo": "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n",
        "/proc/self/cgroup": "0::/jobs\n",
        "/sys/fs/cgroup/jobs/memory.max": f"{4 * GIB}\n",
        "/sys/fs/cgroup/jobs/memory.current": f"{GIB}\n",
    }
    found = probe(Replay(files=files), NOTHING)
    assert (found.total_bytes, found.available_bytes, found.limit_bytes) == (4 * GIB, 3 * GIB, 4 * GIB)


def test_numbers_that_make_no_sense() -> None:
    """WSL 1 wraps free swap around; some containers show the machine's available memory beside their own total."""
    text = "MemTotal: 1024 kB\nMemFree: 512 kB\nMemAvailable: 4096 kB\nSwapTotal: 0 kB\nSwapFree:18014396678257232 kB\n"
    found = probe(Replay(files={"/proc/meminfo": text}), NOTHING)
    assert (found.total_bytes, found.available_bytes) == (1 << 20, 1 << 19)
    assert (found.swap_total_bytes, found.swap_free_bytes) == (0, None)


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_elsewhere_the_system_counts(system: str) -> None:
    counts = Counts(8, 8, 16 * GIB, 9 * GIB, 2 * GIB, GIB)
    found = probe(Replay(system, files={"/proc/meminfo": "MemTotal: 1 kB\nMemAvailable: 1 kB\n"}), counts)
    assert found == Memory(16 * GIB, 9 * GIB, None, 2 * GIB, GIB)
    assert probe(Replay(system), NOTHING, 8 * GIB).total_bytes == 8 * GIB


UDEV = """I:1
E:MEMORY_ARRAY_NUM_DEVICES=4
E:MEMORY_DEVICE_0_PRESENT=0
E:MEMORY_DEVICE_1_SIZE=17179869184
E:MEMORY_DEVICE_1_TYPE=DDR5
E:MEMORY_DEVICE_1_SPEED_MTS=5600
E:MEMORY_DEVICE_1_CONFIGURED_SPEED_MTS=5200
E:MEMORY_DEVICE_3_SIZE=17179869184
E:MEMORY_DEVICE_3_TYPE=DDR5
E:MEMORY_DEVICE_3_SPEED_MTS=4800
"""
PATH = "/run/udev/data/+dmi:id"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (UDEV, Modules("DDR5", 4_800_000_000, 2)),
        (UDEV.replace("TYPE=DDR5", "TYPE=<OUT OF SPEC>"), Modules(None, 4_800_000_000, 2)),
        (UDEV.replace("SPEED_MTS=4800", "SPEED_MTS=Unknown"), Modules("DDR5", None, 2)),
        (UDEV.replace("DDR5", "LPDDR5x"), Modules("LPDDR5x", 4_800_000_000, 2)),
        ("E:MEMORY_DEVICE_0_PRESENT=0\n", Modules()),
        ("", Modules()),
    ],
)
def test_modules_in_the_notes_of_udev(text: str, expected: Modules) -> None:
    assert modules(Replay(files={PATH: text})) == expected


def test_the_kind_by_the_error_counters() -> None:
    files = {"/sys/devices/system/edac/mc/mc0/dimm0/dimm_mem_type": "Registered-DDR4\n"}
    assert modules(Replay(files=files)) == Modules("DDR4")
    assert modules(Replay("Darwin", files=files)) == Modules()
