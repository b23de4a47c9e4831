"""Our own kernels for an engine's products: when a plan counts on them, how fast they are, what they need. Pure.

They take over weights of their types that stay in main memory, embedding and output among them, as one copy that is as long
as in the file (but for rows up to the next sixteen). Beside a graphics processor nothing is taken over: such weights then lie
where the device can read them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zhibei.formats.ggml_types import TENSOR_TYPES
from zhibei.models import Layer, ModelInfo
from zhibei.plans import Gpu, Hardware, Kernels

# 10^9 operations/s of one core with one column and with many, as ``rates.CORE_GIGA_OPS`` and on the same core: the best of
# three runs of kernels/bench/products.py in processor time, other programs running. AVX2.
CORE_GIGA_OPS: dict[str, tuple[float, float]] = {
    "F16": (42, 90),
    "BF16": (28, 78),
    "Q8_0": (66, 90),
    "Q4_0": (105, 130),
    "Q4_1": (96, 128),
    "Q5_0": (71, 130),
    "Q5_1": (68, 118),
    "Q2_K": (65, 102),
    "Q3_K": (52, 115),
    "Q4_K": (66, 125),
    "Q5_K": (50, 118),
    "Q6_K": (54, 110),
    "IQ4_NL": (69, 94),
    "IQ4_XS": (48, 92),
}
# The same for attention, one token and many, by the type of the cache: what 2,600 tokens of a small model cost over the
# engine's own (its table is in ``rates``), and kernels/bench/attention.py for quantised caches.
_ATTENTION_GIGA_OPS: dict[str, tuple[float, float]] = {"F16": (12.5, 35), "BF16": (12.5, 35), "Q8_0": (12.5, 30)}
# With many columns over AVX2's. With AVX-512 a first library, for Q4_0 alone, read prompts at four times ggml's speed (Zen 5),
# which is twice AVX2's here: half of that gain is counted on, and no more for the levels above that have it too. Of AVX-VNNI
# and AVX-512 without VNNI nothing was measured, so nothing is.
_MANY_GAIN = {"avx512-vnni": 1.5, "avx512-bf16": 1.5, "amx": 1.5}
_FLOATS = ("F16", "BF16")
# Bytes for each value of a column while it is multiplied: 8 bits with scale and sums, or as it is.
_COLUMN_BYTES, _FLOAT_COLUMN_BYTES = 1.375, 4.0
_BITS = {kind.name: 8 * kind.block_bytes / kind.block_size for kind in TENSOR_TYPES.values()}


def usable(kernels: Kernels | None, gpus: Collection[Gpu], *, is_wished: bool = True) -> Kernels | None:
    """Those that will compute beside these devices of the engine's; None: the engine's own do."""
    is_there = kernels is not None and kernels.level is not None
    return kernels if is_there and is_wished and not gpus else None


def possible(hardware: Hardware) -> Kernels | None:
    """What a described machine could have; None: its processor is not known to do AVX2."""
    return Kernels(None, "avx2", tuple(CORE_GIGA_OPS), attention=True) if "avx2" in hardware.cpu_features else None


def giga_ops(kernels: Kernels, family: str) -> tuple[float, float] | None:
    """Of one core, with one column and with many; None for types that they leave to the engine."""
    found = CORE_GIGA_OPS.get(family) if family in kernels.types else None
    if found is None:
        return None
    return found[0], found[1] * (1.0 if family in _FLOATS else _MANY_GAIN.get(kernels.level or "", 1.0))


def attention_giga_ops(kernels: Kernels, cache_type: str) -> tuple[float, float] | None:
    """Of one core, one token and many at a time; None for caches that they leave to the engine."""
    return _ATTENTION_GIGA_OPS.get(cache_type.upper()) if kernels.attention else None


def is_of(types: Collection[str], num_bytes: int | None, num_elements: int) -> bool:
    """Whether a tensor of this size is of one of these types: headers' summaries give no type for it."""
    return num_elements > 0 and 8 * (num_bytes or 0) / num_elements in {_BITS[name] for name in types if name in _BITS}


def work_bytes(info: ModelInfo, layers: Iterable[Layer], types: Collection[str], num_tokens: int) -> int:
    """What the widest product takes beside the engine's scratch space: the columns of a micro-batch, prepared."""
    mine = [name for name, _, _ in info.tensor_types if name in types]
    if not mine:
        return 0
    embedding = info.embedding_length or 0
    widest = max((_columns(info, layer, embedding) for layer in layers), default=embedding)
    return int(num_tokens * widest * (_FLOAT_COLUMN_BYTES if any(name in _FLOATS for name in mine) else _COLUMN_BYTES))


def _columns(info: ModelInfo, layer: Layer, embedding: int) -> int:
    """Values of a token in the widest product of a layer; each expert has columns of its own."""
    experts = (info.num_experts_used or 0) * max(embedding, info.expert_feed_forward_length or 0)
    return max(
        embedding, layer.feed_forward_length or 0, layer.num_heads * layer.value_length, experts if layer.expert_bytes else 0
    )
