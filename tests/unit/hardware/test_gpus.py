"""AMD, Intel, Apple and Windows, and several answers about one card made one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from unit.hardware.replay import Replay
from zhibei.hardware.detect import Detector
from zhibei.hardware.gpus import merged
from zhibei.hardware.probes import amd, apple, intel, pci
from zhibei.plans import Gpu

GIB = 1 << 30
ADDRESS = "0000:03:00.0"
PATH = f"{pci.DEVICES}/{ADDRESS}"
PCI_IDS = """# list
1001  Kolter
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t73bf  Navi 21 [Radeon RX 6800/6800 XT / 6900 XT]
\t\t1002 0e3a  a board
# a remark
\t744c  Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]
10de  NVIDIA Corporation
\t744c  not this
"""


def on_bus(vendor: str, device: str, path: str = PATH, **files: str) -> dict[str, str]:
    facts = {"class": "0x030000", "vendor": vendor, "device": device, **files}
    return {f"{path}/{name}": f"{text}\n" for name, text in facts.items()}


def node(version: int, location: int, **facts: int) -> dict[str, str]:
    listed = {"gfx_target_version": version, "location_id": location, "domain": 0, **facts}
    text = "".join(f"{name} {value}\n" for name, value in listed.items())
    return {f"{amd.NODES}/0/properties": "cpu_cores_count 16\n", f"{amd.NODES}/1/properties": text}


def test_a_card_of_amd_by_the_kernels_files() -> None:
    files = on_bus(
        "0x1002", "0x744c", mem_info_vram_total=str(24 * GIB), mem_info_vram_used=str(GIB), mem_info_gtt_total=str(16 * GIB)
    )
    files |= node(110000, 0x300, simd_count=192, simd_per_cu=2) | {"/usr/share/misc/pci.ids": PCI_IDS}
    machine = Replay(files=files)
    found = Detector(machine)()
    assert found.gpus == (
        Gpu(
            "Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M",
            "AMD",
            total_bytes=24 * GIB,
            free_bytes=23 * GIB,
            is_integrated=False,
            architecture="gfx1100",
            num_cores=96,
            pci_address=ADDRESS,
        ),
    )
    assert found.backends == ("rocm",)
    assert not [asked for asked in machine.asked if "smi" in asked and "nvidia" not in asked]


@pytest.mark.parametrize(
    ("version", "target"), [(110501, "gfx1151"), (90010, "gfx90a"), (90402, "gfx942"), (100300, "gfx1030"), (0, None), (7, None)]
)
def test_targets_of_amd(version: int, target: str | None) -> None:
    (gpu,) = Detector(Replay(files=on_bus("0x1002", "0x1") | node(version, 0x300)))().gpus
    assert gpu.architecture == target


def test_another_cards_node_is_not_this_cards() -> None:
    (gpu,) = Detector(Replay(files=on_bus("0x1002", "0x1") | node(110000, 0x400)))().gpus
    assert (gpu.architecture, gpu.is_integrated) == (None, None)


def test_a_name_from_the_tool_and_the_rest_from_the_files() -> None:
    files = on_bus("0x1002", "0x744c", mem_info_vram_total=str(24 * GIB), mem_info_vram_used="0")
    printed = {"card0": {"Card Series": "Radeon RX 7900 XTX", "PCI Bus": "0000:03:00.0", "VRAM Total Memory (B)": "5"}}
    machine = Replay(files=files, outputs={"rocm-smi": "WARNING: low power\n" + json.dumps(printed)})
    (gpu,) = Detector(machine)().gpus
    assert (gpu.name, gpu.total_bytes, gpu.free_bytes) == ("Radeon RX 7900 XTX", 24 * GIB, 24 * GIB)


def test_free_memory_of_amd_is_that_of_the_moment() -> None:
    machine = Replay(files=on_bus("0x1002", "0x1", mem_info_vram_total="1000", mem_info_vram_used="100"))
    detector = Detector(machine)
    assert [gpu.free_bytes for gpu in detector().gpus] == [900]
    machine.files[f"{PATH}/mem_info_vram_used"] = "400\n"
    assert [gpu.free_bytes for gpu in detector().gpus] == [600]


AMD_SMI = {
    "gpu": 0,
    "asic": {"market_name": "AMD Radeon RX 9070 XT", "target_graphics_version": "gfx1201", "num_compute_units": 64},
    "bus": {"bdf": "0000:03:00.0"},
    "vram": {"type": "GDDR6", "size": {"value": 16304, "unit": "MB"}, "max_bandwidth": {"value": 644, "unit": "GB/s"}},
}


@pytest.mark.parametrize("document", [[AMD_SMI], {"gpu_data": [AMD_SMI]}])
def test_amd_smi(document: Any) -> None:
    assert amd.from_amd_smi(json.dumps(document)) == (
        Gpu(
            "AMD Radeon RX 9070 XT",
            "AMD",
            total_bytes=16304 << 20,
            is_integrated=False,
            bandwidth_bytes_per_s=644_000_000_000,
            architecture="gfx1201",
            num_cores=64,
            pci_address=ADDRESS,
        ),
    )


def test_amd_smi_without_numbers() -> None:
    device = {**AMD_SMI, "vram": {"size": "N/A", "max_bandwidth": {"value": 18446744073709551615}}, "bus": "N/A"}
    (gpu,) = amd.from_amd_smi(json.dumps([device]))
    assert (gpu.total_bytes, gpu.bandwidth_bytes_per_s, gpu.pci_address) == (None, None, None)


NOT_A_LIST = ["", "null", "[]", "{}", "7", "[7]", '{"gpu_data": 1}', '{"card0": 1}', '{"card0": []}', "[[[", "[" * 100_000]


@pytest.mark.parametrize("text", NOT_A_LIST)
def test_tools_that_print_something_else(text: str) -> None:
    assert amd.from_amd_smi(text) == ()
    assert amd.from_rocm_smi(text) == ()
    assert intel.devices(text) == []
    assert apple.gpus(apple.profile(Replay("Darwin", outputs={"system_profiler": text})), apple.processor(None), None) == ()


def test_graphics_inside_a_processor_of_intel() -> None:
    files = on_bus("0x8086", "0x46a6", f"{pci.DEVICES}/0000:00:02.0")
    found = Detector(Replay(files=files, libraries={"libze_loader.so.1": object(), "libvulkan.so.1": object()}))()
    assert found.gpus == (Gpu("Intel GPU 46a6", "Intel", is_integrated=True, pci_address="0000:00:02.0"),)
    assert found.backends == ("sycl", "vulkan")


def test_a_card_of_intel_by_the_kernels_files() -> None:
    files = on_bus("0x8086", "0x56a0") | {
        f"{PATH}/drm/card1/lmem_total_bytes": f"{16 * GIB}\n",
        f"{PATH}/drm/card1/lmem_avail_bytes": f"{15 * GIB}\n",
        f"{PATH}/drm/renderD128/dev": "226:128\n",
    }
    (gpu,) = Detector(Replay(files=files))().gpus
    assert (gpu.total_bytes, gpu.free_bytes, gpu.is_integrated) == (16 * GIB, 15 * GIB, False)


def test_a_card_of_intel_by_the_tool() -> None:
    listed = {"device_list": [{"device_id": 0, "device_name": "Intel(R) Arc(TM) A770 Graphics", "pci_bdf_address": ADDRESS}]}
    details = {"memory_physical_size_byte": str(16 * GIB), "memory_free_size_byte": str(15 * GIB)}
    outputs = {"xpu-smi discovery -j": json.dumps(listed), "xpu-smi discovery -d 0 -j": json.dumps(details)}
    (gpu,) = Detector(Replay(files=on_bus("0x8086", "0x56a0"), outputs=outputs))().gpus
    assert (gpu.total_bytes, gpu.pci_address) == (16 * GIB, ADDRESS)


def test_a_card_without_driver_is_seen() -> None:
    found = Detector(Replay(files=on_bus("0x10de", "0x2204")))()
    assert found.gpus == (Gpu("NVIDIA GPU 2204", "NVIDIA", pci_address=ADDRESS),)
    assert found.backends == ()


def test_what_only_shows_a_picture_does_not_count() -> None:
    files = on_bus("0x1a03", "0x2000") | on_bus("0x8086", "0x1", f"{pci.DEVICES}/0000:04:00.0", **{"class": "0x020000"})
    assert Detector(Replay(files=files))().gpus == ()


def test_apple_asks_metal_what_it_may_use() -> None:
    profile = {
        "SPDisplaysDataType": [{"sppci_model": "Apple M2 Max", "sppci_cores": "38", "spdisplays_vendor": "sppci_vendor_Apple"}]
    }
    machine = Replay("Darwin", outputs={"system_profiler": json.dumps(profile)}, metal=22_906_503_168)
    (gpu,) = Detector(machine)().gpus
    assert gpu == Gpu("Apple M2 Max", "Apple", shared_bytes=22_906_503_168, is_integrated=True, num_cores=38)


def test_a_mac_with_a_card_of_its_own() -> None:
    card = {"sppci_model": "Radeon Pro Vega 64", "spdisplays_vram": "16 GB", "spdisplays_vendor": "sppci_vendor_amd"}
    inside = {"sppci_model": "Intel UHD Graphics 630", "_spdisplays_vram": "1536 MB", "spdisplays_vendor": "Intel"}
    machine = Replay("Darwin", outputs={"system_profiler": json.dumps({"SPDisplaysDataType": [inside, card]})}, metal=GIB)
    inside_found, card_found = Detector(machine)().gpus
    assert (inside_found.vendor, inside_found.total_bytes, inside_found.shared_bytes) == ("Intel", None, None)
    assert (card_found.vendor, card_found.total_bytes, card_found.is_integrated) == ("AMD", 16 * GIB, False)


def test_adapters_in_the_registry() -> None:
    base = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
    keys: dict[str, dict[str, object]] = {
        f"{base}\\0000": {
            "DriverDesc": "AMD Radeon RX 7800 XT",
            "MatchingDeviceId": r"PCI\VEN_1002&DEV_747E",
            "HardwareInformation.qwMemorySize": 16 * GIB,
            "DriverVersion": "32.0.12033.1030",
        },
        f"{base}\\0001": {"DriverDesc": "Remote Display", "MatchingDeviceId": "root\\x"},
    }
    found = Detector(Replay("Windows", keys=keys))()
    assert found.gpus == (Gpu("AMD Radeon RX 7800 XT", "AMD", total_bytes=16 * GIB, driver_version="32.0.12033.1030"),)


ONE = Gpu("A", "NVIDIA", total_bytes=1, pci_address="0000:01:00.0")
TWO = Gpu("B", "NVIDIA", pci_address="0000:02:00.0", uuid="GPU-2")


def test_facts_are_merged_by_identity() -> None:
    later = (Gpu("b", "NVIDIA", total_bytes=9, uuid="GPU-2"), Gpu("a", "NVIDIA", 7, free_bytes=3, pci_address="0000:01:00.0"))
    assert merged((ONE, TWO), later) == (
        Gpu("A", "NVIDIA", total_bytes=1, free_bytes=3, pci_address="0000:01:00.0"),
        Gpu("B", "NVIDIA", total_bytes=9, pci_address="0000:02:00.0", uuid="GPU-2"),
    )


def test_what_an_earlier_probe_did_not_see_is_added() -> None:
    other = Gpu("C", "AMD", pci_address="0000:01:00.0")
    assert merged((ONE,), (TWO, other)) == (ONE, TWO, other)
    assert merged((), (ONE, ONE)) == (ONE, ONE)


def test_two_like_cards_without_identity_are_two() -> None:
    named = (Gpu("NVIDIA GPU 1", "NVIDIA"), Gpu("NVIDIA GPU 1", "NVIDIA"))
    more = (Gpu("X", "NVIDIA", 1), Gpu("X", "NVIDIA", 2))
    assert [gpu.total_bytes for gpu in merged(named, more)] == [1, 2]
    assert len(merged((Gpu("X", "AMD"),), (Gpu("Y", "AMD"),))) == 2
