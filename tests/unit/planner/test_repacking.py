"""What the engine rewrites for the processor, and when a file is better read than mapped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zhibei.models import Layer, ModelInfo
from zhibei.planner.memory import bill_of
from zhibei.planner.placement import Placement
from zhibei.planner.repacking import copied_output_bytes, is_better_read, repacked_bytes, repacked_types

MIB = 1 << 20
AVX2 = repacked_types(("avx2",))
# An embedding of 1024 × 64 weights in Q4_0 takes 1024 × 64 × 18 / 32 bytes.
EMBEDDING_BYTES = 1024 * 64 * 18 // 32
TIED = ModelInfo(
    "gguf",
    "llama",
    weights_bytes=10 * MIB + EMBEDDING_BYTES,
    tensor_types=(("F32", 3, 1000), ("Q4_0", 15, 10 * MIB - 1000 + EMBEDDING_BYTES)),
    embedding_length=64,
    vocabulary_size=1024,
    num_layers=2,
    num_kv_heads=(1, 1),
    key_length=32,
    value_length=32,
    layers=(Layer("attention", 2, 2, 1, 32, 32, dense_bytes=5 * MIB),),
    embedding_bytes=EMBEDDING_BYTES,
    output_bytes=0,
    lookup_bytes=0,
    other_bytes=0,
)


def lines(info: ModelInfo, *, is_mapped: bool, placement: Placement | None = None) -> dict[str, int]:
    bill = bill_of(info, ctx_size=256, repacked=AVX2, is_mapped=is_mapped, placement=placement)
    return {line.what: line.num_bytes for line in bill if line.device == "cpu"}


@pytest.mark.parametrize(
    ("features", "has", "has_not"),
    [((), (), ("Q4_0", "Q8_0")), (("avx2",), ("Q4_0", "Q4_K"), ("Q8_0", "Q2_K")), (("avx2", "avx512f"), ("Q2_K",), ("Q8_0",))],
)
def test_what_is_rewritten_depends_on_the_processor(
    features: tuple[str, ...], has: tuple[str, ...], has_not: tuple[str, ...]
) -> None:
    found = repacked_types(features)
    assert found.issuperset(has)
    assert found.isdisjoint(has_not)
    assert "Q8_0" in repacked_types(("asimddp",))


def test_the_embedding_is_copied_only_where_it_is_the_output() -> None:
    assert copied_output_bytes(TIED, AVX2) == EMBEDDING_BYTES
    assert copied_output_bytes(replace(TIED, output_bytes=EMBEDDING_BYTES), AVX2) == 0
    assert copied_output_bytes(replace(TIED, embedding_bytes=1024 * 64 * 2), AVX2) == 0, "one in F16 is not rewritten"
    assert copied_output_bytes(TIED, ()) == 0


def test_a_mapped_file_is_there_twice_and_one_that_is_read_is_not() -> None:
    assert repacked_bytes(TIED, AVX2) == 10 * MIB - 1000
    assert lines(TIED, is_mapped=False)["repacked"] == EMBEDDING_BYTES
    assert lines(TIED, is_mapped=True)["repacked"] == EMBEDDING_BYTES + 10 * MIB - 1000


def test_layers_on_a_device_are_not_rewritten() -> None:
    half = Placement(layers_per_gpu=(1,), output_device=0)
    assert lines(TIED, is_mapped=True, placement=half)["repacked"] == (10 * MIB - 1000) // 2
    assert "repacked" not in lines(TIED, is_mapped=True, placement=Placement((2,), 0))


def test_a_file_is_read_where_most_of_it_would_be_there_twice() -> None:
    assert is_better_read(TIED, AVX2)
    assert not is_better_read(replace(TIED, tensor_types=(("Q8_0", 15, 10 * MIB), ("Q4_0", 2, MIB))), AVX2)
    assert not is_better_read(TIED, ())
    assert not is_better_read(ModelInfo("unknown", "unknown"), AVX2)
