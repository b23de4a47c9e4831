"""Placement: everything on the devices, else experts in main memory, else fewer layers; never more than there is room for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.planner.placement import (
    DEVICE_OVERHEAD_BYTES,
    DISPLAY_BYTES,
    SCHEDULED_COPIES,
    Placement,
    Room,
    Weight,
    copied_bytes,
    guide_layers,
    place,
)

MIB = 1 << 20
DENSE = tuple(Weight(100 * MIB, cache_bytes=10 * MIB) for _ in range(10))
SPARSE = tuple(Weight(20 * MIB, 300 * MIB, 10 * MIB) for _ in range(10))


def room(num_mib: int, *, has_display: bool = False) -> Room:
    """A device with so much left beyond what the driver takes."""
    return Room(num_mib * MIB + DEVICE_OVERHEAD_BYTES, has_display)


def test_everything_fits() -> None:
    found = place(DENSE, 50 * MIB, [room(1200)], scratch_bytes=40 * MIB)
    assert found == Placement((10,), output_device=0)
    assert (found.num_gpu_layers, found.tensor_split, found.devices_used) == (11, (11,), (0,))
    assert [found.device_of(number, 10) for number in range(10)] == [0] * 10


def test_the_last_layers_go_first() -> None:
    # 600 - 40 scratch - 50 output - 33 for copies of a layer in main memory = 477: four layers of 110.
    found = place(DENSE, 50 * MIB, [room(600)], scratch_bytes=40 * MIB)
    assert found == Placement((4,), output_device=0)
    assert found.num_gpu_layers == 5
    assert [found.device_of(number, 10) for number in range(10)] == [-1] * 6 + [0] * 4


def test_caches_may_stay_in_main_memory() -> None:
    found = place(DENSE, 50 * MIB, [room(600)], scratch_bytes=0, kv_on_device=False)
    assert found == Placement((5,), output_device=0, kv_on_device=False)


def test_experts_leave_before_layers_do() -> None:
    # Whole: 3350. Without the experts of two layers 2750, and 100 to copy one of their matrices.
    found = place(SPARSE, 50 * MIB, [room(2900)], scratch_bytes=0)
    assert found == Placement((10,), output_device=0, num_cpu_experts=2)
    found = place(SPARSE, 50 * MIB, [room(460)], scratch_bytes=0)
    assert found == Placement((10,), output_device=0, num_cpu_experts=10)
    found = place(SPARSE, 50 * MIB, [room(300)], scratch_bytes=0)
    assert found == Placement((5,), output_device=0, num_cpu_experts=10)


def test_unequal_and_busy_devices_are_filled_alike() -> None:
    found = place(DENSE, 50 * MIB, [room(1600), room(800)], scratch_bytes=0)
    assert sum(found.layers_per_gpu) == 10
    assert found.layers_per_gpu == (7, 3)
    assert found.tensor_split == (7, 4)
    assert [found.device_of(number, 10) for number in range(10)] == [0] * 7 + [1] * 3


def test_a_display_and_unknown_memory_leave_no_room() -> None:
    assert room(500).usable_bytes == 500 * MIB
    assert room(500, has_display=True).usable_bytes == 500 * MIB - DISPLAY_BYTES
    assert Room(None).usable_bytes == 0
    assert Room(10).usable_bytes == 0
    for rooms in ([], [Room(None)], [room(30)]):
        found = place(DENSE, 50 * MIB, rooms, scratch_bytes=0)
        assert (found.num_gpu_layers, found.output_device, found.devices_used) == (0, -1, ())
        assert {found.device_of(number, 10) for number in range(10)} == {-1}


def test_several_devices_keep_inputs_several_times() -> None:
    def layers(*rooms: Room) -> int:
        return place(DENSE, 0, rooms, scratch_bytes=0, input_bytes=50 * MIB).num_gpu_layers

    assert layers(room(1100)) == 11
    assert layers(room(1100 + 150), Room(None)) == 11
    assert layers(room(1100 + 149), Room(None)) < 11
    assert SCHEDULED_COPIES == 4


def test_an_output_alone_on_a_device() -> None:
    found = place(
        (Weight(100),), 90, [room(0), Room(DEVICE_OVERHEAD_BYTES + 100), Room(DEVICE_OVERHEAD_BYTES + 95)], scratch_bytes=0
    )
    assert found == Placement((0, 1, 0), output_device=2)
    assert (found.num_gpu_layers, found.tensor_split, found.devices_used) == (2, (0, 1, 1), (1, 2))


def test_copies_of_what_stays_behind() -> None:
    assert copied_bytes(DENSE, 10, 0) == 0
    assert copied_bytes(DENSE, 9, 0) == 100 * MIB // 3
    assert copied_bytes(SPARSE, 10, 1) == 100 * MIB
    assert copied_bytes(SPARSE, 0, 0) == 100 * MIB


@pytest.mark.parametrize(
    ("layers", "vram", "size", "expected"), [(32, 8, 16, 16), (32, 24, 16, 32), (80, 24, 40, 48), (32, 0, 4, 0), (32, 8, 0, 32)]
)
def test_the_rule_of_the_guides(layers: int, vram: int, size: int, expected: int) -> None:
    assert guide_layers(layers, vram << 30, size << 30) == expected


WEIGHTS = st.lists(
    st.builds(Weight, st.integers(0, 500), st.sampled_from([0, 0, 900]), st.integers(0, 100)), min_size=1, max_size=40
)
ROOMS = st.lists(st.integers(0, 12_000), max_size=4)


def room_for(num_bytes: int) -> Room:
    return Room(DEVICE_OVERHEAD_BYTES + num_bytes)


@given(WEIGHTS, st.integers(0, 400), ROOMS, st.integers(0, 300), st.booleans())
def test_all_layers_are_somewhere_and_no_device_is_overfull(
    weights: list[Weight], output: int, rooms: list[int], scratch: int, kv_on_device: bool
) -> None:
    found = place(weights, output, [room_for(size) for size in rooms], scratch_bytes=scratch, kv_on_device=kv_on_device)
    devices = [found.device_of(number, len(weights)) for number in range(len(weights))]
    assert sorted(devices, key=lambda device: (device >= 0, device)) == devices, "in order, main memory first"
    assert [devices.count(number) for number in range(len(rooms))] == list(found.layers_per_gpu)
    assert found.num_gpu_layers <= len(weights) + 1
    copies = copied_bytes(weights, sum(found.layers_per_gpu), found.num_cpu_experts)
    for device in found.devices_used:
        used = scratch + copies + (output if device == found.output_device else 0)
        for number, weight in enumerate(weights):
            if devices[number] == device:
                used += weight.dense_bytes + (weight.cache_bytes if kv_on_device else 0)
                used += weight.expert_bytes if number >= found.num_cpu_experts else 0
        assert used <= rooms[device]


@given(WEIGHTS, st.integers(0, 400), ROOMS, st.integers(0, 3), st.integers(1, 5000))
def test_more_memory_never_means_less_on_the_devices(
    weights: list[Weight], output: int, rooms: list[int], which: int, more: int
) -> None:
    def found(sizes: list[int]) -> Placement:
        return place(weights, output, [room_for(size) for size in sizes], scratch_bytes=10)

    before = found(rooms)
    after = found([size + more * (number == which) for number, size in enumerate(rooms)])
    assert after.num_gpu_layers >= before.num_gpu_layers
    if after.num_gpu_layers == before.num_gpu_layers:
        assert after.num_cpu_experts <= before.num_cpu_experts
