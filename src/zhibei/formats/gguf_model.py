"""What checked GGUF headers mean: ModelInfo. Refuses values that make no sense; absent facts stay None.

Names and defaults are llama.cpp's (src/llama-arch.cpp, ``load_hparams`` in src/llama-model.cpp).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from zhibei.formats.ggml_types import FILE_TYPES
from zhibei.formats.gguf_facts import (
    MAX_CONTEXT_LENGTH,
    MAX_EMBEDDING_LENGTH,
    MAX_EXPERTS,
    MAX_HEAD_LENGTH,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_SHARDS,
    MAX_VOCABULARY,
    Facts,
)
from zhibei.formats.gguf_header import GgufHeader, TensorInfo
from zhibei.formats.gguf_layers import LayerReader, weigh
from zhibei.models import ModelInfo

__all__ = ["MAX_SHARDS", "describe"]

_GUESSED_FILE_TYPE = 1024
_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
_TOKENS = "tokenizer.ggml.tokens"
_SPECIAL_TOKEN = re.compile(r"tokenizer\.ggml\.[a-z_]+_token_id")
_REQUIRED_TOKENS = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id")
_DRAFT_WITH_TARGET_VOCABULARY = "eagle3"  # its embedding has the rows of another model's vocabulary
_NOT_MODELS = ("adapter", "mmproj", "imatrix", "vocab")


def describe(headers: Sequence[GgufHeader]) -> ModelInfo:
    """One model's facts, from its file's header, or from those of all its shards in order.

    Raises:
        ModelFileError: a value that no model can have, or facts that contradict each other.
    """
    facts = Facts(headers[0])
    architecture = facts.architecture()
    tensors = [tensor for header in headers for tensor in header.tensors]
    num_layers = facts.integer(f"{architecture}.block_count", 1, MAX_LAYERS)
    heads = _Heads(facts, architecture, num_layers)
    experts, experts_used = _experts(facts, architecture, num_layers)
    counted = _count_types(tensors)
    split_count = facts.integer("split.count", 0, MAX_SHARDS) or None
    weights = weigh(tensors)
    return ModelInfo(
        format="gguf",
        architecture=architecture,
        name=facts.label("general.name"),
        num_parameters=sum(tensor.num_elements for tensor in tensors) if tensors else None,
        weights_bytes=sum(tensor.num_bytes for tensor in tensors) if tensors else None,
        tensor_types=counted,
        quantisation=_quantisation(facts, counted),
        context_length=facts.integer(f"{architecture}.context_length", 1, MAX_CONTEXT_LENGTH),
        embedding_length=heads.embedding_length,
        feed_forward_length=max(facts.per_layer(f"{architecture}.feed_forward_length", num_layers, 2**24), default=0) or None,
        vocabulary_size=_vocabulary_size(facts, architecture, tensors),
        num_layers=num_layers,
        num_heads=heads.num_heads,
        num_kv_heads=heads.num_kv_heads,
        key_length=heads.key_length,
        value_length=heads.value_length,
        rope_freq_base=facts.positive(f"{architecture}.rope.freq_base"),
        rope_scaling=_rope_scaling(facts, architecture),
        sliding_window=facts.integer(f"{architecture}.attention.sliding_window", 0, MAX_CONTEXT_LENGTH) or None,
        num_experts=experts,
        num_experts_used=experts_used,
        pooling=_pooling(facts, architecture),
        tokenizer=facts.label("tokenizer.ggml.model"),
        chat_template=facts.text("tokenizer.chat_template"),
        licence=_licence(facts),
        split_count=split_count,
        is_causal=facts.truth(f"{architecture}.attention.causal"),
        layers=LayerReader(facts, architecture, num_layers).layers(weights) if num_layers is not None else (),
        expert_feed_forward_length=max(
            facts.per_layer(f"{architecture}.expert_feed_forward_length", num_layers, 2**24), default=0
        )
        or None,
        embedding_bytes=weights.embedding_bytes if tensors else None,
        lookup_bytes=weights.lookup_bytes if tensors else None,
        output_bytes=weights.output_bytes if tensors else None,
        other_bytes=weights.other_bytes if tensors else None,
        warnings=(*_warnings(headers), *facts.warnings, *_doubts(facts, headers, split_count)),
    )


class _Heads:
    """Attention: heads, heads per layer that keep keys and values, and their lengths.

    A model without attention (Mamba, RWKV) may say 0 heads; any other may not.
    """

    def __init__(self, facts: Facts, architecture: str, num_layers: int | None) -> None:
        self.embedding_length = facts.integer(f"{architecture}.embedding_length", 1, MAX_EMBEDDING_LENGTH)
        key = f"{architecture}.attention.head_count"
        heads = facts.per_layer(key, num_layers, MAX_HEADS)
        self.num_heads = max(heads, default=0) or None
        kept = facts.per_layer(f"{key}_kv", num_layers, MAX_HEADS) or heads
        if heads and not (any(heads) and any(kept)) and not _is_recurrent(facts, architecture):
            facts.fail("the model has no attention heads", key if not any(heads) else f"{key}_kv")
        self.num_kv_heads = self._without_recurrent(facts, architecture, kept if num_layers is not None else ())
        usual = self._usual_length()
        self.key_length = facts.integer(f"{architecture}.attention.key_length", 1, MAX_HEAD_LENGTH) or usual
        self.value_length = facts.integer(f"{architecture}.attention.value_length", 1, MAX_HEAD_LENGTH) or usual

    def _usual_length(self) -> int | None:
        if self.embedding_length is None or self.num_heads is None:
            return None
        return self.embedding_length // self.num_heads or None

    @staticmethod
    def _without_recurrent(facts: Facts, architecture: str, kept: tuple[int, ...]) -> tuple[int, ...]:
        """Layers that are recurrent in a mixed model (Qwen3-Next) keep no keys."""
        flags = facts.per_layer(f"{architecture}.attention.recurrent_layers", len(kept) or None, 1)
        interval = facts.integer(f"{architecture}.full_attention_interval", 1, MAX_LAYERS)
        if len(flags) == len(kept):
            return tuple(0 if flag else count for flag, count in zip(flags, kept, strict=True))
        if interval is not None:
            return tuple(count if (layer + 1) % interval == 0 else 0 for layer, count in enumerate(kept))
        return kept


def _is_recurrent(facts: Facts, architecture: str) -> bool:
    return any(key.startswith((f"{architecture}.ssm.", f"{architecture}.wkv.")) for key in facts.metadata)


def _experts(facts: Facts, architecture: str, num_layers: int | None) -> tuple[int | None, int | None]:
    experts = facts.integer(f"{architecture}.expert_count", 0, MAX_EXPERTS)
    key = f"{architecture}.expert_used_count"
    used = max(facts.per_layer(key, num_layers, MAX_EXPERTS), default=None)
    if experts is not None and used is not None and used > experts:
        facts.fail("{used} of {experts} experts cannot be used", key, used=used, experts=experts)
    return experts or None, used or None


def _count_types(tensors: Iterable[TensorInfo]) -> tuple[tuple[str, int, int], ...]:
    counted: dict[str, tuple[int, int]] = {}
    for tensor in tensors:
        count, num_bytes = counted.get(tensor.type_name, (0, 0))
        counted[tensor.type_name] = (count + 1, num_bytes + tensor.num_bytes)
    rows = ((name, count, num_bytes) for name, (count, num_bytes) in counted.items())
    return tuple(sorted(rows, key=lambda row: (-row[2], row[0])))


def _quantisation(facts: Facts, counted: tuple[tuple[str, int, int], ...]) -> str | None:
    """The declared file type, else the type that most bytes are stored in."""
    declared = facts.integer("general.file_type", 0, 2**32)
    name = None if declared is None else FILE_TYPES.get(declared & ~_GUESSED_FILE_TYPE)
    return name or (counted[0][0] if counted else None)


def _vocabulary_size(facts: Facts, architecture: str, tensors: Iterable[TensorInfo]) -> int | None:
    length = facts.length_of(_TOKENS)
    table = next((tensor for tensor in tensors if tensor.name == "token_embd.weight" and len(tensor.dims) == 2), None)
    if length is not None:
        _check_special_tokens(facts, length)
        if table is not None and table.dims[1] != length and architecture != _DRAFT_WITH_TARGET_VOCABULARY:
            facts.fail("{length} tokens do not match {rows} embeddings", _TOKENS, length=length, rows=table.dims[1])
        return length
    declared = facts.integer(f"{architecture}.vocab_size", 1, MAX_VOCABULARY)
    return declared if declared is not None or table is None else table.dims[1]


def _check_special_tokens(facts: Facts, vocabulary_size: int) -> None:
    for key in facts.metadata:
        if not _SPECIAL_TOKEN.fullmatch(key):
            continue
        token = facts.integer(key, -(2**63), 2**64)
        if token is None or 0 <= token < vocabulary_size:
            continue
        if key in _REQUIRED_TOKENS:
            facts.fail("token {token} is not in the vocabulary of {size}", key, token=token, size=vocabulary_size)
        facts.warnings.append(f"{key} {token} is not in the vocabulary.")


def _rope_scaling(facts: Facts, architecture: str) -> str | None:
    """Also checks every number that turns positions into angles."""
    prefix = f"{architecture}.rope."
    for key, value in facts.metadata.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if key.startswith(prefix) and any(isinstance(item, float) and not math.isfinite(item) for item in numbers):
            facts.fail("the value is not a finite number", key)
    kind = facts.label(f"{prefix}scaling.type")
    if kind is not None:
        return None if kind == "none" else kind
    factor = facts.number(f"{prefix}scaling.factor") or facts.number(f"{prefix}scale_linear")
    return "linear" if factor not in (None, 0.0, 1.0) else None


def _pooling(facts: Facts, architecture: str) -> str | None:
    number = facts.integer(f"{architecture}.pooling_type", -1, 2**32)
    if number is None or number in _POOLING:
        return None if number is None else _POOLING[number]
    facts.warnings.append(f"Pooling type {number} is not known.")
    return None


def _licence(facts: Facts) -> str | None:
    licence = facts.label("general.license")
    named = facts.label("general.license.name")
    return named if named and (licence is None or licence.lower() == "other") else licence


def _warnings(headers: Sequence[GgufHeader]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(warning for header in headers for warning in header.warnings))


def _doubts(facts: Facts, headers: Sequence[GgufHeader], split_count: int | None) -> list[str]:
    """What is not wrong, but a person should know."""
    doubts = []
    kind = facts.label("general.type")
    if kind in _NOT_MODELS:
        doubts.append(f"The file holds a part of a model ({kind}), not a whole one.")
    elif not any(header.tensors for header in headers) and split_count in (None, len(headers)):
        doubts.append("The file holds no weights.")
    if split_count is not None and split_count > len(headers):
        doubts.append(f"Only {len(headers)} of {split_count} files were read.")
    return doubts
