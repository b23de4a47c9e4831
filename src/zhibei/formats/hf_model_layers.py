"""The layers of a Hugging Face model: what each remembers, from its configuration, and what it weighs, from the headers.

Sizes are those that llama.cpp's caches have for the same model once converted: the keys of ``config.json`` are those that its
convert_hf_to_gguf.py reads. Heads and attending layers come from ``hf_config``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from zhibei.formats.gguf_facts import MAX_CONTEXT_LENGTH, MAX_EMBEDDING_LENGTH, MAX_HEAD_LENGTH, MAX_LAYERS
from zhibei.formats.hf_config import Facts, HfConfig
from zhibei.formats.layers import Weights, joined
from zhibei.formats.safetensors import SafetensorsTensor
from zhibei.models import Layer, LayerKind

_MAX_LENGTH = 2**24
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer|block)\.([0-9]{1,4})\.")
_EXPERT = re.compile(r"\.experts?\.|\.experts_|\.moe\.(?!gate)|_experts\.")
_SHARED_EXPERT = re.compile(r"shared_?experts?")
_ENCODER = re.compile(r"(?:^|\.)(?:visual|vision\w*|audio\w*|mm_projector|multi_modal_projector)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|token_embedding)\.")
_LOOKUP = re.compile(r"(?:^|\.)(?:wpe|position_embeddings|token_type_embeddings|embed_tokens_per_layer)\.")
_OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.(?:weight|qweight|q_weight)|(?:^|\.)lm_head\.")
_RECURRENT_KINDS = ("linear_attention", "mamba", "mamba2", "recurrent", "conv", "linear", "ssm")
_WINDOWED_KINDS = ("sliding_attention", "chunked_attention", "local_attention")
_MAMBA = ("mamba", "falcon_mamba", "mamba2")
_RWKV = ("rwkv6", "rwkv7", "rwkv5")
# As conversion takes them to be where the configuration leaves the pattern to the program: every so many layers one full.
_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2}
_WINDOWED_FAMILIES = ("gemma", "cohere2", "gpt_oss", "exaone4", "olmo3", "llama4", "afmoe", "smallthinker", "mimo", "step3")


def weigh(tensors: Iterable[SafetensorsTensor]) -> Weights:
    """Bytes by where they belong; pictures' and sounds' encoders count as the rest."""
    found = Weights()
    for tensor in tensors:
        name = tensor.name
        match = None if _ENCODER.search(name) else _LAYER.search(name)
        if match is not None and int(match[1]) < MAX_LAYERS:
            is_expert = _EXPERT.search(name) is not None and _SHARED_EXPERT.search(name) is None
            found.add(int(match[1]), tensor.num_bytes, is_expert=is_expert)
        elif _EMBEDDING.search(name):
            found.embedding_bytes += tensor.num_bytes
        elif _LOOKUP.search(name):
            found.lookup_bytes += tensor.num_bytes
        elif _OUTPUT.search(name):
            found.output_bytes += tensor.num_bytes
        else:
            found.other_bytes += tensor.num_bytes
    return found


def layers_of(config: HfConfig, values: Facts, weights: Weights) -> tuple[Layer, ...]:
    """All layers in order, equal neighbours joined; () if their number is not known."""
    count = config.num_layers
    if count is None:
        return ()
    windows = _windows(config, values, count)
    kinds = _kinds(config, values, count)
    states = _state_elements(config, values) if any(kind in ("recurrent", "hybrid") for kind in kinds) else (0, 0)
    shared = values.integer(("num_kv_shared_layers",), MAX_LAYERS, low=0) or 0
    found = []
    for number, kind in enumerate(kinds):
        keeps = kind in ("attention", "mla", "hybrid")
        weight = weights.layers.get(number)
        layer = Layer(
            kind,
            num_heads=config.num_heads or 0,
            num_kv_heads=0 if not keeps else 1 if kind == "mla" else config.num_kv_heads[number],
            key_length=_latent(values)[0]
            if kind == "mla"
            else (config.head_length or 0)
            if keeps or config.is_causal is False
            else 0,
            value_length=_latent(values)[1] if kind == "mla" else (config.head_length or 0) if keeps else 0,
            window=windows[number] if keeps else None,
            is_chunked=windows[number] is not None and config.architecture.startswith("llama4"),
            is_shared=keeps and number >= count - shared,
            conv_elements=states[0] if kind in ("recurrent", "hybrid") else 0,
            state_elements=states[1] if kind in ("recurrent", "hybrid") else 0,
            feed_forward_length=config.feed_forward_length or 0,
        )
        if weight is not None:
            dense = 0 if weight.expert_bytes else layer.feed_forward_length
            layer = replace(layer, feed_forward_length=dense, dense_bytes=weight.dense_bytes, expert_bytes=weight.expert_bytes)
        found.append(layer)
    further = (weights.layers[number] for number in sorted(weights.layers) if number >= count)
    found += [Layer("extra", dense_bytes=weight.dense_bytes, expert_bytes=weight.expert_bytes) for weight in further]
    return joined(found)


def _kinds(config: HfConfig, values: Facts, count: int) -> list[LayerKind]:
    if config.is_causal is False:
        return ["none"] * count
    if config.architecture in (*_MAMBA, *_RWKV):
        return ["recurrent"] * count
    said = values.values.get("layer_types", values.values.get("layers_block_type"))
    named = said if isinstance(said, list) and len(said) == count else None
    letters = values.values.get("hybrid_override_pattern")
    if config.is_latent:
        full = values.part("linear_attn_config").values.get("full_attn_layers")  # Kimi-Linear, counted from 1
        return ["mla" if not isinstance(full, list) or number + 1 in full else "recurrent" for number in range(count)]
    if len(config.num_kv_heads) != count:
        return ["none"] * count
    kinds: list[LayerKind] = []
    for number, heads in enumerate(config.num_kv_heads):
        if config.architecture == "falcon_h1":
            kinds.append("hybrid")
        elif heads:
            kinds.append("attention")
        elif isinstance(letters, str):
            kinds.append("recurrent" if letters[number : number + 1] == "M" else "none")
        elif named is not None:
            kinds.append("recurrent" if named[number] in _RECURRENT_KINDS else "none")
        else:
            kinds.append("recurrent" if any(key in values.values for key in ("mamba_d_state", "conv_L_cache")) else "none")
    return kinds


def _latent(values: Facts) -> tuple[int, int]:
    """Lengths of the compressed row and of the part of it that values are read from."""
    rank = values.integer(("kv_lora_rank",), MAX_EMBEDDING_LENGTH) or 0
    return rank + (values.integer(("qk_rope_head_dim",), MAX_HEAD_LENGTH, low=0) or 0), rank


def _windows(config: HfConfig, values: Facts, count: int) -> Sequence[int | None]:
    window = config.sliding_window
    kinds = values.values.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == count:
        chunk = values.integer(("attention_chunk_size",), MAX_CONTEXT_LENGTH)
        return [(chunk if kind == "chunked_attention" else window) if kind in _WINDOWED_KINDS else None for kind in kinds]
    none: list[int | None] = [None] * count
    if window is None or not config.architecture.startswith(_WINDOWED_FAMILIES):
        return none  # llama.cpp keeps everything for the models of other families, Mistral's and Phi's among them
    period = values.integer(("sliding_window_pattern", "_sliding_window_pattern"), MAX_LAYERS) if _is_period(values) else None
    period = period or _PERIODS.get(config.architecture)
    if period is None:
        return none
    return [window if number % period != period - 1 else None for number in range(count)]


def _is_period(values: Facts) -> bool:
    return all(
        not isinstance(values.values.get(key), (str, list)) for key in ("sliding_window_pattern", "_sliding_window_pattern")
    )


def _state_elements(config: HfConfig, values: Facts) -> tuple[int, int]:
    """Elements of the convolution's and of the recurrent state of a layer."""
    embedding = config.embedding_length or 0

    def number(*keys: str, default: int = 0) -> int:
        return values.integer(keys, _MAX_LENGTH, low=0) or default

    if config.architecture in _RWKV:
        return 2 * embedding, embedding * number("head_size", "head_dim", default=64)
    delta = values.part("linear_attn_config")
    if delta.values:
        heads, length = (delta.integer((key,), _MAX_LENGTH, low=0) or 0 for key in ("num_heads", "head_dim"))
        kernel = delta.integer(("short_conv_kernel_size",), _MAX_LENGTH) or 4
        return 3 * (kernel - 1) * heads * length, heads * length * length
    short = number("conv_L_cache")
    if short:
        return embedding * (short - 1), 0
    heads = number("linear_num_value_heads")
    if heads:  # Qwen3-Next
        key = number("linear_num_key_heads") * number("linear_key_head_dim")
        value = heads * number("linear_value_head_dim")
        conv = (number("linear_conv_kernel_dim", default=4) - 1) * (value + 2 * key)
        return conv, value * number("linear_key_head_dim")
    state = number("mamba_d_state", "ssm_state_size", "state_size")
    kernel = number("mamba_d_conv", "conv_kernel", default=4)
    expanded = number("mamba_expand", "expand", default=2) * embedding
    many = number("mamba_num_heads", "mamba_n_heads", "num_heads") * number("mamba_head_dim", "mamba_d_head", "head_dim")
    is_first = config.architecture in ("mamba", "falcon_mamba", "jamba")
    inner = number("mamba_d_ssm") or (0 if is_first else many) or number("intermediate_size" if is_first else "") or expanded
    inner = expanded if config.architecture == "jamba" else inner
    groups = 0 if is_first else number("mamba_n_groups", "n_groups", default=1)
    return max(0, kernel - 1) * (inner + 2 * groups * state), state * inner
