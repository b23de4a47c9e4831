"""The layers of a GGUF model: what each remembers, from the metadata, and what it weighs, from the tensors.

Follows llama.cpp: ``load_hparams`` in src/llama-model.cpp, ``n_embd_r`` and ``n_embd_s`` in src/llama-hparams.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from zhibei.formats import layer_tables as tables
from zhibei.formats.gguf_facts import (
    MAX_CONTEXT_LENGTH,
    MAX_EMBEDDING_LENGTH,
    MAX_HEAD_LENGTH,
    MAX_HEADS,
    MAX_LAYERS,
    Facts,
)
from zhibei.formats.gguf_header import TensorInfo
from zhibei.formats.layers import LayerWeights, Weights, joined
from zhibei.models import Layer, LayerKind

_MAX_FEED_FORWARD = 2**24
_MAX_STATE = 2**48
_TOKEN_SHIFTS = 2
_BLOCK = re.compile(r"(?:enc\.|dec\.)?blk\.([0-9]{1,4})\.")
_EXPERTS = re.compile(r"_(?:ch)?exps\b")
_LOOKUPS = ("position_embd.", "token_types.", "per_layer_token_embd.")


def weigh(tensors: Iterable[TensorInfo]) -> Weights:
    """Bytes by where they belong. Copies of one layer's tensors under ``enc`` and ``dec`` count for the same number."""
    found = Weights()
    for tensor in tensors:
        match = _BLOCK.match(tensor.name)
        if match is not None and int(match[1]) < MAX_LAYERS:
            found.add(int(match[1]), tensor.num_bytes, is_expert=_EXPERTS.search(tensor.name) is not None)
        elif tensor.name == "token_embd.weight":
            found.embedding_bytes += tensor.num_bytes
        elif tensor.name == "output.weight":
            found.output_bytes += tensor.num_bytes
        elif tensor.name.startswith(_LOOKUPS):
            found.lookup_bytes += tensor.num_bytes
        else:
            found.other_bytes += tensor.num_bytes
    return found


class LayerReader:
    """The layers that the metadata of one model describes."""

    def __init__(self, facts: Facts, architecture: str, num_layers: int) -> None:
        self._facts = facts
        self._name = architecture
        self._num_layers = num_layers
        self._num_extra = min(self._integer("nextn_predict_layers", MAX_LAYERS), num_layers)
        self._heads = self._each("attention.head_count", MAX_HEADS)
        self._kv_heads = self._each("attention.head_count_kv", MAX_HEADS, self._heads)
        self._feed_forward = self._each("feed_forward_length", _MAX_FEED_FORWARD)

    def layers(self, weights: Weights) -> tuple[Layer, ...]:
        """All layers in order, equal neighbours joined."""
        states = self._state_elements()
        windows = self._windows()
        shared_from = self._shared_from()
        indexes = self._index_lengths()
        lengths, window_lengths = self._lengths(""), self._lengths("_swa")
        found = []
        for number, kind in enumerate(self._kinds()):
            has_keys, has_state = kind in ("attention", "mla", "hybrid"), kind in ("recurrent", "hybrid")
            has_keys = has_keys or (kind == "none" and self._name in tables.WITHOUT_CACHE)
            window = windows[number] if has_keys else 0
            key_length, value_length = window_lengths if window else lengths
            layer = Layer(
                kind,
                num_heads=self._heads[number],
                num_kv_heads=self._kv_heads[number] if has_keys else 0,
                key_length=key_length if has_keys else 0,
                value_length=value_length if has_keys else 0,
                window=window or None,
                is_chunked=bool(window) and self._name in tables.WINDOWS and tables.WINDOWS[self._name].is_chunked,
                is_shared=has_keys and number >= shared_from,
                index_length=indexes[number] if has_keys else 0,
                conv_elements=states[0] if has_state else 0,
                state_elements=states[1] if has_state else 0,
            )
            layer = self._compressed(layer, number)
            found.append(_weighed(layer, weights.layers.get(number), self._feed_forward[number]))
        return joined(found)

    def _kinds(self) -> list[LayerKind]:
        attends: LayerKind = "mla" if self._is_latent() else "attention"
        kinds: list[LayerKind] = []
        recurrent = self._recurrent()
        for number in range(self._num_layers):
            kind: LayerKind
            if number >= self._num_layers - self._num_extra:
                kind = "extra"
            elif self._name in tables.WITHOUT_CACHE:
                kind = "none"
            elif self._name in tables.BOTH_IN_EVERY_LAYER:
                kind = "hybrid"
            elif self._name in tables.ONE_PART_LAYERS and self._feed_forward[number]:
                kind = "none"
            elif recurrent[number]:
                kind = "recurrent"
            else:
                kind = attends if self._kv_heads[number] else "none"
            kinds.append(kind)
        return kinds

    def _recurrent(self) -> Sequence[bool]:
        if self._name in tables.RECURRENT:
            return [True] * self._num_layers
        if self._name in tables.RECURRENT_WITHOUT_HEADS:
            return [not count for count in self._kv_heads]
        default = tables.RECURRENT_INTERVALS.get(self._name)
        if default is None:
            return [False] * self._num_layers
        flags = self._facts.per_layer(f"{self._name}.attention.recurrent_layers", self._num_layers, 1)
        if flags:
            return [bool(flag) for flag in flags]
        interval = self._integer("full_attention_interval", MAX_LAYERS) or default
        return [(number + 1) % interval != 0 for number in range(self._num_layers)]

    def _compressed(self, layer: Layer, number: int) -> Layer:
        """DeepSeek-V4: sums of the tokens that are being compressed, and of their scores, are kept beside the rows."""
        overlapping, plain = tables.COMPRESSING.get(self._name, (0, 0))
        if not overlapping or layer.kind != "attention":
            return layer
        ratios = self._facts.per_layer(f"{self._name}.attention.compress_ratios", None, _MAX_FEED_FORWARD)
        ratio = ratios[number] if number < len(ratios) else 0
        layer = replace(layer, kind="mla", num_kv_heads=1, value_length=layer.key_length)
        if ratio == plain:
            return replace(layer, compress_ratio=ratio, state_elements=2 * ratio * layer.key_length)
        if ratio != overlapping:
            return layer
        index = self._integer("attention.indexer.key_length", MAX_HEAD_LENGTH)
        states = 2 * (2 * ratio) * 2 * (layer.key_length + index)
        return replace(layer, compress_ratio=ratio, index_length=index, state_elements=states)

    def _is_latent(self) -> bool:
        """The compressed form is used where the file has the lengths for it; older files are expanded to full heads."""
        key, value = (self._integer(f"attention.{which}_length_mla", MAX_HEAD_LENGTH) for which in ("key", "value"))
        return bool(key and value)

    def _lengths(self, suffix: str) -> tuple[int, int]:
        """Lengths of a head's key and value, for windowed layers (``_swa``) or for the others."""
        embedding, heads = self._integer("embedding_length", MAX_EMBEDDING_LENGTH), self._heads[0] or max(self._heads)
        usual = embedding // heads if heads else 0
        found = []
        for which in ("key", "value"):
            own = self._integer(f"attention.{which}_length{suffix}", MAX_HEAD_LENGTH)
            found.append(own or self._integer(f"attention.{which}_length", MAX_HEAD_LENGTH) or usual)
        return found[0], found[1]

    def _windows(self) -> Sequence[int]:
        """The window of each layer; 0: none."""
        rule = tables.WINDOWS.get(self._name)
        none = [0] * self._num_layers
        if rule is None or (rule.num_layers is not None and rule.num_layers != self._num_layers - self._num_extra):
            return none
        said = self._facts.integer(f"{self._name}.attention.sliding_window", 0, MAX_CONTEXT_LENGTH)
        window = rule.default if said is None else said
        if not window:
            return none
        window = rule.forced or window
        flags = self._pattern(rule)
        return [window if flags[number] else 0 for number in range(self._num_layers)]

    def _pattern(self, rule: tables.Windows) -> Sequence[bool]:
        key = f"{self._name}.attention.sliding_window_pattern"
        value = self._facts.metadata.get(key)
        period = rule.period
        if isinstance(value, int) and not isinstance(value, bool):
            period = self._facts.within(key, value, 0, MAX_LAYERS)
        elif value is not None:
            flags = self._facts.per_layer(key, None, 1)
            # Some files have one more or less than there are layers; what is missing is not windowed.
            return [number < len(flags) and bool(flags[number]) for number in range(self._num_layers)]
        if period == 0:
            return [True] * self._num_layers
        dense = 0 if rule.dense_first else period - 1
        last = self._num_layers - self._num_extra
        return [number % period != dense and number < last for number in range(self._num_layers)]

    def _shared_from(self) -> int:
        fixed = tables.SHARED_FROM.get(self._name)
        if fixed is not None:
            return fixed
        if self._name != "gemma4":
            return self._num_layers
        return max(0, self._num_layers - self._integer("attention.shared_kv_layers", MAX_LAYERS))

    def _index_lengths(self) -> Sequence[int]:
        length = self._integer("attention.indexer.key_length", MAX_HEAD_LENGTH) if self._name in tables.INDEXED else 0
        if self._name == "minimax-m3" and length:  # its index keeps values as well, and not in the first dense layers
            dense = self._integer("leading_dense_block_count", MAX_LAYERS)
            return [length + self._lengths("")[1] if number >= dense else 0 for number in range(self._num_layers)]
        types = self._facts.per_layer(f"{self._name}.attention.indexer.types", None, 1)
        return [length if number >= len(types) or types[number] else 0 for number in range(self._num_layers)]

    def _state_elements(self) -> tuple[int, int]:
        """Elements of the convolution's and of the recurrent state of a layer, for one conversation."""
        embedding = self._integer("embedding_length", MAX_EMBEDDING_LENGTH)
        head = self._integer("wkv.head_size", MAX_HEAD_LENGTH)
        if head:
            shifts = self._facts.integer(f"{self._name}.token_shift_count", 0, 64)
            return (_TOKEN_SHIFTS if shifts is None else shifts) * embedding, embedding * head
        short = self._integer("shortconv.l_cache", MAX_EMBEDDING_LENGTH)
        if short:
            return embedding * (short - 1), 0
        kernel = self._integer("ssm.conv_kernel", MAX_EMBEDDING_LENGTH)
        heads = self._heads[0]
        delta = self._integer("kda.head_dim", MAX_HEAD_LENGTH)
        if delta:
            return 3 * (kernel - 1 if kernel else 3) * heads * delta, delta * delta * heads
        if self._name in tables.LINEAR_ATTENTION:
            length = self._lengths("")[0]
            return 0, length * length * heads
        inner, state = self._integer("ssm.inner_size", _MAX_FEED_FORWARD), self._integer("ssm.state_size", _MAX_FEED_FORWARD)
        groups = self._integer("ssm.group_count", _MAX_FEED_FORWARD)
        conv = max(0, kernel - 1) * (inner + 2 * groups * state)
        return min(conv, _MAX_STATE), min(state * inner, _MAX_STATE)

    def _integer(self, key: str, high: int) -> int:
        return self._facts.integer(f"{self._name}.{key}", 0, high) or 0

    def _each(self, key: str, high: int, default: Sequence[int] | None = None) -> Sequence[int]:
        found = self._facts.per_layer(f"{self._name}.{key}", self._num_layers, high)
        return found or (default if default is not None else (0,) * self._num_layers)


def _weighed(layer: Layer, weight: LayerWeights | None, feed_forward_length: int) -> Layer:
    if weight is None:
        return replace(layer, feed_forward_length=feed_forward_length)
    length = 0 if weight.expert_bytes else feed_forward_length
    return replace(layer, feed_forward_length=length, dense_bytes=weight.dense_bytes, expert_bytes=weight.expert_bytes)
