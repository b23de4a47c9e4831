"""Machines that are only described: each part of the notation, each way of getting it wrong, and any text at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.errors import BadRequest
from zhibei.planner.imagined import MAX_GPUS, MAX_LENGTH, Imagined, as_hardware, imagine

GIB = 1 << 30


def test_the_example() -> None:
    machine = imagine("rtx4090x2,ram=64g,ddr5-5600x2,cpu=i7-14700k,pcie=4x8,disk=nvme4")
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA GeForce RTX 4090"] * 2
    assert machine.gpus[0].total_bytes == 24 * GIB
    assert machine.gpus[0].pcie_bytes_per_s == 8 * 1_969_000_000
    assert machine.gpus[0].compute_capability == (8, 9)
    assert machine.ram_bytes == 64 * GIB
    assert machine.memory_bandwidth_bytes_per_s == 89_600_000_000
    assert (machine.cpu_name, machine.num_cores, machine.num_threads) == ("i7-14700k", 20, 28)
    assert (machine.num_performance_cores, machine.num_efficiency_cores) == (8, 12)
    assert machine.disk_bytes_per_s == 7_000_000_000
    assert not machine.is_unified


@pytest.mark.parametrize(
    "text",
    [
        "rtx4090x2,ram=64g",
        "2xrtx4090, RAM=64GB",
        "gpu=4090,gpu=4090,ram=64GiB",
        " 4090 x 2 , ram = 64g",
        "4090*2,ram=65536m",
        "4090,4090,ram=64gib",
    ],
)
def test_ways_of_writing_the_same(text: str) -> None:
    assert imagine(text) == imagine("gpu=rtx-4090x2,ram=64g")


def test_a_name_that_ends_like_a_count_is_a_name() -> None:
    assert [gpu.name for gpu in imagine("7900xt").gpus] == ["AMD Radeon RX 7900 XT"]
    assert len(imagine("7900xtx2").gpus) == 2
    assert [gpu.name for gpu in imagine("7900xtxx2").gpus] == ["AMD Radeon RX 7900 XTX"] * 2


def test_a_card_that_is_two_gpus_counts_as_two() -> None:
    assert len(imagine("k80").gpus) == 2
    assert len(imagine("2xk80").gpus) == 4


def test_a_mac() -> None:
    machine = imagine("m2-max-32g")
    assert machine.is_unified
    assert machine.ram_bytes == 32 * GIB
    assert machine.memory_bandwidth_bytes_per_s == machine.gpus[0].bandwidth_bytes_per_s == 409_600_000_000
    assert machine.gpus[0].total_bytes == int(32 * GIB * 0.6667)
    assert machine.num_cores == 12
    assert machine == imagine("m2max,ram=32g") == imagine("m2max-32g,ram=32g")


def test_a_card_beside_a_chip_with_unified_memory() -> None:
    machine = imagine("8060s-128g,7900xtx")
    assert [(gpu.is_unified, gpu.total_bytes) for gpu in machine.gpus] == [(True, 96 * GIB), (False, 24 * GIB)]


def test_a_processor_alone_brings_its_usual_memory() -> None:
    machine = imagine("cpu=ryzen-7-5800x,ram=32g")
    assert machine.gpus == ()
    assert machine.memory_bandwidth_bytes_per_s == 51_200_000_000
    assert machine.cpu_features == ("avx2",)
    assert imagine("5800x,ram=32g") == machine
    assert imagine("5800x,ram=32g,ddr4-2400x1").memory_bandwidth_bytes_per_s == 19_200_000_000
    assert imagine("5800x,bandwidth=40gb/s").memory_bandwidth_bytes_per_s == 40_000_000_000


def test_cores_that_are_said_hold() -> None:
    machine = imagine("cpu=13900k,cores=8")
    assert (machine.num_cores, machine.num_threads, machine.num_performance_cores) == (8, None, None)


def test_what_is_not_said_is_not_known() -> None:
    machine = imagine("rtx3060")
    assert (machine.ram_bytes, machine.memory_bandwidth_bytes_per_s, machine.num_cores, machine.disk_bytes_per_s) == (
        None,
        None,
        None,
        None,
    )
    assert machine.gpus[0].pcie_bytes_per_s == 16 * 1_969_000_000


def test_between_card_and_slot_the_slower_counts() -> None:
    assert imagine("p40,pcie=5x16").gpus[0].pcie_bytes_per_s == 16 * 985_000_000
    assert imagine("p40,pcie=3x1").gpus[0].pcie_bytes_per_s == 985_000_000


def test_rates_and_sizes() -> None:
    machine = imagine("ram=1.5t,swap=0g,disk=3.5gb/s,bandwidth=500g")
    assert machine.ram_bytes == 1536 * GIB
    assert machine.swap_bytes == 0
    assert machine.disk_bytes_per_s == 3_500_000_000
    assert machine.memory_bandwidth_bytes_per_s == 500_000_000_000


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        (" , ", "empty"),
        ("rtx4090,,ram=64g", "nothing between"),
        ("rtx4090,", "nothing between"),
        ("rtx4099", "no device"),
        ("rtx4090x0", "is no device"),
        ("2x rtx4090 x2", "no device"),
        ("rtx4090x99", "too many"),
        ("ram=64", "not a size"),
        ("ram=0g", "not a size"),
        ("ram=-1g", "not a size"),
        ("ram=999999t", "not a size"),
        ("ram=64g,ram=32g", "twice"),
        ("ddr5-5600,memory=ddr4-3200", "twice"),
        ("ddr9-1", "not a kind of memory"),
        ("ddr5-99999", "not sold"),
        ("colour=red", "not a part"),
        ("cpu=i5-99999", "no processor"),
        ("cores=0", "number of cores"),
        ("cores=many", "number of cores"),
        ("pcie=4", "PCIe"),
        ("pcie=9x16", "PCIe"),
        ("pcie=4x3", "PCIe"),
        ("disk=slow", "not a disk"),
        ("bandwidth=fast", "not a rate"),
        ("m2max", "How much memory"),
        ("m2max,ram=48g", "not sold"),
        ("m2max-32g,ram=64g", "twice, differently"),
        ("m2max-32g,ddr5-5600", "built in"),
        ("m2max-32g,m1-8g", "one chip"),
        ("rtx4090" + "," * MAX_LENGTH, "longer"),
    ],
)
def test_what_is_wrong_is_told(text: str, told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        imagine(text)
    assert told in str(caught.value)
    assert caught.value.hint_text


PARTS = st.sampled_from(
    [
        "rtx4090",
        "2xp40",
        "k80",
        "m2-max-64g",
        "8060s",
        "ram=64g",
        "ram=",
        "swap=8g",
        "ddr5-5600x2",
        "ddr4",
        "cpu=13900k",
        "5800x",
        "cores=8",
        "pcie=4x8",
        "disk=hdd",
        "disk=1g",
        "gpu=4060ti",
        "=",
        "x",
        "x2",
        "bandwidth=80gb/s",
    ]
)


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.one_of(PARTS, st.text(alphabet="rtx0123456789g=x-m ", max_size=10)), max_size=6).map(",".join),
    )
)
def test_any_text_gives_a_machine_or_a_bad_request(text: str) -> None:
    try:
        machine = imagine(text)
    except BadRequest as error:
        assert error.hint_text
        return
    assert isinstance(machine, Imagined)
    assert len(machine.gpus) <= MAX_GPUS
    assert as_hardware(machine).total_bytes == machine.ram_bytes


def test_as_a_detected_machine_would_be() -> None:
    hardware = as_hardware(imagine("rtx3090,7900xtx,ram=64g,swap=8g,cpu=i7-12700"))
    assert [gpu.vendor for gpu in hardware.gpus] == ["NVIDIA", "AMD"]
    nvidia = hardware.gpus[0]
    assert (nvidia.total_bytes, nvidia.free_bytes, nvidia.shared_bytes, nvidia.is_integrated) == (24 * GIB, 24 * GIB, None, False)
    assert (nvidia.architecture, nvidia.bandwidth_bytes_per_s) == ("sm_86", 936_200_000_000)
    assert hardware.available_bytes == hardware.total_bytes == 64 * GIB
    assert (hardware.num_physical_cores, hardware.num_logical_cores) == (12, 20)
    assert (hardware.num_performance_cores, hardware.num_efficiency_cores) == (8, 4)
    assert (hardware.memory_kind, hardware.memory_transfers_per_s) == ("DDR4", 3_200_000_000)
    assert hardware.bandwidth_bytes_per_s == 51_200_000_000
    assert (hardware.swap_total_bytes, hardware.swap_free_bytes) == (8 * GIB, 8 * GIB)
    assert hardware.backends == ("cuda", "vulkan", "rocm")


def test_a_mac_as_a_detected_machine_would_be() -> None:
    hardware = as_hardware(imagine("m3-max-128g"))
    gpu = hardware.gpus[0]
    assert (gpu.vendor, gpu.total_bytes, gpu.shared_bytes, gpu.is_integrated) == ("Apple", None, 96 * GIB, True)
    assert hardware.total_bytes == 128 * GIB
    assert hardware.backends == ("metal",)
