"""Weights that llama.cpp rewrites for the processor while it loads them: which types, and what that costs. Pure.

They are copied into memory of the engine's own, so a file that is mapped into memory is then there twice, and an embedding
that is also the output is copied however the file is read.
Source: ``ggml_repack_get_optimal_repack_type`` in ggml/src/ggml-cpu/repack.cpp; the types of AVX2 were measured as well.
"""

from __future__ import annotations

from collections.abc import Collection

from zhibei.models import ModelInfo

_AVX2 = frozenset(("Q4_0", "Q4_K", "IQ4_NL", "MXFP4"))
_AVX512 = _AVX2 | {"Q2_K"}
_ARM = frozenset(("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4"))
# Bits per weight of the types with four bits that are rewritten: 18 bytes for 32 weights, or 17.
_FOUR_BITS = (4.25, 4.5)
_MOST = 0.5


def repacked_types(cpu_features: Collection[str]) -> frozenset[str]:
    """The types that are rewritten on a processor with these instruction sets."""
    if "asimddp" in cpu_features or "i8mm" in cpu_features:
        return _ARM
    if "avx512f" in cpu_features:
        return _AVX512
    return _AVX2 if "avx2" in cpu_features else frozenset()


def repacked_bytes(info: ModelInfo, types: Collection[str]) -> int:
    """Bytes of weights in the layers that are rewritten; the embedding, of which rows are looked up, is not."""
    total = sum(num_bytes for name, _, num_bytes in info.tensor_types if name in types)
    return max(0, total - (info.embedding_bytes or 0)) if _is_four_bits(info) else total


def copied_output_bytes(info: ModelInfo, types: Collection[str]) -> int:
    """Bytes of the embedding's copy where it is also the output; the header gives no type for it, so its size must tell."""
    is_tied = info.output_bytes == 0 and info.embedding_bytes is not None
    is_rewritten = any(name in types for name, _, _ in info.tensor_types) and _is_four_bits(info)
    return (info.embedding_bytes or 0) if is_tied and is_rewritten else 0


def is_better_read(info: ModelInfo, types: Collection[str]) -> bool:
    """Whether the file is better read than mapped: most of it would be in memory twice."""
    return repacked_bytes(info, types) > _MOST * (info.weights_bytes or 0) > 0


def _is_four_bits(info: ModelInfo) -> bool:
    elements = (info.vocabulary_size or 0) * (info.embedding_length or 0)
    return elements > 0 and 8 * (info.embedding_bytes or 0) / elements in _FOUR_BITS
