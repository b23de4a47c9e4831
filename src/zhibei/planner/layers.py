"""What the layers of a model keep in memory while it runs, in bytes. Pure; knows llama.cpp's caches, not its scratch space.

Sources, all in src/ of the llama.cpp inside xllamacpp 2026.10.11549: sizes of a cache and of its rows llama-kv-cache.cpp; of
the cache of windowed layers llama-kv-cache-iswa.cpp; recurrent states llama-memory-recurrent.cpp and ``n_embd_r``, ``n_embd_s``
in llama-hparams.cpp; rounding of the context ``llama_context`` in llama-context.cpp; the second cache of sparse attention
llama-kv-cache-dsa.cpp; compressed rows llama-kv-cache-dsv4.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from zhibei.models import Layer, ModelInfo

# Elements and bytes of a block; quantised types store 32 elements with a scale (and a minimum): ggml-common.h.
CACHE_BLOCKS = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q8_0": (32, 34),
    "q5_1": (32, 24),
    "q5_0": (32, 22),
    "q4_1": (32, 20),
    "q4_0": (32, 18),
    "iq4_nl": (32, 18),
}
CACHE_TYPE_BYTES = {name: Fraction(num_bytes, length) for name, (length, num_bytes) in CACHE_BLOCKS.items()}
CELLS = 256
"""Caches have a multiple of so many cells, one per token."""
_STATE_BYTES = 4
# More than any header may say; a damaged or foreign record could say anything.
_MAX_LAYERS = 1024
_KEEPING_KEYS = ("attention", "mla", "hybrid")


@dataclass(frozen=True, slots=True)
class Run:
    """How a model is run, as far as memory depends on it.

    ``ctx_size`` is what each of the slots has. With ``kv_unified`` they share one cache of ``ctx_size × num_slots`` tokens.
    ``num_outputs``: the most tokens of a micro-batch for which logits are wanted; None: one per slot. ``is_causal``: a token
    sees only those before it; where it sees all, a micro-batch is never cut to the context.
    """

    ctx_size: int
    num_slots: int = 1
    ubatch_size: int = 512
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: bool = True
    kv_unified: bool = False
    swa_full: bool = False
    num_outputs: int | None = None
    is_causal: bool = True

    @property
    def num_tokens(self) -> int:
        """Tokens of a full micro-batch."""
        total = self.ctx_size * max(1, self.num_slots)
        return max(1, min(self.ubatch_size, total if self.is_causal else padded(total)))

    @property
    def num_streams(self) -> int:
        """Separate caches."""
        return 1 if self.kv_unified else max(1, self.num_slots)

    @property
    def cells(self) -> int:
        """Tokens for which one cache has room."""
        total = padded(self.ctx_size * max(1, self.num_slots))
        return total if self.kv_unified else padded(total // max(1, self.num_slots))


def padded(count: int) -> int:
    """Rounded up to a multiple of CELLS."""
    return -(-count // CELLS) * CELLS


def each_layer(info: ModelInfo) -> Iterator[Layer]:
    """Every layer that is loaded, in order, with ``count`` 1.

    For information without layers, as earlier versions stored it, they are made from what it has: weights spread evenly.
    """
    for layer in info.layers or _from_summary(info):
        if layer.kind != "extra":
            yield from (replace(layer, count=1) for _ in range(min(layer.count, _MAX_LAYERS)))


def window_cells(layer: Layer, run: Run) -> int:
    """Tokens for which a cache of this layer has room; windowed layers need the window and what a batch writes beyond it."""
    if layer.window is None or run.swa_full:
        return run.cells
    slots = max(1, run.num_slots) if run.kv_unified else 1
    return padded(min(run.cells, layer.window * slots + run.num_tokens))


def row_bytes(num_elements: int, cache_type: str) -> int:
    """Bytes of one token's keys or values in one layer: whole blocks."""
    length, num_bytes = CACHE_BLOCKS[cache_type]
    return -(-num_elements // length) * num_bytes


def widest_values(layers: Sequence[Layer]) -> int:
    """Elements of the values of the widest layer: without flash attention every layer's cache is made so wide."""
    return max((layer.num_kv_heads * layer.value_length for layer in layers if layer.kind != "mla"), default=0)


def kv_bytes_of(layer: Layer, run: Run, widest: int) -> int:
    """Bytes of one layer's keys and values in all slots. ``widest`` is ``widest_values`` of all layers."""
    if layer.kind not in _KEEPING_KEYS or layer.is_shared:
        return 0
    row = row_bytes(layer.num_kv_heads * layer.key_length, run.cache_type_k)
    if layer.kind != "mla":
        own = layer.num_kv_heads * layer.value_length
        row += row_bytes(own if run.flash_attn else max(own, widest), run.cache_type_v)
    index, cells = row_bytes(layer.index_length, run.cache_type_k), run.cells
    if layer.compress_ratio:
        cells = padded(-(-cells // layer.compress_ratio))
        index += row
    return (row * window_cells(layer, run) + index * cells) * run.num_streams


def state_bytes_of(layer: Layer, run: Run) -> int:
    """Bytes of one layer's recurrent state in all slots: single precision, whatever the cache type."""
    return (layer.conv_elements + layer.state_elements) * _STATE_BYTES * max(1, run.num_slots)


def takes_cache_type(info: ModelInfo, cache_type_k: str, cache_type_v: str, *, flash_attn: bool) -> bool:
    """Whether the engine accepts these types: heads are whole blocks, and quantised values need flash attention."""
    if CACHE_BLOCKS[cache_type_v][0] > 1 and not flash_attn:
        return False
    return not any(
        layer.key_length % CACHE_BLOCKS[cache_type_k][0] or layer.value_length % CACHE_BLOCKS[cache_type_v][0]
        for layer in each_layer(info)
        if layer.kind in _KEEPING_KEYS
    )


def _from_summary(info: ModelInfo) -> tuple[Layer, ...]:
    heads = info.num_kv_heads or (0,) * (info.num_layers or 0)
    rest = _spread(info.weights_bytes or 0, len(heads))
    return tuple(
        Layer(
            "attention" if count and info.key_length and info.value_length else "none",
            num_heads=info.num_heads or count,
            num_kv_heads=count,
            key_length=info.key_length or 0,
            value_length=info.value_length or 0,
            feed_forward_length=info.feed_forward_length or 0,
            dense_bytes=share,
        )
        for count, share in zip(heads, rest, strict=True)
    )


def _spread(total: int, count: int) -> list[int]:
    return [total * (number + 1) // count - total * number // count for number in range(count)]
