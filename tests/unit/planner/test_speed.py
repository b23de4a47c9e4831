"""The first estimate of speed, and the batch size it gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.models import ModelInfo
from zhibei.planner import speed
from zhibei.plans import Gpu, Hardware

CPU = Hardware("test", 8, 16, None, None)


def model(num_parameters: int | None, num_experts: int | None = None, num_experts_used: int | None = None) -> ModelInfo:
    return ModelInfo("gguf", "x", num_parameters=num_parameters, num_experts=num_experts, num_experts_used=num_experts_used)


def test_two_operations_per_parameter() -> None:
    assert speed.prompt_tokens_per_s(model(8 * 10**9), 8) == pytest.approx(30.0)
    assert speed.prompt_tokens_per_s(model(8 * 10**9), 16) == pytest.approx(60.0)
    assert speed.prompt_tokens_per_s(model(None), 8) is None
    assert speed.prompt_tokens_per_s(model(0), 8) is None


def test_of_a_mixture_only_the_experts_in_use_compute() -> None:
    dense, mixture = speed.prompt_tokens_per_s(model(30 * 10**9), 8), speed.prompt_tokens_per_s(model(30 * 10**9, 128, 8), 8)
    assert dense is not None and mixture == pytest.approx(dense * 16)


@pytest.mark.parametrize(
    ("num_parameters", "threads", "size"),
    [
        (135_000_000, 8, 1024),
        (135_000_000, 1, 128),
        (8 * 10**9, 8, 32),
        (70 * 10**9, 1, 32),
        (1_000_000, 64, 2048),
        (None, 8, 512),
    ],
)
def test_a_batch_takes_about_a_second(num_parameters: int | None, threads: int, size: int) -> None:
    assert speed.batch_size(model(num_parameters), CPU, threads) == size


@pytest.mark.parametrize("num_parameters", [None, 70 * 10**9])
def test_with_a_gpu_batches_are_large(num_parameters: int | None) -> None:
    hardware = Hardware("test", 8, 16, None, None, gpus=(Gpu("g", "v"),))
    assert speed.batch_size(model(num_parameters), hardware, 1) == speed.MAX_BATCH


@given(st.integers(1, 10**13), st.integers(1, 512))
def test_a_batch_is_a_power_of_two_within_bounds(num_parameters: int, threads: int) -> None:
    size = speed.batch_size(model(num_parameters), CPU, threads)
    assert speed.MIN_BATCH <= size <= speed.MAX_BATCH and size & (size - 1) == 0
    rate = speed.prompt_tokens_per_s(model(num_parameters), threads)
    assert rate is not None and (size <= rate or size == speed.MIN_BATCH)
