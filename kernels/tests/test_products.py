"""Every format by every shape: as exact as ggml's own path, or more."""

from __future__ import annotations

import numpy as np
import pytest
from ggml import TYPES, Child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measures import Weights, errors, no_worse, request, weights

# Rows that fill no tile, rows that do; columns for one thread, for registers, for the cache, and beyond one prepared tile.
SHAPES = [
    (1, 256, 64),
    (130, 256, 1),
    (15, 512, 2),
    (33, 256, 3),
    (16, 768, 7),
    (47, 256, 13),
    (64, 1024, 64),
    (19, 512, 257),
    (16, 2816, 512),
]


def _product(ggml: Child, matrix: Weights, num_columns: int, threads: int = 2, seed: int = 1) -> tuple[float, float]:
    _, rows, values = matrix.exact.shape
    columns = np.random.default_rng(seed).standard_normal((num_columns, values), np.float32)
    exact = columns.astype(np.float64) @ matrix.exact[0].astype(np.float64).T
    return errors(ggml, request("mul_mat", matrix.type_name, (1, rows, values), matrix.stored, [columns], threads), exact)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("type_name", TYPES)
def test_a_product_is_as_exact_as_ggmls(ggml: Child, type_name: str, shape: tuple[int, int, int]) -> None:
    matrix = weights(ggml, type_name, (1, *shape[:2]))
    theirs, ours = _product(ggml, matrix, shape[2])
    assert no_worse(theirs, ours), (theirs, ours)


@pytest.mark.parametrize("type_name", ["Q4_K", "Q8_0", "F16"])
def test_a_matrix_large_enough_to_share_out(ggml: Child, type_name: str) -> None:
    matrix = weights(ggml, type_name, (1, 2061, 1024))
    for threads, num_columns in ((1, 1), (2, 1), (5, 1), (3, 2)):
        theirs, ours = _product(ggml, matrix, num_columns, threads)
        assert no_worse(theirs, ours), (threads, num_columns, theirs, ours)


@pytest.mark.parametrize("values", [32, 96, 416])
@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"])
def test_rows_that_no_larger_block_divides(ggml: Child, type_name: str, values: int) -> None:
    theirs, ours = _product(ggml, weights(ggml, type_name, (1, 21, values)), 19)
    assert no_worse(theirs, ours), (theirs, ours)


@pytest.mark.parametrize(
    ("type_name", "values"),
    [*(("F16", values) for values in (1, 7, 33, 250)), *(("BF16", values) for values in (2, 14, 66, 250))],
)
def test_float_rows_of_any_length(ggml: Child, type_name: str, values: int) -> None:
    for num_columns in (1, 5, 30):
        theirs, ours = _product(ggml, weights(ggml, type_name, (1, 18, values)), num_columns)
        assert no_worse(theirs, ours), (num_columns, theirs, ours)


def test_half_a_pair_of_bf16_is_left_to_ggml(ggml: Child) -> None:
    for values, supported in ((33, False), (34, True)):
        inputs = [np.zeros((3, values), np.float32)]
        stored = np.zeros(18 * 2 * values, np.uint8) if supported else None
        order = request("mul_mat", "BF16", (1, 18, values), stored, inputs)
        assert ggml.call("run", {**order, "buffer": "CPU_ZHIBEI"})["supported"] is supported


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    type_name=st.sampled_from(sorted(TYPES)),
    rows=st.integers(1, 70),
    blocks=st.integers(1, 6),
    num_columns=st.integers(1, 90),
    threads=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_any_shape(ggml: Child, type_name: str, rows: int, blocks: int, num_columns: int, threads: int, seed: int) -> None:
    theirs, ours = _product(ggml, weights(ggml, type_name, (1, rows, 256 * blocks), seed), num_columns, threads, seed)
    # One output of few may come out nearly exact by luck, on either side.
    assert no_worse(theirs, ours) or (rows * num_columns < 200 and ours < 0.03), (theirs, ours)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize(("tokens", "used", "shared_input"), [(1, 2, True), (1, 4, False), (9, 2, True), (70, 3, False)])
def test_experts(ggml: Child, type_name: str, tokens: int, used: int, shared_input: bool) -> None:
    experts, rows, values = 6, 37, 256
    matrix = weights(ggml, type_name, (experts, rows, values))
    random = np.random.default_rng(2)
    columns = random.standard_normal((tokens, 1 if shared_input else used, values), np.float32)
    ids = np.array([random.permutation(experts)[:used] for _ in range(tokens)], np.int32)
    inputs = np.broadcast_to(columns, (tokens, used, values)).astype(np.float64)
    exact = np.einsum("tuv,turv->tur", inputs, matrix.exact[ids].astype(np.float64))
    order = request("mul_mat_id", type_name, (experts, rows, values), matrix.stored, [columns, ids])
    theirs, ours = errors(ggml, order, exact)
    assert no_worse(theirs, ours), (theirs, ours)


@pytest.mark.parametrize(("experts", "tokens"), [(1, 1), (1, 20), (1, 70), (40, 1), (40, 32), (40, 33)])
def test_few_and_many_experts(ggml: Child, experts: int, tokens: int) -> None:
    shape = (experts, 150, 256)
    matrix = weights(ggml, "Q5_K", shape)
    random = np.random.default_rng(6)
    columns, ids = random.standard_normal((tokens, 1, shape[2]), np.float32), random.integers(0, experts, (tokens, 1), np.int32)
    exact = np.einsum("tuv,turv->tur", columns.astype(np.float64), matrix.exact[ids].astype(np.float64))
    theirs, ours = errors(ggml, request("mul_mat_id", "Q5_K", shape, matrix.stored, [columns, ids], 3), exact)
    assert no_worse(theirs, ours), (theirs, ours)


@pytest.mark.parametrize("threads", [1, 3, 7, 16])
@pytest.mark.parametrize("shared_input", [True, False])
def test_experts_of_one_token_by_any_threads(ggml: Child, threads: int, shared_input: bool) -> None:
    shape, chosen = (5, 37, 256), [4, 0, 4, 2]
    matrix = weights(ggml, "Q4_K", shape)
    columns = np.random.default_rng(5).standard_normal((1, 1 if shared_input else len(chosen), shape[2]), np.float32)
    exact = np.einsum("uv,urv->ur", np.broadcast_to(columns[0], (len(chosen), shape[2])).astype(np.float64), matrix.exact[chosen])
    order = request("mul_mat_id", "Q4_K", shape, matrix.stored, [columns, np.array([chosen], np.int32)], threads)
    theirs, ours = errors(ggml, order, exact)
    assert no_worse(theirs, ours), (theirs, ours)


@pytest.mark.parametrize("type_name", TYPES)
def test_rows_are_read_as_ggml_reads_them(ggml: Child, type_name: str) -> None:
    matrix = weights(ggml, type_name, (1, 37, 512))
    ids = np.array([36, 0, 15, 16, 31, 32, 5, 5], np.int32)
    order = request("get_rows", type_name, (1, 37, 512), matrix.stored, [ids])
    found = ggml.call("run", {**order, "buffer": "CPU_ZHIBEI"})["out"].reshape(len(ids), 512)
    np.testing.assert_allclose(found, matrix.exact[0][ids], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("type_name", TYPES)
def test_batches_of_columns_are_one_product(ggml: Child, type_name: str) -> None:
    matrix = weights(ggml, type_name, (1, 20, 256))
    columns = np.random.default_rng(4).standard_normal((3, 5, 256), np.float32)
    exact = columns.astype(np.float64) @ matrix.exact[0].astype(np.float64).T
    theirs, ours = errors(ggml, request("mul_mat", type_name, (1, 20, 256), matrix.stored, [columns]), exact)
    assert no_worse(theirs, ours), (theirs, ours)


@pytest.mark.parametrize("type_name", TYPES)
def test_repacked_weights_take_the_same_memory(ggml: Child, type_name: str) -> None:
    matrix = weights(ggml, type_name, (1, 64, 512))
    columns = np.zeros((1, 512), np.float32)
    order = request("mul_mat", type_name, (1, 64, 512), matrix.stored, [columns])
    assert ggml.call("run", {**order, "buffer": "CPU_ZHIBEI"})["buffer_bytes"] == matrix.stored.nbytes


@pytest.mark.parametrize("value", [0.0, np.inf, -np.inf, np.nan, 1e30, 1e-41])
@pytest.mark.parametrize("type_name", ["Q4_K", "Q6_K", "Q8_0"])
def test_strange_activations_stay_strange(ggml: Child, type_name: str, value: float) -> None:
    matrix = weights(ggml, type_name, (1, 16, 256))
    columns = np.ones((2, 256), np.float32)
    columns[1, 32:] = value
    order = request("mul_mat", type_name, (1, 16, 256), matrix.stored, [columns])
    ordinary, strange = ggml.call("run", {**order, "buffer": "CPU_ZHIBEI"})["out"].reshape(2, 16)
    np.testing.assert_allclose(ordinary, matrix.exact[0].sum(axis=1), rtol=0.01, atol=0.1)
    assert np.isfinite(strange).all() == bool(np.isfinite(value))
