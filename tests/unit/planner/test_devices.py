"""The table of devices: whole, plausible, and found by what people write."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.errors import BadRequest
from zhibei.planner import devices
from zhibei.planner.devices import GIB, Device

DEVICES = devices.tables().devices
CARDS = [device for device in DEVICES if not device.is_unified]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("rtx4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("RTX 4090 24GB", "rtx-4090"),
        ("RTX 4090 Laptop", "rtx-4090-laptop"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx-4090-laptop"),
        ("4060 移动版", "rtx-4060-laptop"),
        ("4090d", "rtx-4090-d"),
        ("4090-48g", "rtx-4090-48g"),
        ("3060", "rtx-3060-12g"),
        ("3060-12g", "rtx-3060-12g"),
        ("3060 8GB", "rtx-3060-8g"),
        ("4060ti 16g", "rtx-4060-ti-16g"),
        ("4060 Ti", "rtx-4060-ti-8g"),
        ("5060ti", "rtx-5060-ti-16g"),
        ("2080ti 22g", "rtx-2080-ti-22g"),
        ("1080ti", "gtx-1080-ti"),
        ("p40", "p40"),
        ("Tesla P40", "p40"),
        ("k80", "k80"),
        ("v100-32g", "v100-sxm2-32g"),
        ("A100 80GB", "a100-sxm4-80g"),
        ("a6000", "rtx-a6000"),
        ("RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("rtx pro 6000", "rtx-pro-6000"),
        ("h100", "h100-sxm"),
        ("7900xtx", "rx-7900-xtx"),
        ("Radeon RX 7900 XTX", "rx-7900-xtx"),
        ("9070 xt", "rx-9070-xt"),
        ("mi300x", "mi300x"),
        ("Arc A770", "arc-a770"),
        ("b580", "arc-b580"),
        ("m2max", "m2-max"),
        ("Strix Halo", "ryzen-ai-max-395"),
        ("dgx spark", "gb10"),
    ],
)
def test_found_as_people_write_it(written: str, name: str) -> None:
    assert devices.find(written).name == name


@pytest.mark.parametrize(
    ("written", "name", "num_gib"),
    [
        ("m2-max-32g", "m2-max", 32),
        ("m2max32g", "m2-max", 32),
        ("m4-32g", "m4", 32),
        ("Apple M3 Max 64GB", "m3-max", 64),
        ("m3-max-36g", "m3-max-30", 36),
        ("m3-ultra-512g", "m3-ultra", 512),
        ("8060s-128g", "ryzen-ai-max-395", 128),
    ],
)
def test_unified_memory_is_part_of_the_name(written: str, name: str, num_gib: int) -> None:
    device = devices.find(written)
    assert (device.name, device.memory_bytes) == (name, num_gib * GIB)


@pytest.mark.parametrize(
    ("called", "num_mib", "name"),
    [
        ("NVIDIA GeForce RTX 3060", 12288, "rtx-3060-12g"),
        ("NVIDIA GeForce RTX 3060", 8192, "rtx-3060-8g"),
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "rtx-4060-ti-16g"),
        ("NVIDIA GeForce RTX 4090", 49140, "rtx-4090-48g"),
        ("NVIDIA GeForce RTX 3050 6GB Laptop GPU", 6144, "rtx-3050-laptop-6g"),
        ("NVIDIA H100 80GB HBM3", 81559, "h100-sxm"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-pcie-80g"),
        ("Tesla V100-SXM2-16GB", 16384, "v100-sxm2-16g"),
        ("NVIDIA RTX 6000 Ada Generation", 49140, "rtx-6000-ada"),
        ("Intel(R) Arc(TM) A770 Graphics", 15473, "arc-a770"),
        ("Radeon RX 7900 XTX", 24560, "rx-7900-xtx"),
        ("Apple M2 Max", None, "m2-max"),
        ("Apple M2 Max", 7, "m2-max"),
    ],
)
def test_recognised_as_drivers_call_it(called: str, num_mib: int | None, name: str) -> None:
    device = devices.recognise(called, None if num_mib is None else num_mib << 20)
    assert device is not None
    assert device.name == name


def test_what_no_table_has_is_not_recognised() -> None:
    assert devices.recognise("Matrox Mystique", 4 << 20) is None


def test_a_chip_without_a_size_does_not_know_its_memory() -> None:
    assert devices.find("m2max").memory_bytes is None
    assert devices.gpu_bytes(devices.find("m2max")) is None
    assert devices.find("gb10").memory_bytes == 128 * GIB


def test_what_a_gpu_may_fill() -> None:
    assert devices.gpu_bytes(devices.find("4090")) == 24 * GIB
    assert devices.gpu_bytes(devices.find("m1-16g")) == int(16 * GIB * 0.6667)
    assert devices.gpu_bytes(devices.find("m2-max-96g")) == 72 * GIB
    assert devices.gpu_bytes(devices.find("8060s-128g")) == 96 * GIB
    assert devices.gpu_bytes(devices.find("780m-32g")) == 16 * GIB


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("rtx4099", "rtx-4090"),
        ("rtx6000", "quadro-rtx-6000, rtx-6000-ada"),
        ("7900", "rx-7900-gre"),
        ("", "rtx4090"),
        ("Schreibmaschine", "rtx4090"),
        ("m2-max-33g", "32, 64, 96"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(written: str, hint: str) -> None:
    with pytest.raises(BadRequest) as caught:
        devices.find(written)
    assert hint in (caught.value.hint_text or "")


def test_figures_that_everyone_knows() -> None:
    """From the vendors' own pages: memory, bandwidth, and dense rates."""
    facts = {
        "rtx-3090": (24, 936, 71, 284, (8, 6)),
        "rtx-4090": (24, 1008, 165.2, 660.6, (8, 9)),
        "rtx-5090": (32, 1792, 209.5, 838, (12, 0)),
        "rtx-3060-12g": (12, 360, 25.5, 102, (8, 6)),
        "rtx-a6000": (48, 768, 154.8, 309.7, (8, 6)),
        "l40s": (48, 864, 362, 733, (8, 9)),
        "l4": (24, 300, 121, 242, (8, 9)),
        "t4": (16, 320, 65, 130, (7, 5)),
        "a100-sxm4-80g": (80, 2039, 312, 624, (8, 0)),
        "v100-sxm2-16g": (16, 900, 125, 62.8, (7, 0)),
        "h100-sxm": (80, 3350, 989.4, 1978.9, (9, 0)),
        "p40": (24, 346, 11.76, 47, (6, 1)),
    }
    for name, (num_gib, bandwidth, fp16, int8, capability) in facts.items():
        device = devices.find(name)
        assert device.memory_bytes == num_gib * GIB
        assert device.bandwidth_bytes_per_s == pytest.approx(bandwidth * 1e9, rel=0.01)
        assert device.flops_fp16 == pytest.approx(fp16 * 1e12, rel=0.02), name
        assert device.ops_int8 == pytest.approx(int8 * 1e12, rel=0.02), name
        assert device.compute_capability == capability
    assert devices.find("7900xtx").flops_fp16 == pytest.approx(122.8e12, rel=0.01)
    assert devices.find("mi250x").num_gpus == devices.find("k80").num_gpus == 2


@pytest.mark.parametrize("device", DEVICES, ids=[device.name for device in DEVICES])
def test_every_row_is_plausible(device: Device) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", device.name)
    assert device.vendor in ("nvidia", "amd", "intel", "apple")
    assert 30e9 < device.bandwidth_bytes_per_s < 10e12
    assert device.released_on is not None
    assert 2010 < device.released_on.year < 2030
    assert device.source == "published specification" or device.source.startswith("https://www.techpowerup.com/gpu-specs/")
    assert (device.compute_capability is not None) == (device.vendor == "nvidia")
    if device.flops_fp16 is not None:
        assert 1e12 < device.flops_fp16 < 3e15
    if device.is_unified:
        assert device.memory_choices_bytes == tuple(sorted(set(device.memory_choices_bytes)))
        assert device.num_cores
        assert device.pcie is None
    else:
        assert device.memory_bytes is not None
        assert 4 * GIB <= device.memory_bytes <= 288 * GIB
        assert device.pcie is not None
        assert device.flops_fp16 is not None
    assert devices.find(device.name) is device
    assert devices.find(device.title) is device
    assert all(100 <= price.amount <= 100_000 and price.source for price in device.prices)


def test_the_table_is_large_enough_to_be_of_use() -> None:
    vendors = [device.vendor for device in DEVICES]
    assert {
        name: vendors.count(name) >= least for name, least in (("nvidia", 100), ("amd", 30), ("intel", 8), ("apple", 20))
    } == {
        "nvidia": True,
        "amd": True,
        "intel": True,
        "apple": True,
    }
    assert len({device.name for device in DEVICES}) == len(DEVICES)


@pytest.mark.parametrize(
    ("written", "bandwidth_gb_s"),
    [
        ("ddr3-1600x2", 25.6),
        ("ddr4-3200x2", 51.2),
        ("DDR5 5600", 89.6),
        ("ddr5-4800x12", 460.8),
        ("lpddr5x-8533x4", 273.056),
        ("ddr4_2400×1", 19.2),
    ],
)
def test_bandwidth_of_memory(written: str, bandwidth_gb_s: float) -> None:
    assert devices.find_memory(written).bandwidth_bytes_per_s == round(bandwidth_gb_s * 1e9)


@pytest.mark.parametrize("written", ["ddr6-8000", "ddr5", "ddr5-56000", "ddr4-9000x2", "ddr5-5600x0", "ddr5-5600x99", "", "5600"])
def test_memory_that_is_none(written: str) -> None:
    with pytest.raises(BadRequest):
        devices.find_memory(written)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("i5-12400", "i5-12400"),
        ("12400", "i5-12400"),
        ("Ryzen 7 5800X", "ryzen-7-5800x"),
        ("AMD Ryzen 9 7950X", "ryzen-9-7950x"),
        ("epyc 9654", "epyc-9654"),
        ("7800x3d", "ryzen-7-7700"),
    ],
)
def test_processors(written: str, name: str) -> None:
    assert devices.find_cpu(written).name == name


def test_an_unknown_processor_is_answered_with_near_ones() -> None:
    with pytest.raises(BadRequest) as caught:
        devices.find_cpu("i5-12401")
    assert "i5-12400" in (caught.value.hint_text or "")


def test_processors_are_plausible() -> None:
    for cpu in devices.tables().cpus.values():
        assert cpu.num_cores <= cpu.num_threads <= 2 * cpu.num_cores
        assert cpu.num_performance_cores is None or cpu.num_performance_cores < cpu.num_cores
        assert "avx2" in cpu.features or "asimddp" in cpu.features


def test_lanes_double_with_each_generation() -> None:
    lanes = devices.tables().lane_bytes_per_s
    assert lanes[4] * 16 == pytest.approx(31.5e9, rel=0.001)
    assert all(lanes[generation + 1] == pytest.approx(2 * lanes[generation], rel=0.05) for generation in range(1, 6))


def test_a_name_that_is_in_the_table_twice_is_refused() -> None:
    text = devices.DEVICES_PATH.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="twice"):
        devices.read(text.replace('name = "rtx-4080"', 'name = "rtx-4090"'))


@given(st.one_of(st.text(max_size=80), st.text(alphabet="rtxgm0123456789 -gib×maxpro", max_size=24)))
def test_any_text_gives_a_device_or_a_bad_request(text: str) -> None:
    for find in (devices.find, devices.find_cpu, devices.find_memory):
        try:
            found = find(text)
        except BadRequest as error:
            assert error.hint_text
            assert "{" not in str(error) or "{" in text
        else:
            assert found is not None
