"""The engine's scratch space: what is alive at once while one micro-batch passes through the model. Pure.

llama.cpp reserves it when a model is loaded, for the largest micro-batch and a full cache (``sched_reserve`` in
src/llama-context.cpp), and reuses the space of what is no longer needed (ggml/src/ggml-alloc.c). Alive at the fullest moment of
a layer are, in numbers per token (E: embedding, F: feed-forward, Q, KV: all heads together):

- dense feed-forward: the gate, the other half and their product, 3 F (without a gate F), beside the residual, the input
  and what is between, 5 E;
- experts: the same times the number used, and their outputs, used × E, where those do not fit into what was freed;
- attention: 5 E + 2 Q + 2 KV, and without flash attention heads × cache cells of scores;
- compressed attention: queries, queries in the compressed space, and both parts joined, 6 E beside;
- recurrent layers: the projections around the convolution, and the states of all slots.

To which come the masks (tokens × cells, one per kind of cache) and the logits. The terms were derived from the graphs in
src/models/*.cpp and compared with what the engine reports for the shapes of some forty published models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zhibei.models import Layer, ModelInfo
from zhibei.planner.layers import Run, window_cells

_FLOAT_BYTES = 4
_INPUT_BYTES = 40  # of a token: its number, positions, where it goes in the cache, whether an output is wanted
_CONV_INPUTS = 3  # a convolution of four keeps three
_RWKV = {"rwkv6": 15, "rwkv6qwen2": 15, "rwkv7": 20, "arwkv7": 20}
_DELTA = ("qwen3next", "qwen35", "qwen35moe", "qwen4exp", "kimi-linear", "kimi-k3", "bailingmoe3", "glm5-next")
_UNGATED = frozenset(
    """
    apertus arcee bert bloom codeshell falcon gpt2 gptj gptneox jais jina-bert-v3 mpt nemotron nemotron_h nemotron_h_moe
    nomic-bert-moe phi2 phimoe plm starcoder starcoder2 t5 t5encoder
    """.split()
)
_PER_LAYER_INPUTS = {"gemma3n": 5, "gemma4": 0}
_PER_LAYER_LENGTH = 256
_SHARED_INPUT = frozenset(("llama4",))  # the input of the experts stays for the shared one
_DECAYING = frozenset(("minimax-01",))  # linear attention by products of all tokens of a micro-batch with each other
_DECAY_FACTOR = 4
_WITHOUT_CACHE_BUT_LOGITS = frozenset(("dream", "llada", "llada-moe", "rnd1"))
_SPARSE_FACTOR = 1.56  # measured for DeepSeek-V3.2's shape: queries of the index, and the choice it makes
_SPARSE_SCORES = 2
_PARALLEL_STREAMS = 4  # residuals of DeepSeek-V4's hyper-connections
_UNKNOWN_EMBEDDING = 4096


def mask_bytes(layers: Collection[Layer], run: Run) -> int:
    """Bytes of the masks: who may see whom. Half precision for flash attention; one for each kind of cache."""
    kinds = {(layer.window is not None, _visible(layer, run)) for layer in layers if _attends(layer)}
    per_token = sum(visible for _, visible in kinds)
    if any(layer.index_length for layer in layers):
        per_token += run.cells
    return run.num_tokens * per_token * (2 if run.flash_attn else _FLOAT_BYTES)


def scratch_bytes(info: ModelInfo, layers: Iterable[Layer], run: Run, *, has_output: bool = True) -> int:
    """Bytes of scratch space on a device that computes these layers, and the output where ``has_output``."""
    kinds = tuple(dict.fromkeys(layers))
    embedding = info.embedding_length or _UNKNOWN_EMBEDDING
    fullest = max((_layer_floats(info, layer, run, embedding) for layer in kinds), default=0)
    if has_output and _has_logits(info, kinds):
        num_outputs = max(1, run.num_slots) if run.num_outputs is None else run.num_outputs
        logits = num_outputs * (info.vocabulary_size or 0)
        fullest = max(fullest, 5 * embedding * run.num_tokens + logits)
    return fullest * _FLOAT_BYTES + mask_bytes(kinds, run) + run.num_tokens * _INPUT_BYTES


def input_bytes(info: ModelInfo, layers: Iterable[Layer], run: Run) -> int:
    """Bytes that the host needs to feed devices which compute everything: embedded tokens and masks."""
    embedded = (info.embedding_length or _UNKNOWN_EMBEDDING) * run.num_tokens * _FLOAT_BYTES
    return embedded + mask_bytes(tuple(layers), run) + run.num_tokens * _INPUT_BYTES


def _layer_floats(info: ModelInfo, layer: Layer, run: Run, embedding: int) -> int:
    """Numbers alive at the fullest moment of a layer, for the whole micro-batch."""
    per_token = _feed_forward(info, layer, embedding)
    if _attends(layer):
        per_token = max(per_token, _attention(layer, run, embedding))
    if info.architecture in _PER_LAYER_INPUTS:
        per_token += (info.num_layers or 0) * _PER_LAYER_LENGTH + _PER_LAYER_INPUTS[info.architecture] * embedding
    states = layer.state_elements * max(1, run.num_slots)
    recurrent = (
        _recurrent(info, layer, embedding, run.num_tokens // max(1, run.num_slots)) * run.num_tokens + states
        if layer.conv_elements or states
        else 0
    )
    return max(per_token * run.num_tokens, recurrent)


def _feed_forward(info: ModelInfo, layer: Layer, embedding: int) -> int:
    dense = layer.feed_forward_length
    if not layer.expert_bytes and dense:
        return (1 if info.architecture in _UNGATED else 3) * dense + 5 * embedding
    used = info.num_experts_used or 0
    embedding = embedding if info.architecture not in _SHARED_INPUT else embedding * 6 // 5
    inner, outer = used * (info.expert_feed_forward_length or info.feed_forward_length or 0), used * embedding
    return 5 * embedding + 3 * inner + (outer if outer > 2 * inner else 0)


def _attention(layer: Layer, run: Run, embedding: int) -> int:
    scores = 0 if run.flash_attn else layer.num_heads * _visible(layer, run)
    if layer.kind == "mla":
        # Queries have a part per head that is not compressed, about a sixth of the rest.
        queries = layer.num_heads * (layer.key_length + layer.value_length)
        total = queries + queries * 3 // 17 + 6 * embedding
        if layer.compress_ratio:
            return total + _PARALLEL_STREAMS * embedding + _SPARSE_SCORES * run.cells // layer.compress_ratio + scores
        if layer.index_length:
            return int(total * _SPARSE_FACTOR) + _SPARSE_SCORES * run.cells + scores
        return total + scores
    queries, keys = layer.num_heads * layer.key_length, layer.num_kv_heads * layer.key_length
    return 5 * embedding + 2 * queries + 2 * keys + scores


def _recurrent(info: ModelInfo, layer: Layer, embedding: int, num_tokens: int) -> int:
    times = _RWKV.get(info.architecture)
    if times is not None:
        return times * embedding
    if info.architecture in _DECAYING:
        return 5 * embedding + _DECAY_FACTOR * layer.num_heads * num_tokens
    width = layer.conv_elements // _CONV_INPUTS
    return 5 * embedding + (3 if info.architecture in _DELTA else 5) * width


def _attends(layer: Layer) -> bool:
    return layer.kind in ("attention", "mla", "hybrid") or _encodes(layer)


def _encodes(layer: Layer) -> bool:
    """It attends to the tokens of the micro-batch alone."""
    return layer.kind == "none" and layer.num_heads > 0 and layer.key_length > 0


def _visible(layer: Layer, run: Run) -> int:
    """Tokens that may be looked at."""
    if _encodes(layer):
        return run.num_tokens
    return window_cells(layer, run)


def _has_logits(info: ModelInfo, layers: Iterable[Layer]) -> bool:
    return info.architecture in _WITHOUT_CACHE_BUT_LOGITS or not all(_encodes(layer) for layer in layers)
