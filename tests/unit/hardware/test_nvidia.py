"""NVIDIA: a library that answers as NVML does, and what the tool prints where the library cannot be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unit.hardware.replay import Replay
from zhibei.hardware.detect import Detector
from zhibei.hardware.probes import nvidia, nvidia_smi, nvml
from zhibei.plans import Gpu

GIB = 1 << 30
OK, NOT_SUPPORTED, UNKNOWN = 0, 3, 999
CARD = {
    "name": b"NVIDIA GeForce RTX 3090",
    "uuid": b"GPU-11111111",
    "bus": b"00000000:01:00.0",
    "memory": (24 * GIB, 23 * GIB),
    "capability": (8, 6),
    "width": 384,
    "clock": 9751,
    "display": 1,
    "mig": None,
}


class Library:
    """NVML's functions over a list of cards. A fact that is None answers "not supported"."""

    def __init__(self, *cards: dict[str, Any], driver: bytes = b"550.54.14", cuda: int = 12040, start: int = OK) -> None:
        self.cards, self.driver, self.cuda, self.start = cards, driver, cuda, start

    def nvmlInit_v2(self) -> int:
        return self.start

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        return self._put(count, len(self.cards))

    def nvmlSystemGetDriverVersion(self, text: Any, size: Any) -> int:
        return self._write(text, self.driver)

    def nvmlSystemGetCudaDriverVersion_v2(self, number: Any) -> int:
        return self._put(number, self.cuda)

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        return self._put(handle, index.value + 1)

    def nvmlDeviceGetHandleByPciBusId_v2(self, address: bytes, handle: Any) -> int:
        found = [i for i, card in enumerate(self.cards) if card["bus"].lower().endswith(address)]
        return self._put(handle, found[0] + 1) if found else UNKNOWN

    def nvmlDeviceGetName(self, handle: Any, text: Any, size: Any) -> int:
        return self._write(text, self._card(handle)["name"])

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, size: Any) -> int:
        return self._write(text, self._card(handle)["uuid"])

    def nvmlDeviceGetPciInfo_v3(self, handle: Any, pci: Any) -> int:
        pci._obj.bus_id = self._card(handle)["bus"]
        return OK

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        known = self._card(handle)["memory"]
        if known is None:
            return NOT_SUPPORTED
        memory._obj.total, memory._obj.free = known
        return OK

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        return self._put_pair(self._card(handle)["capability"], major, minor)

    def nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> int:
        return self._put_pair(self._card(handle)["mig"], current, pending)

    def nvmlDeviceGetMemoryBusWidth(self, handle: Any, width: Any) -> int:
        return self._put(width, self._card(handle)["width"])

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, kind: Any, clock: Any) -> int:
        assert kind.value == 2
        return self._put(clock, self._card(handle)["clock"])

    def nvmlDeviceGetDisplayActive(self, handle: Any, display: Any) -> int:
        return self._put(display, self._card(handle)["display"])

    def _card(self, handle: Any) -> dict[str, Any]:
        return self.cards[handle.value - 1]

    def _put(self, pointer: Any, value: int | None) -> int:
        if value is None:
            return NOT_SUPPORTED
        pointer._obj.value = value
        return OK

    def _put_pair(self, values: tuple[int, int] | None, first: Any, second: Any) -> int:
        if values is None:
            return NOT_SUPPORTED
        first._obj.value, second._obj.value = values
        return OK

    def _write(self, text: Any, value: bytes | None) -> int:
        if value is None:
            return NOT_SUPPORTED
        text.value = value
        return OK


def machine(library: object, **more: Any) -> Replay:
    return Replay(libraries={"libnvidia-ml.so.1": library}, **more)


def test_all_facts_of_a_card() -> None:
    assert nvml.probe(machine(Library(CARD))) == (
        Gpu(
            "NVIDIA GeForce RTX 3090",
            "NVIDIA",
            total_bytes=24 * GIB,
            free_bytes=23 * GIB,
            is_integrated=False,
            bandwidth_bytes_per_s=936_096_000_000,
            architecture="sm_86",
            driver_version="550.54.14",
            cuda_version="12.4",
            has_display=True,
            pci_address="0000:01:00.0",
            uuid="GPU-11111111",
        ),
    )


@pytest.mark.parametrize(
    ("width", "clock", "gigabytes"),
    [(384, 3615, 347), (384, 2505, 240), (5120, 2619, 3352), (384, 10501, 1008), (512, 14001, 1792), (384, 9751, 936)],
    ids=["P40", "K80", "H100", "4090", "5090", "3090"],
)
def test_bandwidth_is_that_of_the_data_sheets(width: int, clock: int, gigabytes: int) -> None:
    (gpu,) = nvml.probe(machine(Library(CARD | {"width": width, "clock": clock})))
    assert round((gpu.bandwidth_bytes_per_s or 0) / 1e9) == gigabytes


def test_what_a_driver_does_not_tell_stays_open() -> None:
    unknown = dict.fromkeys(CARD) | {"bus": b""}
    (gpu,) = nvml.probe(machine(Library(unknown, driver=b"\x1b[31m", cuda=7)))
    assert gpu == Gpu("NVIDIA GPU", "NVIDIA", is_integrated=True)


def test_numbers_out_of_bounds_are_dropped() -> None:
    wild = CARD | {"memory": (1 << 60, 1 << 61), "width": 0, "clock": 4_000_000_000, "capability": (200, 1)}
    (gpu,) = nvml.probe(machine(Library(wild)))
    assert (gpu.total_bytes, gpu.free_bytes, gpu.bandwidth_bytes_per_s, gpu.architecture) == (None, None, None, None)


def test_partitions_are_noted() -> None:
    assert [gpu.is_partitioned for gpu in nvml.probe(machine(Library(CARD | {"mig": (1, 1)}, CARD | {"mig": (0, 0)})))] == [
        True,
        False,
    ]


class Incomplete:
    """A library of an old driver, without most functions."""

    def nvmlInit_v2(self) -> int:
        return OK


@pytest.mark.parametrize("library", [Library(CARD, start=9), Incomplete(), object(), Library()])
def test_a_library_that_is_no_help(library: object) -> None:
    assert nvml.probe(machine(library)) == ()


def test_the_tool_is_asked_only_without_the_library() -> None:
    both = machine(Library(CARD), outputs={"nvidia-smi --query-gpu": "name\nOther\n"})
    assert [gpu.name for gpu in nvidia.probe(both)] == ["NVIDIA GeForce RTX 3090"]
    assert both.asked == []
    both.libraries.clear()
    assert [gpu.name for gpu in nvidia.probe(both)] == ["Other"]
    assert nvidia.probe(Replay("Darwin", outputs=both.outputs)) == ()


def test_free_memory_is_that_of_the_moment() -> None:
    cards = [dict(CARD), CARD | {"bus": b"00000000:02:00.0", "memory": (24 * GIB, 20 * GIB)}]
    detector = Detector(machine(Library(*cards)))
    assert [gpu.free_bytes for gpu in detector().gpus] == [23 * GIB, 20 * GIB]
    cards[0]["memory"], cards[1]["memory"] = (24 * GIB, 5 * GIB), (24 * GIB, 6 * GIB)
    assert [gpu.free_bytes for gpu in detector().gpus] == [5 * GIB, 6 * GIB]


def test_a_driver_that_hung_is_not_waited_for_again() -> None:
    now = [0.0]

    class Slow(Library):
        def nvmlDeviceGetHandleByPciBusId_v2(self, address: bytes, handle: Any) -> int:
            now[0] += 3.0
            return super().nvmlDeviceGetHandleByPciBusId_v2(address, handle)

    detector = Detector(machine(Slow(CARD)), lambda: now[0])
    free = [detector().gpus[0].free_bytes for _ in range(4)]
    assert free == [23 * GIB, 23 * GIB, None, None]
    assert now == [3.0]


def test_free_memory_of_a_card_that_is_gone_is_unknown() -> None:
    look = machine(Library(CARD))
    detector = Detector(look)
    before = detector().gpus
    look.libraries["libnvidia-ml.so.1"] = Library()
    assert detector().gpus == tuple(replace(gpu, free_bytes=None) for gpu in before)


VALUES = """name, uuid, pci.bus_id, driver_version, memory.total [MiB], memory.free [MiB], compute_cap, display_active, \
mig.mode.current
NVIDIA GeForce RTX 4070 Ti, GPU-2222, 00000000:0A:00.0, 555.85, 12282 MiB, 10999 MiB, 8.9, Enabled, [N/A]
NVIDIA A100-SXM4-80GB, GPU-3333, 00000000:0B:00.0, 555.85, 81920 MiB, 81000 MiB, 8.0, Disabled, Enabled
"""


def test_the_table_of_values() -> None:
    first, second = nvidia_smi.parse_values(VALUES, "12.5")
    assert first == Gpu(
        "NVIDIA GeForce RTX 4070 Ti",
        "NVIDIA",
        total_bytes=12282 << 20,
        free_bytes=10999 << 20,
        is_integrated=False,
        architecture="sm_89",
        driver_version="555.85",
        cuda_version="12.5",
        has_display=True,
        pci_address="0000:0a:00.0",
        uuid="GPU-2222",
    )
    assert (second.is_partitioned, second.has_display, second.total_bytes) == (True, False, 81920 << 20)


@pytest.mark.parametrize(
    "text",
    ["", "\x00", "name", "name\n", "a,b\n1,2\n", 'Field "compute_cap" is not a valid field to query.', "name\n,,,\n", '"name\n'],
)
def test_values_that_say_nothing(text: str) -> None:
    assert nvidia_smi.parse_values(text) == ()


def test_values_of_a_hostile_tool_are_bounded() -> None:
    text = f"name, memory.total [MiB], compute_cap\nx{'y' * 500}\x1b[2J, {'9' * 40} MiB, 999.9\n"
    (gpu,) = nvidia_smi.parse_values(text)
    assert len(gpu.name) <= 128 and gpu.name.isprintable()
    assert (gpu.total_bytes, gpu.architecture) == (None, None)


def test_free_memory_by_the_tool() -> None:
    look = Replay(outputs={"nvidia-smi --query-gpu": VALUES})
    detector = Detector(look)
    detector()
    look.outputs["nvidia-smi --query-gpu"] = "name, pci.bus_id, memory.free [MiB]\nA, 00000000:0B:00.0, 7 MiB\n"
    assert [gpu.free_bytes for gpu in detector().gpus] == [None, 7 << 20]
