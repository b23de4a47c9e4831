"""The memory bill of a model, in bytes.

KV cache: every layer keeps, for each token, ``num_kv_heads × (key_length + value_length)`` elements (Vaswani et al. 2017;
grouped queries: Ainslie et al. 2023), each of the cache type's size; llama.cpp reports the same figure at load.
Compute buffers: fitted to what llama.cpp reports for its CPU backend with flash attention.
"""

from __future__ import annotations

from fractions import Fraction

from zhibei.models import ModelInfo
from zhibei.plans import MemoryLine

# Bytes per element; quantised types store blocks of 32 elements with a scale (and a minimum): ggml's block sizes.
CACHE_TYPE_BYTES = {
    "f32": Fraction(4),
    "f16": Fraction(2),
    "bf16": Fraction(2),
    "q8_0": Fraction(34, 32),
    "q5_1": Fraction(24, 32),
    "q5_0": Fraction(22, 32),
    "q4_1": Fraction(20, 32),
    "q4_0": Fraction(18, 32),
    "iq4_nl": Fraction(18, 32),
}
CELLS = 256
# A worker without a model: the interpreter and the engine's library, as measured on Linux.
PROCESS_BYTES = 64 * 1024 * 1024


def kv_bytes_per_token(info: ModelInfo, cache_type_k: str, cache_type_v: str) -> int | None:
    """Bytes of KV cache one token takes over all layers; None where the header does not say enough."""
    if not info.num_kv_heads or info.key_length is None or info.value_length is None:
        return None
    heads = sum(info.num_kv_heads)
    keys = heads * info.key_length * CACHE_TYPE_BYTES[cache_type_k]
    values = heads * info.value_length * CACHE_TYPE_BYTES[cache_type_v]
    return int(keys + values)


def kv_bytes(per_token: int | None, ctx_size: int, num_slots: int) -> int:
    """Bytes of KV cache of all slots; llama.cpp rounds each slot's context up to a multiple of 256 cells."""
    return (per_token or 0) * -(-ctx_size // CELLS) * CELLS * num_slots


def compute_bytes(info: ModelInfo, ubatch_size: int, ctx_size: int, num_slots: int) -> int:
    """Bytes of the engine's scratch: activations and attention mask of one micro-batch, and one row of logits per slot."""
    width = 3 * (info.feed_forward_length or 4 * (info.embedding_length or 4096)) + 5 * (info.embedding_length or 4096)
    activations = ubatch_size * width * 4
    mask = ubatch_size * ctx_size * 2
    logits = num_slots * (info.vocabulary_size or 0) * 4
    return activations + mask + logits


def bill(
    *, weights_bytes: int, kv_bytes: int, scratch_bytes: int, prompt_cache_bytes: int, extra: tuple[tuple[str, int], ...] = ()
) -> tuple[MemoryLine, ...]:
    """The lines of the bill; items of no size are left out."""
    lines = (
        ("weights", weights_bytes),
        *extra,
        ("kv cache", kv_bytes),
        ("compute", scratch_bytes),
        ("prompt cache", prompt_cache_bytes),
        ("process", PROCESS_BYTES),
    )
    return tuple(MemoryLine(what, "cpu", num_bytes) for what, num_bytes in lines if num_bytes)
