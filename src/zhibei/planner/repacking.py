"""Weights that llama.cpp rewrites for the processor while it loads them: which types, and what that costs. Pure.

They are copied into memory of the engine's own, so a file that is mapped into memory is then there twice, and an embedding
that is also the output is copied however the file is read. Kernels of ours (``kernels``) do the same to more types, and to
the embedding: a file that is read is then there once.
Source: ``ggml_repack_get_optimal_repack_type`` in ggml/src/ggml-cpu/repack.cpp; the types of AVX2 were measured as well.
"""

from __future__ import annotations

from collections.abc import Collection

from zhibei.models import ModelInfo
from zhibei.planner.kernels import is_of

_AVX2 = frozenset(("Q4_0", "Q4_K", "IQ4_NL", "MXFP4"))
_AVX512 = _AVX2 | {"Q2_K"}
_ARM = frozenset(("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4"))
# Those with four bits that are rewritten, by which an embedding is told.
_FOUR_BITS = ("Q4_0", "MXFP4")
_MOST = 0.5


def repacked_types(cpu_features: Collection[str]) -> frozenset[str]:
    """The types that are rewritten on a processor with these instruction sets."""
    if "asimddp" in cpu_features or "i8mm" in cpu_features:
        return _ARM
    if "avx512f" in cpu_features:
        return _AVX512
    return _AVX2 if "avx2" in cpu_features else frozenset()


def repacked_bytes(info: ModelInfo, types: Collection[str], taken: Collection[str] = ()) -> int:
    """Bytes of weights in the layers that are rewritten, by the engine or (``taken``: their types) by kernels of ours.

    The embedding is none of them: the engine looks up its rows as they are, and kernels leave nothing of it mapped.
    """
    total = sum(num_bytes for name, _, num_bytes in info.tensor_types if name in types or name in taken)
    return max(0, total - (info.embedding_bytes or 0)) if _is_four_bits(info) or _is_taken(info, taken) else total


def copied_output_bytes(info: ModelInfo, types: Collection[str], taken: Collection[str] = ()) -> int:
    """Bytes of the embedding's copy where it is also the output; the header gives no type for it, so its size must tell.

    Kernels of ours look up rows in the copy, which is then the only one.
    """
    if _is_taken(info, taken):
        return 0
    is_tied = info.output_bytes == 0 and info.embedding_bytes is not None
    is_rewritten = any(name in types for name, _, _ in info.tensor_types) and _is_four_bits(info)
    return (info.embedding_bytes or 0) if is_tied and is_rewritten else 0


def is_better_read(info: ModelInfo, types: Collection[str], taken: Collection[str] = ()) -> bool:
    """Whether the file is better read than mapped: most of it would be in memory twice."""
    copied = repacked_bytes(info, types, taken) + ((info.embedding_bytes or 0) if _is_taken(info, taken) else 0)
    return copied > _MOST * (info.weights_bytes or 0) > 0


def _is_four_bits(info: ModelInfo) -> bool:
    return _is_taken(info, _FOUR_BITS)


def _is_taken(info: ModelInfo, types: Collection[str]) -> bool:
    """Whether the embedding is of one of these types."""
    return is_of(types, info.embedding_bytes, (info.vocabulary_size or 0) * (info.embedding_length or 0))
