"""Attention by every shape of model, cache and mask: as exact as ggml's own, or more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ggml import Bytes, Child, Floats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measures import no_worse

Array = npt.NDArray[Any]
_HIDDEN = -np.inf


@dataclass(frozen=True, slots=True)
class Case:
    """One attention, but for its numbers."""

    key_values: int = 64
    values: int = 64
    heads: int = 6
    key_heads: int = 2
    positions: int = 1
    keys: int = 100
    sequences: int = 1
    key_type: str = "F16"
    value_type: str = "F16"
    mask: str = "causal"
    threads: int = 2
    sinks: bool = False
    bias: float = 0.0
    softcap: float = 0.0
    seed: int = field(default=0, compare=False)


def _mask(case: Case, random: np.random.Generator) -> Array | None:
    """What positions may see: the last `positions` keys are their own."""
    key, position = np.arange(case.keys), np.arange(case.positions)[:, None]
    end = case.keys - case.positions + position
    kinds: dict[str, Callable[[], Array | None]] = {
        "none": lambda: None,
        "causal": lambda: np.where(key <= end, 0.0, _HIDDEN),
        "window": lambda: np.where((key <= end) & (key > end - 20), 0.0, _HIDDEN),
        "apart": lambda: np.where(key % 3 == position % 3, 0.0, _HIDDEN),
        "nothing": lambda: np.where(position % 2 == 0, _HIDDEN, 0.0) + 0.0 * key,
        "distance": lambda: np.where(key <= end, -np.abs(end - key) * 0.125, _HIDDEN),
        "by-head": lambda: random.choice([0.0, -1.5, _HIDDEN], (case.sequences, case.heads, case.positions, case.keys)),
    }
    rows = kinds[case.mask]()
    if rows is None:
        return None
    shape = rows.shape if case.mask == "by-head" else (1, 1, case.positions, case.keys)
    return np.broadcast_to(rows, shape).astype(np.float16)


def _stored(ggml: Child, type_name: str, array: Floats) -> tuple[Bytes, Floats]:
    """A cache of that type, and what it says exactly."""
    stored = ggml.call("quantise", type_name, array)
    if type_name == "F16":
        return stored, stored.view(np.float16).reshape(array.shape).astype(np.float32)
    if type_name == "BF16":
        return stored, (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(array.shape)
    blocks = stored.reshape(-1, 34)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return stored, (scales * blocks[:, 2:].view(np.int8)).astype(np.float32).reshape(array.shape)


def _request(ggml: Child, case: Case) -> tuple[dict[str, Any], Floats, Floats]:
    """What `Ggml.attend` takes, and the keys and values as they were stored."""
    random = np.random.default_rng(case.seed)
    queries = random.standard_normal((case.sequences, case.positions, case.heads, case.key_values), np.float32) * 2
    key_shape = (case.sequences, case.keys, case.key_heads, case.key_values)
    value_shape = (*key_shape[:3], case.values)
    keys, exact_keys = _stored(ggml, case.key_type, random.standard_normal(key_shape, np.float32))
    values, exact_values = _stored(ggml, case.value_type, random.standard_normal(value_shape, np.float32))
    request = {
        "queries": queries, "keys": keys, "values": values, "keys_shape": key_shape, "values_shape": value_shape,
        "keys_type": case.key_type, "values_type": case.value_type, "mask": _mask(case, random),
        "sinks": random.standard_normal(case.heads).astype(np.float32) * 3 if case.sinks else None,
        "scale": 1 / np.sqrt(case.key_values), "bias": case.bias, "softcap": case.softcap, "threads": case.threads,
    }  # fmt: skip
    return request, exact_keys, exact_values


def _slopes(bias: float, heads: int) -> Array:
    power = 1 << (heads.bit_length() - 1)
    first, second = 2.0 ** (-bias / power), 2.0 ** (-bias / 2 / power)
    return np.array([first ** (h + 1) if h < power else second ** (2 * (h - power) + 1) for h in range(heads)])


def _exact(case: Case, request: dict[str, Any], keys: Floats, values: Floats) -> Array:
    """In float64, all at once."""
    group = case.heads // case.key_heads
    wide_keys, wide_values = (np.repeat(array.astype(np.float64), group, axis=2) for array in (keys, values))
    scores = np.einsum("snhd,skhd->shnk", request["queries"].astype(np.float64), wide_keys) * np.float32(request["scale"])
    if case.softcap:
        scores = case.softcap * np.tanh(scores / case.softcap)
    if request["mask"] is not None:
        slopes = _slopes(case.bias, case.heads) if case.bias else np.ones(case.heads)
        scores = scores + request["mask"].astype(np.float64) * slopes[None, :, None, None]
    top = scores.max(axis=-1, keepdims=True, initial=_HIDDEN)
    if request["sinks"] is not None:
        top = np.maximum(top, request["sinks"].astype(np.float64)[None, :, None, None])
    top = np.where(np.isneginf(top), 0.0, top)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    if request["sinks"] is not None:
        total += np.exp(request["sinks"].astype(np.float64)[None, :, None, None] - top)
    means: Array = np.einsum("shnk,skhd->snhd", weights / np.where(total == 0, 1, total), wide_values)
    return means


def _errors(ggml: Child, stock: Child, case: Case) -> tuple[float, float]:
    """Normalised errors of ggml's attention and of the kernels'."""
    request, keys, values = _request(ggml, case)
    exact = _exact(case, request, keys, values).reshape(-1)
    found = []
    for side in (stock, ggml):
        off = side.call("attend", request)["out"].astype(np.float64) - exact
        found.append(float(np.sqrt((off**2).sum() / ((exact**2).sum() + 1e-30))))
    return found[0], found[1]


def _check(ggml: Child, stock: Child, case: Case) -> None:
    theirs, ours = _errors(ggml, stock, case)
    assert no_worse(theirs, ours), (case, theirs, ours)


def test_attention_is_in_use(ggml: Child, stock: Child) -> None:
    assert ggml.call("attention") is True
    assert stock.call("attention") is False
    # The two round differently: each must have computed on its own.
    request, _, _ = _request(ggml, Case())
    assert not np.array_equal(ggml.call("attend", request)["out"], stock.call("attend", request)["out"])


@pytest.mark.parametrize("positions", [1, 3, 70])
@pytest.mark.parametrize(
    "sizes", [(32, 32), (40, 40), (64, 64), (72, 72), (80, 80), (96, 96), (128, 128), (192, 128), (256, 256), (576, 512)], ids=str
)
def test_sizes_of_heads(ggml: Child, stock: Child, sizes: tuple[int, int], positions: int) -> None:
    _check(ggml, stock, Case(*sizes, positions=positions, keys=150))


@pytest.mark.parametrize("positions", [1, 2, 19])
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 8, 16])
def test_heads_that_share_keys(ggml: Child, stock: Child, group: int, positions: int) -> None:
    for key_heads in (1, 3):
        _check(ggml, stock, Case(heads=group * key_heads, key_heads=key_heads, positions=positions, keys=200))


@pytest.mark.parametrize("mask", ["none", "causal", "window", "apart", "nothing", "distance", "by-head"])
@pytest.mark.parametrize("positions", [1, 5, 64, 130])
def test_masks(ggml: Child, stock: Child, positions: int, mask: str) -> None:
    for keys, sequences in ((131, 3), (600, 1)):
        _check(ggml, stock, Case(positions=positions, keys=keys, mask=mask, sequences=sequences, threads=3))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("keys", [1, 2, 64, 65, 257, 511, 2000])
def test_lengths_of_the_cache(ggml: Child, stock: Child, keys: int, threads: int) -> None:
    for positions in (1, min(keys, 30)):
        for key_heads in (1, 2, 3):
            mask = "none" if positions == 1 else "causal"
            _check(ggml, stock, Case(heads=6, key_heads=key_heads, positions=positions, keys=keys, threads=threads, mask=mask))


@pytest.mark.parametrize("types", [("F16", "F16"), ("BF16", "BF16"), ("Q8_0", "Q8_0"), ("Q8_0", "F16"), ("F16", "Q8_0")], ids=str)
@pytest.mark.parametrize("positions", [1, 4, 70])
def test_types_of_caches(ggml: Child, stock: Child, positions: int, types: tuple[str, str]) -> None:
    for size in (32, 64, 160):
        _check(ggml, stock, Case(size, size, positions=positions, keys=333, key_type=types[0], value_type=types[1]))


@pytest.mark.parametrize("positions", [1, 7, 70])
@pytest.mark.parametrize("extra", [{"sinks": True}, {"softcap": 20.0}, {"bias": 8.0, "mask": "distance"}], ids=str)
def test_sinks_caps_and_biases(ggml: Child, stock: Child, extra: dict[str, Any], positions: int) -> None:
    for keys in (90, 700):
        _check(ggml, stock, replace(Case(heads=6, positions=positions, keys=keys), **extra))
    _check(ggml, stock, replace(Case(heads=7, key_heads=7, positions=positions, keys=90), **{**extra, "sinks": True}))


def test_a_prompt_on_top_of_a_cache(ggml: Child, stock: Child) -> None:
    for heads, key_heads in ((8, 8), (6, 2), (8, 1)):
        _check(ggml, stock, Case(heads=heads, key_heads=key_heads, positions=512, keys=768, sequences=1))
        _check(ggml, stock, Case(heads=heads, key_heads=key_heads, positions=200, keys=256, sequences=2, threads=4))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.builds(
        Case,
        key_values=st.sampled_from([32, 64, 80, 96, 128]),
        values=st.sampled_from([32, 64, 80, 128]),
        heads=st.sampled_from([4, 8, 12]),
        key_heads=st.sampled_from([1, 2, 4]),
        positions=st.integers(1, 70),
        keys=st.integers(70, 900),
        sequences=st.integers(1, 3),
        key_type=st.sampled_from(["F16", "BF16"]),
        value_type=st.sampled_from(["F16", "BF16"]),
        mask=st.sampled_from(["none", "causal", "window", "apart", "nothing", "by-head"]),
        threads=st.integers(1, 4),
        sinks=st.booleans(),
        softcap=st.sampled_from([0.0, 30.0]),
        seed=st.integers(0, 2**31),
    )
)
def test_any_attention(ggml: Child, stock: Child, case: Case) -> None:
    _check(ggml, stock, case)


@pytest.mark.parametrize("positions", [1, 70])
@pytest.mark.parametrize(
    ("where", "value"), [("queries", np.nan), ("keys", np.nan), ("values", np.nan), ("values", np.inf), ("values", -np.inf)]
)
def test_what_is_strange_stays_strange(ggml: Child, stock: Child, where: str, value: float, positions: int) -> None:
    request, _, _ = _request(ggml, Case(heads=2, key_heads=2, positions=positions, keys=100, threads=1))
    array = request[where] if where == "queries" else request[where].view(np.float16).reshape(request[f"{where}_shape"])
    array[0, 0, 1, 3] = value
    ours, theirs = (side.call("attend", request)["out"].reshape(positions, 2, 64) for side in (ggml, stock))
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs))
    np.testing.assert_allclose(ours[:, 0], theirs[:, 0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("positions", [1, 4])
def test_hidden_keys_may_hold_anything(ggml: Child, positions: int) -> None:
    request, keys, values = _request(ggml, Case(positions=positions, keys=100, mask="apart"))
    exact = _exact(Case(positions=positions, keys=100, mask="apart"), request, keys, values)
    hidden = np.isneginf(request["mask"][0, 0]).all(axis=0)
    if positions == 4:
        assert not hidden.any()
        return
    for where in ("keys", "values"):
        request[where].view(np.float16).reshape(request[f"{where}_shape"])[:, hidden] = np.nan
    np.testing.assert_allclose(ggml.call("attend", request)["out"].reshape(exact.shape), exact, atol=1e-4)


@pytest.mark.parametrize("types", [("F32", "F32"), ("Q4_0", "Q4_0"), ("Q8_0", "Q4_0")], ids=str)
def test_what_is_not_taken_is_left_to_ggml(ggml: Child, stock: Child, types: tuple[str, str]) -> None:
    request, _, _ = _request(ggml, Case(positions=3))
    random = np.random.default_rng(1)
    for where, kind in zip(("keys", "values"), types, strict=True):
        array = random.standard_normal(request[f"{where}_shape"], np.float32)
        request[where] = array if kind == "F32" else ggml.call("quantise", kind, array)
        request[f"{where}_type"] = kind
    ours, theirs = (side.call("attend", request)["out"] for side in (ggml, stock))
    np.testing.assert_array_equal(ours, theirs)
