"""Weights that were not read: exact in their sum, laid by what was read or by the shape."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zhibei.formats.unread import elements, expanded, scaled, types_of, with_weights
from zhibei.models import Layer, ModelInfo

LAYER = Layer("attention", num_heads=8, num_kv_heads=2, key_length=64, value_length=64, feed_forward_length=1536)
DENSE = ModelInfo(
    "gguf",
    "llama",
    embedding_length=512,
    feed_forward_length=1536,
    vocabulary_size=1000,
    num_layers=4,
    num_heads=8,
    layers=(replace(LAYER, count=4),),
)
MIXTURE = replace(DENSE, num_experts=8, num_experts_used=2, expert_feed_forward_length=256)


def laid(info: ModelInfo) -> int:
    """All weights together."""
    layers = sum((layer.dense_bytes + layer.expert_bytes) * layer.count for layer in info.layers)
    outside = (info.embedding_bytes or 0) + (info.output_bytes or 0) + (info.lookup_bytes or 0) + (info.other_bytes or 0)
    return layers + outside


def test_the_numbers_of_a_shape() -> None:
    counted = elements(DENSE)
    attention = 512 * (8 * 64 + 2 * 128 + 8 * 64)
    assert counted.layers == ((attention + 3 * 512 * 1536, 0),) * 4
    assert (counted.embedding, counted.output) == (512_000, 512_000)
    assert elements(DENSE, is_tied=True).output == 0
    assert elements(MIXTURE).layers[0] == (attention, 8 * 3 * 512 * 256)


@pytest.mark.parametrize("info", [DENSE, MIXTURE])
@pytest.mark.parametrize("is_tied", [False, True])
def test_the_sum_is_what_it_is_said_to_be(info: ModelInfo, is_tied: bool) -> None:
    found = with_weights(info, 10_000_000, is_tied=is_tied)
    assert laid(found) == pytest.approx(10_000_000, abs=20)
    assert found.num_parameters == elements(info, is_tied=is_tied).total
    assert bool(found.output_bytes) is not is_tied


def test_a_layer_that_was_read_stands_for_the_others() -> None:
    read = replace(LAYER, dense_bytes=100, expert_bytes=900)
    half = replace(LAYER, dense_bytes=30, expert_bytes=0)
    found = with_weights(replace(MIXTURE, layers=(read, half, replace(LAYER, count=2)), embedding_bytes=5000), 105_000)
    layers = expanded(found.layers)
    assert [(layer.dense_bytes, layer.expert_bytes) for layer in layers] == [(2500, 22500)] * 4
    assert (found.embedding_bytes, found.output_bytes) == (5000, 0)


def test_quantised_tensors_leave_the_embedding_at_sixteen_bits() -> None:
    found = with_weights(replace(DENSE, format="safetensors"), 8_000_000)
    assert found.embedding_bytes == 1_024_000


def test_another_quantisation_is_everything_by_one_factor() -> None:
    whole = with_weights(MIXTURE, 10_000_000)
    found = scaled(whole, 20_000_000, "Q8_0")
    assert laid(found) == pytest.approx(20_000_000, rel=1e-5)
    assert (found.quantisation, found.tensor_types) == ("Q8_0", (("Q8_0", 1, 20_000_000),))
    assert found.num_parameters == whole.num_parameters


def test_a_model_of_which_nothing_is_known_has_at_least_a_size() -> None:
    empty = ModelInfo("gguf", "x")
    assert with_weights(empty, 500).weights_bytes == 500
    assert scaled(empty, 700, None).weights_bytes == 700


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("Q4_K_M", "Q4_K"),
        ("UD-Q4_K_XL", "Q4_K"),
        ("IQ4_XS", "IQ4_XS"),
        ("fp16", "F16"),
        ("MXFP4_MOE", "MXFP4"),
        ("nonsense", None),
    ],
)
def test_types_of_a_label(label: str, kind: str | None) -> None:
    assert types_of(label, 7) == (() if kind is None else ((kind, 1, 7),))
