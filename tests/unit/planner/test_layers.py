"""What layers keep: figures derived by hand for each kind of attention, and what the engine reports for published models."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.published_shapes import REPORTS, RUNS, SHAPES
from zhibei.formats.gguf import GgufHeader, MetadataValue, describe
from zhibei.formats.layers import joined
from zhibei.models import Layer, ModelInfo
from zhibei.planner.layers import (
    CACHE_BLOCKS,
    Run,
    each_layer,
    kv_bytes_of,
    row_bytes,
    state_bytes_of,
    takes_cache_type,
    widest_values,
    window_cells,
)
from zhibei.planner.scratch import scratch_bytes

MIB = 1 << 20


def published(name: str) -> ModelInfo:
    """A published model as its file's metadata describes it; with experts where its tensors would have them."""
    metadata = cast("dict[str, MetadataValue]", SHAPES[name])
    info = describe([GgufHeader(3, MappingProxyType(metadata), MappingProxyType({}), (), 0, 32, 0)])
    if not info.num_experts:
        return info
    dense = metadata.get(f"{info.architecture}.leading_dense_block_count", 0)
    layers = (
        layer if number < cast("int", dense) else replace(layer, expert_bytes=1, feed_forward_length=0)
        for number, layer in enumerate(each_layer(info))
    )
    return replace(info, layers=joined(layers))


def kv_bytes(info: ModelInfo, run: Run) -> int:
    layers = tuple(each_layer(info))
    return sum(kv_bytes_of(layer, run, widest_values(layers)) for layer in layers)


def state_bytes(info: ModelInfo, run: Run) -> int:
    return sum(state_bytes_of(layer, run) for layer in each_layer(info))


REPORTED = [(name, number) for name, reports in REPORTS.items() for number, report in enumerate(reports) if report is not None]


@pytest.mark.parametrize(("name", "number"), REPORTED)
def test_keys_values_and_states_are_what_the_engine_reports(name: str, number: int) -> None:
    report, run = REPORTS[name][number], RUNS[number]
    assert report is not None
    info = published(name)
    assert kv_bytes(info, run) / MIB == pytest.approx(report[0], abs=0.02)
    assert state_bytes(info, run) / MIB == pytest.approx(report[1], abs=0.02)


@pytest.mark.parametrize(("name", "number"), REPORTED)
def test_scratch_space_is_near_what_the_engine_reports(name: str, number: int) -> None:
    report = REPORTS[name][number]
    assert report is not None
    info = published(name)
    tolerance = 0.1 if name not in ("deepseek-v3.2", "gemma4-e4b") else 0.15
    assert scratch_bytes(info, each_layer(info), RUNS[number]) / MIB == pytest.approx(report[2], rel=tolerance)


def test_scratch_space_is_exact_for_most_published_shapes() -> None:
    exact = 0
    for name, number in REPORTED:
        report, info = REPORTS[name][number], published(name)
        assert report is not None
        exact += abs(scratch_bytes(info, each_layer(info), RUNS[number]) / MIB / report[2] - 1) < 0.015
    assert exact / len(REPORTED) > 0.7


class TestByHand:
    def test_every_head_keeps_its_own(self) -> None:
        # 32 layers × 32 heads × (128 + 128) elements × 2 bytes = 512 KiB per token.
        assert kv_bytes(published("llama2-7b"), Run(4096)) == 4096 * 512 * 1024

    def test_grouped_heads(self) -> None:
        # 32 × 8 × 256 × 2 = 128 KiB per token; in blocks of 34 bytes for 32 elements 68 KiB.
        assert kv_bytes(published("llama3-8b"), Run(8192)) == 8192 * 128 * 1024
        assert kv_bytes(published("llama3-8b"), Run(8192, cache_type_k="q8_0", cache_type_v="q8_0")) == 8192 * 68 * 1024

    def test_windows(self) -> None:
        # Gemma 3 27B: ten of 62 layers see all, 52 the last 1024; 16 heads × 256 × 2 bytes = 8 KiB a token and layer.
        # At 32768 tokens: 10 × 32768 + 52 × (1024 + 512) cells.
        info = published("gemma3-27b")
        assert [layer.window for layer in each_layer(info)].count(None) == 10
        assert kv_bytes(info, Run(32768)) == (10 * 32768 + 52 * 1536) * 8192
        assert kv_bytes(info, Run(32768, swa_full=True)) == 62 * 32768 * 8192

    def test_a_window_for_all_slots_together(self) -> None:
        layer = Layer("attention", num_kv_heads=1, key_length=64, value_length=64, window=1000)
        assert window_cells(layer, Run(8192, num_slots=3)) == 1536, "1000 + 512 rounded up"
        assert window_cells(layer, Run(8192, num_slots=3, kv_unified=True)) == 3584, "3 × 1000 + 512 rounded up"
        assert window_cells(layer, Run(600)) == 768, "never more than the context"

    def test_compressed(self) -> None:
        # DeepSeek-V3: 61 layers × (512 + 64) elements × 2 bytes; values are read out of the same rows.
        assert kv_bytes(published("deepseek-v3"), Run(4096)) == 4096 * 61 * 576 * 2

    def test_an_index_beside_the_compressed(self) -> None:
        assert kv_bytes(published("deepseek-v3.2"), Run(4096)) == 4096 * 61 * (576 + 128) * 2

    def test_a_window_and_compressed_rows_beyond_it(self) -> None:
        # A row of 512 elements for each token of the window of 128 + 512, and one for four or 128 tokens of the context.
        plain = Layer("mla", num_kv_heads=1, key_length=512, value_length=512, window=128)
        run = Run(65536)
        assert kv_bytes_of(plain, run, 0) == 768 * 1024
        assert kv_bytes_of(replace(plain, compress_ratio=128), run, 0) == (768 + 512) * 1024
        with_index = replace(plain, compress_ratio=4, index_length=128)
        assert kv_bytes_of(with_index, run, 0) == (768 + 16384) * 1024 + 16384 * 256

    def test_shared_by_later_layers(self) -> None:
        # Gemma 3n E4B: of 35 layers 20 keep: four of them all tokens, 16 the last 512; 2 heads × 512 × 2 bytes.
        assert kv_bytes(published("gemma3n-e4b"), Run(8192)) == (4 * 8192 + 16 * 1024) * 2048

    def test_states_instead_of_tokens(self) -> None:
        # Mamba 2.8B: 64 layers × (3 × 5120 + 16 × 5120) × 4 bytes, however long the context.
        info = published("mamba-2.8b")
        for ctx_size in (256, 100_000):
            assert kv_bytes(info, Run(ctx_size)) == 0
            assert state_bytes(info, Run(ctx_size, num_slots=3)) == 3 * 64 * 19 * 5120 * 4

    def test_states_beside_tokens(self) -> None:
        # Qwen3-Next: each fourth of 48 layers attends; 36 keep 3 × (4096 + 2 × 16 × 128) and 128 × 4096 numbers.
        info = published("qwen3-next-80b")
        assert kv_bytes(info, Run(4096)) == 12 * 4096 * 2 * 512 * 2
        assert state_bytes(info, Run(4096)) == 36 * (3 * 8192 + 128 * 4096) * 4

    def test_without_flash_attention_all_values_are_as_wide_as_the_widest(self) -> None:
        wide = Layer("attention", num_kv_heads=2, key_length=512, value_length=512, is_shared=True)
        narrow = Layer("attention", num_kv_heads=2, key_length=256, value_length=256)
        assert kv_bytes_of(narrow, Run(256), widest_values((wide, narrow))) == 256 * (512 + 512) * 2
        assert kv_bytes_of(narrow, Run(256, flash_attn=False), widest_values((wide, narrow))) == 256 * (512 + 1024) * 2

    def test_recurrent_layers_of_rwkv(self) -> None:
        # 32 layers × (2 × 4096 shifted inputs + 4096 × 64 numbers) × 4 bytes.
        assert state_bytes(published("rwkv6-7b"), Run(4096)) == 32 * (2 * 4096 + 4096 * 64) * 4


@pytest.mark.parametrize(("ctx_size", "slots", "cells"), [(1, 1, 256), (257, 1, 512), (1000, 3, 1024), (4096, 2, 4096)])
def test_caches_are_rounded_up(ctx_size: int, slots: int, cells: int) -> None:
    assert Run(ctx_size, slots).cells == cells
    assert Run(ctx_size, slots, kv_unified=True).cells == -(-ctx_size * slots // 256) * 256


def test_rows_are_whole_blocks() -> None:
    assert row_bytes(80, "f16") == 160
    assert row_bytes(80, "q8_0") == 3 * 34
    assert row_bytes(64, "q4_0") == 2 * 18


def test_types_that_the_engine_refuses() -> None:
    info = published("llama3-8b")
    assert all(takes_cache_type(info, name, name, flash_attn=True) for name in CACHE_BLOCKS)
    assert takes_cache_type(info, "q8_0", "f16", flash_attn=False)
    assert not takes_cache_type(info, "f16", "q8_0", flash_attn=False), "quantised values need flash attention"
    odd = replace(info, layers=(Layer("attention", num_kv_heads=4, key_length=80, value_length=80),))
    assert takes_cache_type(odd, "f16", "bf16", flash_attn=True)
    assert not takes_cache_type(odd, "q8_0", "f16", flash_attn=True), "80 is no multiple of 32"


def test_information_stored_by_earlier_versions_counts_all_tokens() -> None:
    info = ModelInfo(
        "gguf",
        "gemma3",
        num_kv_heads=(2, 0, 2),
        key_length=64,
        value_length=64,
        sliding_window=512,
        weights_bytes=100,
        num_layers=3,
    )
    assert [layer.kind for layer in each_layer(info)] == ["attention", "none", "attention"]
    assert kv_bytes(info, Run(1024)) == 1024 * 2 * 2 * 128 * 2
    assert sum(layer.dense_bytes for layer in each_layer(info)) == 100


def test_a_foreign_record_cannot_ask_for_endless_layers() -> None:
    info = ModelInfo("gguf", "llama", layers=(Layer("attention", 10**15, num_kv_heads=1, key_length=1, value_length=1),))
    assert len(list(each_layer(info))) == 1024


@given(
    ctx_size=st.integers(1, 300_000),
    slots=st.integers(1, 16),
    unified=st.booleans(),
    name=st.sampled_from(sorted(SHAPES)),
    kind=st.sampled_from(sorted(CACHE_BLOCKS)),
)
def test_more_context_or_slots_never_take_less(ctx_size: int, slots: int, unified: bool, name: str, kind: str) -> None:
    info = published(name)

    def total(ctx_size: int, slots: int) -> int:
        run = Run(ctx_size, slots, cache_type_k=kind, cache_type_v=kind, kv_unified=unified)
        return kv_bytes(info, run) + state_bytes(info, run)

    assert total(ctx_size, slots) <= total(ctx_size + 300, slots)
    assert total(ctx_size, slots) <= total(ctx_size, slots + 1)
