"""What a Hugging Face ``config.json`` says of a model. Refuses values that make no sense; absent facts stay None.

Nothing in it is ever run or imported. Unknown keys are ignored; the names of a fact differ by the family of the model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from zhibei.errors import ModelFileError
from zhibei.formats.bounded_json import parse_object
from zhibei.formats.gguf_facts import (
    MAX_CONTEXT_LENGTH,
    MAX_EMBEDDING_LENGTH,
    MAX_EXPERTS,
    MAX_HEAD_LENGTH,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCABULARY,
)
from zhibei.formats.hf_layers import kept_by_layer
from zhibei.formats.hf_quantisation import Quantisation, find_quantisation
from zhibei.formats.hf_repository import CONFIG, DESCRIBING
from zhibei.formats.window import shown

_MAX_ITEMS = 100_000
_MAX_FEED_FORWARD = 2**24
_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INNER = ("text_config", "llm_config", "language_config", "thinker_config")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_EMBEDDING = ("hidden_size", "n_embd", "d_model", "model_dim")
_FEED_FORWARD = ("intermediate_size", "ffn_hidden_size", "n_inner", "d_ff", "ffn_dim", "moe_intermediate_size")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "num_query_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "kv_n_heads")
_CONTEXT = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "n_ctx", "max_sequence_length")
_VOCABULARY = ("vocab_size", "padded_vocab_size")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_USED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts")
_ENCODERS = frozenset(
    "bert roberta xlm-roberta xlm mpnet distilbert electra albert camembert deberta deberta-v2 modernbert nomic_bert ernie "
    "jina_bert new".split()
)
_FLOATS = {"bfloat16": "BF16", "float16": "F16", "half": "F16", "float32": "F32", "float": "F32"}


@dataclass(frozen=True, slots=True)
class HfConfig:
    """The facts of a ``config.json``, by the names that ``zhibei.models.ModelInfo`` has for them.

    ``float_type`` is the type that weights are in which are not quantised. ``is_latent`` says that keys and values are kept
    in a compressed form (multi-head latent attention), for which heads and lengths say nothing.
    """

    architecture: str
    context_length: int | None = None
    embedding_length: int | None = None
    feed_forward_length: int | None = None
    vocabulary_size: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    num_kv_heads: tuple[int, ...] = ()
    head_length: int | None = None
    is_latent: bool = False
    rope_freq_base: float | None = None
    rope_scaling: str | None = None
    sliding_window: int | None = None
    num_experts: int | None = None
    num_experts_used: int | None = None
    is_causal: bool | None = None
    quantisation: Quantisation | None = None
    float_type: str | None = None
    warnings: tuple[str, ...] = ()


def parse_config(data: bytes) -> HfConfig:
    """Read a ``config.json``.

    Raises:
        ModelFileError: not JSON, too large, or a value that no model can have.
    """
    outer = _outer(data)
    facts = Facts(_language_part(outer))
    num_layers = facts.integer(_LAYERS, MAX_LAYERS)
    heads = facts.per_layer(_HEADS, num_layers, MAX_HEADS)
    is_latent = facts.integer(("kv_lora_rank",), MAX_EMBEDDING_LENGTH) is not None
    experts, used = _experts(facts)
    base, scaling = _rope(facts)
    embedding_length = facts.integer(_EMBEDDING, MAX_EMBEDDING_LENGTH)
    num_heads = max(heads, default=0) or None
    return HfConfig(
        architecture=_architecture(outer, facts),
        context_length=facts.integer(_CONTEXT, MAX_CONTEXT_LENGTH),
        embedding_length=embedding_length,
        feed_forward_length=max(facts.per_layer(_FEED_FORWARD, None, _MAX_FEED_FORWARD), default=0) or None,
        vocabulary_size=facts.integer(_VOCABULARY, MAX_VOCABULARY),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=() if is_latent else kept_by_layer(facts.values, _kept_heads(facts, heads, num_layers)),
        head_length=None if is_latent else _head_length(facts, embedding_length, num_heads),
        is_latent=is_latent,
        rope_freq_base=base,
        rope_scaling=scaling,
        sliding_window=_sliding_window(facts),
        num_experts=experts,
        num_experts_used=used,
        is_causal=_is_causal(outer, facts),
        quantisation=find_quantisation(outer, facts.values),
        float_type=_float_type(outer, facts),
        warnings=_warnings(outer),
    )


def language_facts(data: bytes) -> Facts:
    """What a ``config.json`` says of the language model, key by key.

    Raises:
        ModelFileError: not JSON, or too large.
    """
    return Facts(_language_part(_outer(data)))


def _outer(data: bytes) -> Mapping[str, object]:
    return parse_object(data, CONFIG, max_bytes=DESCRIBING[CONFIG], max_items=_MAX_ITEMS)


class Facts:
    """Typed access to a configuration: a value is of the right kind and size, absent, or an error. null is absent."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values

    def fail(self, problem: str, key: str, **values: object) -> NoReturn:
        raise ModelFileError(problem, field=f"{CONFIG}: {shown(key)}", offset=0, **values)

    def first(self, keys: Sequence[str]) -> tuple[str, object]:
        """The first of the keys that has a value."""
        for key in keys:
            if self.values.get(key) is not None:
                return key, self.values[key]
        return keys[0], None

    def whole(self, key: str, value: object, high: int, low: int = 1) -> int:
        """A value as a whole number within bounds."""
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail("the value is not a whole number", key)
        if not low <= value <= high:
            self.fail("{value} is not a number from {low} to {high}", key, value=value, low=low, high=high)
        return value

    def integer(self, keys: Sequence[str], high: int, *, low: int = 1) -> int | None:
        """The first of the keys that has a value, as a whole number."""
        key, value = self.first(keys)
        return None if value is None else self.whole(key, value, high, low)

    def per_layer(self, keys: Sequence[str], num_layers: int | None, high: int) -> tuple[int, ...]:
        """One number per layer, from a list or from a single number; () if absent."""
        key, value = self.first(keys)
        if value is None:
            return ()
        if not isinstance(value, list):
            return (self.whole(key, value, high, 0),) * (num_layers or 1)
        if len(value) > MAX_LAYERS or (num_layers is not None and len(value) != num_layers):
            self.fail("the list does not have one number per layer", key)
        return tuple(self.whole(key, item, high, 0) for item in value)

    def positive(self, keys: Sequence[str]) -> float | None:
        """The first of the keys that has a value, as a positive number."""
        key, value = self.first(keys)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e18 or not math.isfinite(value):
            self.fail("the value is not a positive number", key)
        return float(value)

    def part(self, key: str) -> Facts:
        """The object under a key; an empty one if it is something else."""
        value = self.values.get(key)
        return Facts(value if isinstance(value, dict) else {})


def _language_part(outer: Mapping[str, object]) -> Mapping[str, object]:
    """Models that also see or hear keep the language model's facts one or two levels below; those above fill its gaps."""
    values = outer
    for _ in range(2):
        inner = next((part for key in _INNER if isinstance(part := values.get(key), dict)), None)
        if inner is None or any(values.get(key) is not None for key in _LAYERS):
            break
        values = inner
    nested: dict[str, object] = {}
    for key in ("attn_config", "ffn_config"):  # DBRX and MPT
        part = values.get(key)
        nested.update(part if isinstance(part, dict) else {})
    return {**nested, **values}


def _architecture(outer: Mapping[str, object], facts: Facts) -> str:
    classes = outer.get("architectures")
    candidates = (outer.get("model_type"), facts.values.get("model_type"), *(classes[:1] if isinstance(classes, list) else ()))
    found = next((candidate for candidate in candidates if candidate not in (None, "")), None)
    if found is None:
        facts.fail("it does not say which architecture the model has", "model_type")
    if not isinstance(found, str) or not _ARCHITECTURE.fullmatch(found):
        facts.fail("the architecture is not a name", "model_type")
    return found


def _kept_heads(facts: Facts, heads: tuple[int, ...], num_layers: int | None) -> tuple[int, ...]:
    """Heads that keep keys and values, per layer."""
    if num_layers is None:
        return ()
    values = facts.values
    if values.get("multi_query_attention") is True:  # ChatGLM
        return (facts.integer(("multi_query_group_num",), MAX_HEADS) or 1,) * num_layers
    if values.get("multi_query") is True and values.get("new_decoder_architecture") is not True:  # Falcon, StarCoder
        return (1,) * num_layers
    return facts.per_layer(_KV_HEADS, num_layers, MAX_HEADS) or heads


def _head_length(facts: Facts, embedding_length: int | None, num_heads: int | None) -> int | None:
    said = facts.integer(("head_dim", "kv_channels", "d_kv", "attention_head_dim"), MAX_HEAD_LENGTH)
    if said is not None or embedding_length is None or num_heads is None:
        return said
    return embedding_length // num_heads or None


def _experts(facts: Facts) -> tuple[int | None, int | None]:
    experts = max(facts.per_layer(_EXPERTS, None, MAX_EXPERTS), default=None)
    used = max(facts.per_layer(_EXPERTS_USED, None, MAX_EXPERTS), default=None)
    if experts and used is not None and used > experts:
        facts.fail("{used} of {experts} experts cannot be used", _EXPERTS_USED[0], used=used, experts=experts)
    return experts or None, (used or None) if experts else None


def _rope(facts: Facts) -> tuple[float | None, str | None]:
    """Base and kind of scaling, in the older form (``rope_theta``, ``rope_scaling``) or the newer (``rope_parameters``)."""
    newer = facts.part("rope_parameters")
    if isinstance(newer.values.get("full_attention"), dict):
        newer = newer.part("full_attention")
    base = facts.positive(("rope_theta", "rotary_emb_base")) or newer.positive(("rope_theta",))
    older = facts.part("rope_scaling")
    for part in (older, newer):
        _, kind = part.first(("rope_type", "type"))
        if kind is not None:
            if not isinstance(kind, str):
                facts.fail("the value is not a text", "rope_type")
            return base, None if kind in ("default", "none", "") else shown(kind)
    return base, None


def _sliding_window(facts: Facts) -> int | None:
    kinds = facts.values.get("layer_types")
    is_unused = facts.values.get("use_sliding_window") is False
    if is_unused or (isinstance(kinds, list) and "sliding_attention" not in kinds):
        return None
    return facts.integer(("sliding_window", "sliding_window_size"), MAX_CONTEXT_LENGTH, low=0) or None


def _is_causal(outer: Mapping[str, object], facts: Facts) -> bool | None:
    classes = outer.get("architectures")
    names = [name for name in classes if isinstance(name, str)] if isinstance(classes, list) else []
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return True
    return False if _architecture(outer, facts) in _ENCODERS and outer.get("is_decoder") is not True else None


def _float_type(outer: Mapping[str, object], facts: Facts) -> str | None:
    for values in (facts.values, outer):
        for key in ("dtype", "torch_dtype"):
            named = values.get(key)
            if isinstance(named, str):
                return _FLOATS.get(named.removeprefix("torch."))
    return None


def _warnings(outer: Mapping[str, object]) -> tuple[str, ...]:
    if outer.get("auto_map") is None:
        return ()
    return ("The publisher's own code belongs to this model (auto_map); it is never run here.",)
