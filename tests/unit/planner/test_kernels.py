"""Kernels of ours in plans: when they count, what they need, and how fast they are expected to be."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from zhibei.hardware.measured import MatrixSpeed, Measured
from zhibei.models import Layer, ModelInfo, StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner import rates
from zhibei.planner.kernels import CORE_GIGA_OPS, giga_ops, possible, usable, work_bytes
from zhibei.planner.memory import bill_of
from zhibei.planner.plan import plan
from zhibei.planner.rates import Machine, machine_of
from zhibei.planner.repacking import copied_output_bytes, is_better_read, repacked_bytes, repacked_types
from zhibei.planner.speed import Way, predict
from zhibei.plans import Gpu, Hardware, Kernels, MemoryLine, Plan

MIB = 1 << 20
KERNELS = Kernels("1", "avx2", tuple(CORE_GIGA_OPS))
REFUSED = replace(KERNELS, level=None, problem="they are not installed")
TYPES = KERNELS.types
AVX2 = repacked_types(("avx2",))
MACHINE = Hardware("test", 4, 8, 16 << 30, 12 << 30, cpu_features=("avx2",), bandwidth_bytes_per_s=40 * 10**9)
CARD = Gpu("NVIDIA GeForce RTX 3060", "NVIDIA", 12 << 30, 11 << 30)
EMBEDDING_BYTES = 32000 * 1024 * 34 // 32


def model(kind: str, embedding_bytes: int = EMBEDDING_BYTES, *, is_tied: bool = True) -> ModelInfo:
    """Sixteen layers of 10 MiB in one type."""
    output = 0 if is_tied else embedding_bytes
    weights = 160 * MIB + embedding_bytes + output
    return ModelInfo(
        "gguf",
        "llama",
        num_parameters=200_000_000,
        weights_bytes=weights,
        tensor_types=((kind, 100, weights),),
        context_length=8192,
        embedding_length=1024,
        feed_forward_length=4096,
        vocabulary_size=32000,
        num_layers=16,
        num_kv_heads=(8,) * 16,
        key_length=64,
        value_length=64,
        layers=(Layer("attention", 16, 16, 8, 64, 64, feed_forward_length=4096, dense_bytes=10 * MIB),),
        embedding_bytes=embedding_bytes,
        output_bytes=output,
        lookup_bytes=0,
        other_bytes=0,
    )


def planned(info: ModelInfo, hardware: Hardware = MACHINE, there: Kernels | None = KERNELS, **wishes: bool) -> Plan:
    files = (StoredFile("model", Path("/m/model.gguf"), info.weights_bytes or 0),)
    stored = StoredModel("m:latest", files, info, "test", datetime.now(timezone.utc))
    load = LoadOptions(ctx_size=2048, parallel=1, **wishes)  # type: ignore[arg-type]
    return plan(stored, hardware, "llama.cpp", "generate", load, kernels=there, with_changes=False)


def line(bill: tuple[MemoryLine, ...], what: str) -> int:
    return sum(line.num_bytes for line in bill if line.what == what)


@pytest.mark.parametrize(
    ("kernels", "gpus", "is_wished", "is_used"),
    [
        (KERNELS, (), True, True),
        (KERNELS, (), False, False),
        (KERNELS, (CARD,), True, False),
        (REFUSED, (), True, False),
        (None, (), True, False),
    ],
)
def test_they_count_where_they_can_compute(
    kernels: Kernels | None, gpus: tuple[Gpu, ...], is_wished: bool, is_used: bool
) -> None:
    assert usable(kernels, gpus, is_wished=is_wished) is (kernels if is_used else None)


def test_a_described_machine_can_have_them_where_its_processor_is_known_for_it() -> None:
    assert possible(replace(MACHINE, cpu_features=())) is None
    found = possible(MACHINE)
    assert found is not None and found.level == "avx2" and set(found.types) == set(CORE_GIGA_OPS)


def test_every_type_is_faster_with_them_than_without() -> None:
    for family, mine in CORE_GIGA_OPS.items():
        theirs = rates.CORE_GIGA_OPS[family]
        assert mine[0] >= theirs[0] and mine[1] > theirs[1], family


@pytest.mark.parametrize(
    ("level", "family", "gain"),
    [
        ("avx-vnni", "Q4_0", 1.0),
        ("avx512", "Q4_0", 1.0),
        ("avx512-vnni", "Q4_0", 1.5),
        ("avx512-vnni", "F16", 1.0),
        ("avx512-bf16", "Q4_0", 1.5),
        ("avx512-bf16", "BF16", 1.0),
        ("amx", "Q4_0", 1.5),
    ],
)
def test_other_levels_are_at_least_as_fast(level: str, family: str, gain: float) -> None:
    one, many = giga_ops(replace(KERNELS, level=level), family) or (0, 0)
    assert (one, many) == (CORE_GIGA_OPS[family][0], CORE_GIGA_OPS[family][1] * gain)


def test_what_they_do_not_take_over_keeps_the_engines_speed() -> None:
    assert giga_ops(KERNELS, "MXFP4") is None
    assert giga_ops(replace(KERNELS, types=("Q8_0",)), "Q4_0") is None
    plain, mine = planned(model("MXFP4", 32000 * 1024 * 4), there=None), planned(model("MXFP4", 32000 * 1024 * 4))
    assert plain.speed == mine.speed and plain.memory == mine.memory


@pytest.mark.parametrize("is_tied", [True, False])
def test_weights_are_there_once_and_the_file_is_read(is_tied: bool) -> None:
    info = model("Q8_0", is_tied=is_tied)
    assert not is_better_read(info, AVX2) and is_better_read(info, AVX2, TYPES)
    found = planned(info)
    assert found.spec is not None and not found.spec.mmap and found.spec.kernels
    assert line(found.memory, "weights") == info.weights_bytes
    assert line(found.memory, "repacked") == 0


def test_a_file_that_is_mapped_all_the_same_is_there_twice_but_for_the_embedding() -> None:
    info = model("Q8_0")
    assert repacked_bytes(info, AVX2, TYPES) == 160 * MIB
    found = planned(info, mmap=True)
    assert found.spec is not None and found.spec.mmap
    assert line(found.memory, "repacked") == 160 * MIB


def test_an_embedding_that_is_also_the_output_is_not_copied() -> None:
    info = model("Q4_0", 32000 * 1024 * 18 // 32)
    assert copied_output_bytes(info, AVX2) == info.embedding_bytes
    assert copied_output_bytes(info, AVX2, TYPES) == 0
    # One in F32 stays the engine's.
    assert not is_better_read(replace(info, tensor_types=(("F32", 100, info.weights_bytes or 0),)), AVX2, TYPES)


def test_beside_a_graphics_processor_or_unwished_all_is_as_without() -> None:
    info = model("Q8_0")
    for hardware, wishes in ((replace(MACHINE, gpus=(CARD,), backends=("cuda",)), {}), (MACHINE, {"kernels": False})):
        mine, plain = planned(info, hardware, **wishes), planned(info, hardware, None, **wishes)
        assert mine == plain
    assert planned(info, there=REFUSED) == planned(info, there=None)


def test_columns_of_a_batch_take_memory_of_their_own() -> None:
    info = model("Q8_0")
    few, many = (work_bytes(info, info.layers, TYPES, count) for count in (64, 512))
    assert 512 * 4096 < many < 2 * 512 * 4096 and many == 8 * few
    assert work_bytes(replace(info, tensor_types=(("F16", 100, 1),)), info.layers, TYPES, 512) == 512 * 4096 * 4
    assert work_bytes(info, info.layers, (), 512) == 0
    experts = replace(info, num_experts=8, num_experts_used=4, expert_feed_forward_length=2048)
    layers = tuple(replace(layer, expert_bytes=MIB) for layer in info.layers)
    assert work_bytes(experts, layers, TYPES, 512) == 2 * many
    assert line(bill_of(info, ctx_size=512, taken=TYPES), "work") == many


def test_speed_is_that_of_their_table_on_a_core_that_is_as_fast_as_was_measured() -> None:
    info, way = model("Q8_0"), Way(num_threads=1, prompt_tokens=128, generated_tokens=1)
    plain, mine = Machine(read_bytes=((1, 10**12),)), Machine(read_bytes=((1, 10**12),), kernels=KERNELS)
    slow, fast = predict(info, plain, way), predict(info, mine, way)
    assert slow.prompt is not None and fast.prompt is not None
    assert 1.4 < fast.prompt.tokens_per_s / slow.prompt.tokens_per_s < 90 / 52
    measured = Measured("x", datetime.now(timezone.utc), matrix=(MatrixSpeed("Q8_0", 1, 104 * 10**9),))
    twice = predict(info, machine_of(MACHINE, measured, KERNELS), replace(way, batch_size=128)).prompt
    once = predict(info, machine_of(MACHINE, None, KERNELS), replace(way, batch_size=128)).prompt
    assert twice is not None and once is not None
    assert 1.8 < twice.tokens_per_s / once.tokens_per_s <= 2.0, "a core that does twice as much with the engine's products"


def test_where_memory_decides_they_change_nothing() -> None:
    info, way = model("Q8_0"), Way(num_threads=4, generated_tokens=1)
    narrow = [predict(info, Machine(peak_bytes=1e9, kernels=which), way) for which in (None, KERNELS)]
    assert narrow[0].generation_tokens_per_s == narrow[1].generation_tokens_per_s
    assert narrow[0].limited_by == "bandwidth"
