"""How fast a model will be, before it was ever run. A first estimate for choosing sizes, not for promising speeds.

A token costs about 2 floating-point operations per active parameter (Kaplan et al. 2020). What a core delivers in
llama.cpp's quantised products was measured at about 120 GFLOP/s on a Zen 5 core without AVX-512; older cores give half.
"""

from __future__ import annotations

from zhibei.models import ModelInfo
from zhibei.plans import Hardware

GFLOPS_PER_CORE = 60.0
MIN_BATCH, MAX_BATCH = 32, 2048


def prompt_tokens_per_s(info: ModelInfo, num_threads: int) -> float | None:
    """Prompt tokens/s on the CPU; None where the number of parameters is not known."""
    if not info.num_parameters:
        return None
    share = (info.num_experts_used or 1) / (info.num_experts or 1) if info.num_experts else 1.0
    return num_threads * GFLOPS_PER_CORE * 1e9 / (2.0 * info.num_parameters * share)


def batch_size(info: ModelInfo, hardware: Hardware, num_threads: int) -> int:
    """The largest power of two of tokens that one batch finishes in about a second.

    The engine looks for clients that have left only between batches. With a GPU batches are short: the largest.
    """
    speed = prompt_tokens_per_s(info, num_threads)
    if hardware.gpus or speed is None:
        return 512 if speed is None and not hardware.gpus else MAX_BATCH
    size = MIN_BATCH
    while size * 2 <= min(speed, MAX_BATCH):
        size *= 2
    return size
