"""The memory bill: figures of well-known models, from their published configurations, against what llama.cpp prints for them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import get_args

import pytest

from zhibei.models import Layer, ModelInfo
from zhibei.options import CacheType
from zhibei.planner import memory
from zhibei.planner.layers import Run
from zhibei.planner.placement import DEVICE_OVERHEAD_BYTES, Placement, Room
from zhibei.plans import MemoryLine

MIB = 1 << 20


def info(num_layers: int, num_kv_heads: int, key_length: int, value_length: int | None = None, **facts: object) -> ModelInfo:
    return ModelInfo(
        "gguf",
        "llama",
        num_kv_heads=(num_kv_heads,) * num_layers,
        key_length=key_length,
        value_length=key_length if value_length is None else value_length,
        **facts,  # type: ignore[arg-type]
    )


SMOLLM2_135M = info(30, 3, 64)
LLAMA_3_8B = info(32, 8, 128)
QWEN2_5_7B = info(28, 4, 128)
QWEN3_30B_A3B = info(48, 4, 128)
GEMMA_2_9B = info(42, 8, 256)
PHI_3_MINI = info(32, 32, 96)
TINYLLAMA = info(22, 4, 64)
# LFM2-1.2B: attention in six of sixteen layers.
LFM2 = ModelInfo("gguf", "lfm2", num_kv_heads=(0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0), key_length=64, value_length=64)


def cache_bytes(model: ModelInfo, ctx_size: int, types: tuple[str, str] = ("f16", "f16"), num_slots: int = 1) -> int | None:
    lines = memory.bill_of(model, ctx_size=ctx_size, num_slots=num_slots, cache_type_k=types[0], cache_type_v=types[1])
    return next((line.num_bytes for line in lines if line.what == "kv cache"), None)


@pytest.mark.parametrize(
    ("model", "per_token"),
    [
        (SMOLLM2_135M, 23_040),
        (LLAMA_3_8B, 131_072),
        (QWEN2_5_7B, 57_344),
        (QWEN3_30B_A3B, 98_304),
        (GEMMA_2_9B, 344_064),
        (PHI_3_MINI, 393_216),
        (TINYLLAMA, 22_528),
        (LFM2, 12_288),
        (info(61, 1, 576, 512), 132_736),
    ],
)
def test_bytes_per_token_in_f16(model: ModelInfo, per_token: int) -> None:
    assert cache_bytes(model, memory.CELLS) == per_token * memory.CELLS


@pytest.mark.parametrize(
    ("model", "ctx_size", "types", "mib"),
    [
        (SMOLLM2_135M, 2048, ("f16", "f16"), 45.0),
        (LLAMA_3_8B, 8192, ("f16", "f16"), 1024.0),
        (LLAMA_3_8B, 8192, ("f32", "f32"), 2048.0),
        (LLAMA_3_8B, 8192, ("bf16", "bf16"), 1024.0),
        (LLAMA_3_8B, 8192, ("q8_0", "q8_0"), 544.0),
        (LLAMA_3_8B, 8192, ("q5_1", "q5_1"), 384.0),
        (LLAMA_3_8B, 8192, ("q5_0", "q5_0"), 352.0),
        (LLAMA_3_8B, 8192, ("q4_1", "q4_1"), 320.0),
        (LLAMA_3_8B, 8192, ("q4_0", "q4_0"), 288.0),
        (LLAMA_3_8B, 8192, ("iq4_nl", "iq4_nl"), 288.0),
        (LLAMA_3_8B, 8192, ("q8_0", "q4_0"), 416.0),
        (QWEN2_5_7B, 4096, ("f16", "f16"), 224.0),
        (GEMMA_2_9B, 8192, ("f16", "f16"), 2688.0),
    ],
)
def test_the_cache_as_llama_cpp_prints_it(model: ModelInfo, ctx_size: int, types: tuple[str, str], mib: float) -> None:
    assert cache_bytes(model, ctx_size, types) == mib * MIB


@pytest.mark.parametrize(("ctx_size", "cells"), [(1, 256), (256, 256), (257, 512), (1000, 1024), (8192, 8192)])
def test_every_slots_cells_are_rounded_up(ctx_size: int, cells: int) -> None:
    assert cache_bytes(SMOLLM2_135M, ctx_size, num_slots=3) == 23_040 * cells * 3
    assert cache_bytes(ModelInfo("gguf", "llama"), ctx_size, num_slots=3) is None


@pytest.mark.parametrize(
    "model",
    [
        ModelInfo("gguf", "llama"),
        ModelInfo("gguf", "llama", num_kv_heads=(8,), key_length=128),
        ModelInfo("gguf", "llama", num_kv_heads=(8,), value_length=128),
        ModelInfo("gguf", "llama", key_length=128, value_length=128),
    ],
)
def test_what_the_header_does_not_say_is_not_known(model: ModelInfo) -> None:
    assert cache_bytes(model, 4096) is None


def test_every_cache_type_has_its_size() -> None:
    """ggml's blocks of 32: a half for the scale, another for a minimum, bits for the rest."""
    assert set(memory.CACHE_TYPE_BYTES) == set(get_args(CacheType))
    for name, bits, halves in (("q8_0", 8, 1), ("q5_1", 5, 2), ("q5_0", 5, 1), ("q4_1", 4, 2), ("q4_0", 4, 1), ("iq4_nl", 4, 1)):
        assert memory.CACHE_TYPE_BYTES[name] == Fraction(32 * bits // 8 + 2 * halves, 32)


def test_scratch_grows_with_everything_it_holds() -> None:
    model = info(30, 3, 64, embedding_length=576, feed_forward_length=1536, vocabulary_size=49152)
    base = memory.compute_bytes(model, 512, 2048, 1)
    assert memory.compute_bytes(model, 1024, 2048, 1) > base
    assert memory.compute_bytes(model, 512, 4096, 1) == base + 512 * 2048 * 2, "a mask of two bytes per cell"
    assert memory.compute_bytes(model, 512, 2048, 2) == base + 49152 * 4, "a row of logits per slot"
    assert memory.compute_bytes(ModelInfo("unknown", "unknown"), 512, 2048, 1) > 0


def test_the_bill_leaves_out_what_takes_nothing() -> None:
    model = ModelInfo("gguf", "llama", embedding_bytes=5)
    lines = memory.bill_of(model, ctx_size=256, files=(("draft", 3), ("adapter", 0)))
    assert [(line.what, line.num_bytes) for line in lines if line.what not in ("compute", "output")] == [
        ("weights", 5),
        ("draft", 3),
        ("process", memory.PROCESS_BYTES),
    ]
    assert all(line.num_bytes for line in lines)
    assert {line.device for line in lines} == {"cpu"}


# Four layers of 100 and two that choose among experts of 600, an embedding of 50 and an output of 40; 4 KiB a token and layer.
ATTENDING = Layer("attention", 4, num_heads=16, num_kv_heads=8, key_length=128, value_length=128, dense_bytes=100 * MIB)
CHOOSING = replace(ATTENDING, count=2, dense_bytes=20 * MIB, expert_bytes=600 * MIB)
MIXED = ModelInfo(
    "gguf",
    "llama",
    embedding_length=2048,
    vocabulary_size=32000,
    num_layers=6,
    num_experts=16,
    num_experts_used=4,
    feed_forward_length=5632,
    expert_feed_forward_length=1024,
    layers=(ATTENDING, CHOOSING),
    embedding_bytes=50 * MIB,
    lookup_bytes=1 * MIB,
    output_bytes=40 * MIB,
    other_bytes=2 * MIB,
)
WEIGHTS = 4 * 100 + 2 * 620 + 50 + 1 + 40 + 2


def by_device(lines: tuple[MemoryLine, ...], what: str) -> dict[str, int]:
    return {line.device: line.num_bytes for line in lines if line.what == what}


class TestBill:
    def test_on_the_processor(self) -> None:
        lines = memory.bill_of(MIXED, ctx_size=4096, num_slots=2)
        assert {line.device for line in lines} == {"cpu"}
        assert by_device(lines, "weights") == {"cpu": WEIGHTS * MIB}
        assert by_device(lines, "kv cache") == {"cpu": 6 * 2 * 4096 * 4096}
        assert by_device(lines, "output") == {"cpu": 2 * 32000 * 4}
        assert [line.what for line in lines] == ["weights", "kv cache", "compute", "output", "process"]

    def test_what_is_not_there_has_no_line(self) -> None:
        recurrent = replace(MIXED, layers=(Layer("recurrent", 3, conv_elements=3000, state_elements=10_000),))
        lines = memory.bill_of(recurrent, ctx_size=4096, num_slots=2)
        assert by_device(lines, "recurrent state") == {"cpu": 2 * 3 * 13_000 * 4}
        assert by_device(lines, "kv cache") == {}

    def test_on_two_devices(self) -> None:
        placement = Placement((2, 2), output_device=1, num_cpu_experts=5)
        lines = memory.bill_of(MIXED, ctx_size=4096, placement=placement)
        # Main memory: two layers, the experts of the fifth, the embedding and the table beside it.
        assert by_device(lines, "weights") == {
            "cpu": (2 * 100 + 600 + 50 + 1) * MIB,
            "gpu0": 2 * 100 * MIB,
            "gpu1": (20 + 620 + 40 + 2) * MIB,
        }
        assert by_device(lines, "kv cache") == dict.fromkeys(("cpu", "gpu0", "gpu1"), 2 * 4096 * 4096)
        assert by_device(lines, "overhead") == dict.fromkeys(("gpu0", "gpu1"), DEVICE_OVERHEAD_BYTES)
        assert set(by_device(lines, "compute")) == {"cpu", "gpu0", "gpu1"}

    def test_caches_in_main_memory(self) -> None:
        lines = memory.bill_of(MIXED, ctx_size=4096, placement=Placement((6,), output_device=0, kv_on_device=False))
        assert by_device(lines, "kv cache") == {"cpu": 6 * 4096 * 4096}
        assert by_device(lines, "weights") == {"cpu": 51 * MIB, "gpu0": (WEIGHTS - 51) * MIB}

    def test_an_embedding_that_is_the_output_is_there_twice(self) -> None:
        tied = replace(MIXED, output_bytes=0)
        assert by_device(memory.bill_of(tied, ctx_size=512), "weights") == {"cpu": (WEIGHTS - 40) * MIB}
        lines = memory.bill_of(tied, ctx_size=512, placement=Placement((6,), output_device=0))
        assert by_device(lines, "weights") == {"cpu": 51 * MIB, "gpu0": (4 * 100 + 2 * 620 + 50 + 2) * MIB}

    def test_extra_layers_are_not_loaded(self) -> None:
        longer = replace(MIXED, layers=(*MIXED.layers, Layer("extra", dense_bytes=999 * MIB)))
        assert memory.bill_of(longer, ctx_size=512) == memory.bill_of(MIXED, ctx_size=512)
        assert longer.active_bytes == MIXED.active_bytes

    def test_what_runs_beside_it(self) -> None:
        lines = memory.bill_of(
            MIXED, ctx_size=1024, files=(("projector", 7), ("adapter", 0)), draft=LLAMA_3_8B, prompt_cache_bytes=9
        )
        found = {line.what: line.num_bytes for line in lines}
        assert (found["projector"], found["prompt cache"]) == (7, 9)
        assert found["draft kv cache"] == 1024 * 131_072
        assert "adapter" not in found

    def test_vectors_need_room_as_well(self) -> None:
        plain = by_device(memory.bill_of(MIXED, ctx_size=512), "output")["cpu"]
        assert by_device(memory.bill_of(MIXED, ctx_size=512, is_embedding=True), "output")["cpu"] == plain + 2048 * 4

    def test_nothing_is_lost_between_devices(self) -> None:
        whole = sum(line.num_bytes for line in memory.bill_of(MIXED, ctx_size=4096) if line.what in ("weights", "kv cache"))
        for count in range(7):
            placement = Placement((count // 2, count - count // 2), output_device=1 if count else -1)
            lines = memory.bill_of(MIXED, ctx_size=4096, placement=placement)
            assert sum(line.num_bytes for line in lines if line.what in ("weights", "kv cache")) == whole


def test_a_placed_model_fits_where_its_bill_says() -> None:
    rooms = [Room(2 << 30), Room(1500 * MIB, has_display=True)]
    run = Run(8192)
    placement = memory.place_model(MIXED, run, rooms)
    assert sum(placement.layers_per_gpu) > 0
    lines = memory.bill_of(MIXED, ctx_size=8192, placement=placement)
    for number, room in enumerate(rooms):
        assert sum(line.num_bytes for line in lines if line.device == f"gpu{number}") <= (room.free_bytes or 0)


def test_active_bytes_are_what_one_token_reads() -> None:
    # All four layers, of the others the dense part and 4 of 16 experts; the output, not the embedding's table.
    assert MIXED.active_bytes == (4 * 100 + 2 * (20 + 150) + 40 + 2) * MIB
    assert replace(MIXED, output_bytes=0).active_bytes == (4 * 100 + 2 * 170 + 50 + 2) * MIB
    assert replace(MIXED, output_bytes=None).active_bytes is None
    assert replace(MIXED, layers=()).active_bytes is None


def test_points_of_return_keep_what_cannot_be_recomputed() -> None:
    windowed = replace(ATTENDING, count=3, window=1000)
    info = replace(MIXED, layers=(windowed, ATTENDING, Layer("recurrent", conv_elements=10, state_elements=20)))
    assert memory.checkpoint_bytes(info, Run(8192, 4)) == 3 * 1536 * 4096 + 30 * 4
    assert memory.checkpoint_bytes(MIXED, Run(8192)) == 0
