"""The whole look at a machine: whatever it answers, there is an answer and no error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from unit.hardware.replay import Replay
from zhibei.hardware import detect as module
from zhibei.hardware.detect import Detector, detect
from zhibei.hardware.document import document

LINES = st.lists(
    st.sampled_from(
        """processor : 0|model name : x|flags : avx2 hypervisor|physical id : 9|cpu cores : 99999|siblings : -1|MemTotal: 10 kB
0-3|0x030000|0x1002|0x10de|0x8086|gfx_target_version 110000|location_id 99999999999|[{"asic": 5, "vram": {"size": 7}}]
{"card0": {"Card Series": 5, "VRAM Total Memory (B)": "x"}}|{"device_list": [{"device_id": 0, "device_name": "a"}]}
{"SPDisplaysDataType": [{"_name": "Apple M9", "sppci_cores": "many", "spdisplays_ndrvs": 5}], "SPMemoryDataType": 7}
|   0  Tesla K80           Off  | 00000000:00:04.0 Off |                    0 |||-----|CUDA Version: 99.9|Driver Version: ..
hw.perflevel0.physicalcpu: 4|hw.perflevel1.physicalcpu: 0|hw.memsize: -1|machdep.cpu.brand_string: Apple|1:memory:/../..
name, memory.total [MiB]|A, 5 MiB|Model name: y|CPU(s): 0|L2: 5 KiB|Flags: sve|NAME="|E:MEMORY_DEVICE_0_SIZE=1""".replace(
            "\n", "|"
        ).split("|")
    )
    | st.text(max_size=40),
    max_size=12,
)


class Babbler(Replay):
    """Says the same to every question."""

    said = ""

    def text(self, path: str) -> str | None:
        return self.said

    def names(self, directory: str) -> tuple[str, ...]:
        return ("0000:00:02.0", "card0", "dimm0", "0000:03:00.0")

    def target(self, link: str) -> str | None:
        return self.said[:20]

    def output(self, *command: str) -> str | None:
        return self.said

    def registry(self, key: str) -> Mapping[str, object]:
        return dict.fromkeys(
            ("DriverDesc", "MatchingDeviceId", "ProcessorNameString", "HardwareInformation.qwMemorySize"), self.said
        )


@settings(deadline=None, max_examples=150)
@given(system=st.sampled_from(["Linux", "Darwin", "Windows"]), lines=LINES)
def test_nothing_a_machine_says_is_an_error(system: str, lines: list[str]) -> None:
    machine = Babbler(system)
    machine.said = "\n".join(lines)
    detector = Detector(machine)
    for found in (document(detector()), document(detector())):
        check(found)
        for gpu in found["gpus"]:
            check(gpu)


def check(facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        if isinstance(value, str):
            assert value.isprintable() and len(value) <= 400, name
        elif isinstance(value, int):
            assert 0 <= value <= 1 << 60, name


def test_this_machine_is_asked_once_for_what_lasts() -> None:
    first, second = detect(), detect()
    assert module._this_machine() is module._this_machine()
    assert (first.cpu_name, first.l3_bytes, first.backends, first.system) == (
        second.cpu_name,
        second.l3_bytes,
        second.backends,
        second.system,
    )
