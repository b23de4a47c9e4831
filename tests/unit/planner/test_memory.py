"""The memory bill: figures of well-known models, from their published configurations, against what llama.cpp prints for them."""

from __future__ import annotations

from fractions import Fraction
from typing import get_args

import pytest

from zhibei.models import ModelInfo
from zhibei.options import CacheType
from zhibei.planner import memory

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
    assert memory.kv_bytes_per_token(model, "f16", "f16") == per_token


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
    per_token = memory.kv_bytes_per_token(model, *types)
    assert memory.kv_bytes(per_token, ctx_size, 1) == mib * MIB


@pytest.mark.parametrize(("ctx_size", "cells"), [(1, 256), (256, 256), (257, 512), (1000, 1024), (8192, 8192)])
def test_every_slots_cells_are_rounded_up(ctx_size: int, cells: int) -> None:
    assert memory.kv_bytes(10, ctx_size, 3) == 10 * cells * 3
    assert memory.kv_bytes(None, ctx_size, 3) == 0


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
    assert memory.kv_bytes_per_token(model, "f16", "f16") is None


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
    lines = memory.bill(weights_bytes=5, kv_bytes=0, scratch_bytes=7, prompt_cache_bytes=0, extra=(("draft", 3), ("adapter", 0)))
    assert [(line.what, line.num_bytes) for line in lines] == [
        ("weights", 5),
        ("draft", 3),
        ("compute", 7),
        ("process", memory.PROCESS_BYTES),
    ]
    assert {line.device for line in lines} == {"cpu"}
