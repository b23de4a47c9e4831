"""A whole Hugging Face repository as one model: ``ModelInfo`` from the few files that describe it and the weights' headers.

Works on bytes, so that a directory on this disk and a repository read by range are described alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from zhibei.errors import ModelFileError
from zhibei.formats.bounded_json import parse_object
from zhibei.formats.gguf_facts import MAX_EMBEDDING_LENGTH
from zhibei.formats.hf_config import Facts, HfConfig, language_facts, parse_config
from zhibei.formats.hf_model_layers import layers_of, weigh
from zhibei.formats.hf_quantisation import count_parameters
from zhibei.formats.hf_repository import (
    CHAT_TEMPLATE,
    CONFIG,
    DESCRIBING,
    INDEX,
    POOLING,
    README,
    TOKENIZER_CONFIG,
    SafetensorsIndex,
    licence_of,
    parse_index,
)
from zhibei.formats.safetensors import SafetensorsHeader, SafetensorsTensor
from zhibei.formats.window import shown
from zhibei.models import ModelInfo

_MAX_ITEMS = 200_000
_EXPERT_FEED_FORWARD = ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size")
_POOLING = (("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last"), ("max_tokens", "max"))


def describe_repository(texts: Mapping[str, bytes], headers: Mapping[str, SafetensorsHeader]) -> ModelInfo:
    """One model's facts.

    Args:
        texts: contents of the files named in ``hf_repository.DESCRIBING``, those that there are; without a ``config.json``
            nothing but what the headers say is known.
        headers: of the weight files, by file name. Those of some only, or of none, where reading them all is too dear: then
            parameters and types stay unknown.

    Raises:
        ModelFileError: a file that is damaged or hostile, or files that contradict each other.
    """
    config = parse_config(texts[CONFIG]) if CONFIG in texts else HfConfig("unknown")
    index = parse_index(texts[INDEX]) if INDEX in texts else None
    tensors = _join(headers, index)
    is_whole = bool(headers) and (index is None or set(headers) >= set(index.files))
    counted = _count_types(tensors) if is_whole else ()
    tokenizer, template = _tokenizer(texts)
    facts = language_facts(texts[CONFIG]) if CONFIG in texts else Facts({})
    weights = weigh(tensors if is_whole else ())
    return ModelInfo(
        format="safetensors",
        architecture=config.architecture,
        num_parameters=count_parameters(tensors, config.quantisation) if is_whole else None,
        weights_bytes=_weights_bytes(tensors, is_whole, index),
        tensor_types=counted,
        quantisation=_label(config, counted),
        context_length=config.context_length,
        embedding_length=config.embedding_length,
        feed_forward_length=config.feed_forward_length,
        vocabulary_size=config.vocabulary_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        key_length=config.head_length,
        value_length=config.head_length,
        rope_freq_base=config.rope_freq_base,
        rope_scaling=config.rope_scaling,
        sliding_window=config.sliding_window,
        num_experts=config.num_experts,
        num_experts_used=config.num_experts_used,
        pooling=_pooling(texts),
        tokenizer=tokenizer,
        chat_template=template,
        licence=licence_of(texts[README]) if README in texts else None,
        split_count=len(index.files)
        if index is not None and len(index.files) > 1
        else len(headers)
        if len(headers) > 1
        else None,
        is_causal=config.is_causal,
        layers=layers_of(config, facts, weights),
        expert_feed_forward_length=_expert_feed_forward(config, facts),
        embedding_bytes=weights.embedding_bytes if is_whole else None,
        lookup_bytes=weights.lookup_bytes if is_whole else None,
        output_bytes=weights.output_bytes if is_whole else None,
        other_bytes=weights.other_bytes if is_whole else None,
        warnings=config.warnings,
    )


def _expert_feed_forward(config: HfConfig, facts: Facts) -> int | None:
    if not config.num_experts:
        return None
    return max(facts.per_layer(_EXPERT_FEED_FORWARD, None, MAX_EMBEDDING_LENGTH), default=0) or config.feed_forward_length


def _join(headers: Mapping[str, SafetensorsHeader], index: SafetensorsIndex | None) -> Sequence[SafetensorsTensor]:
    """All tensors, each in one file, and in the one that the index has it in."""
    homes: dict[str, str] = {}
    for file, header in headers.items():
        for tensor in header.tensors:
            if homes.setdefault(tensor.name, file) != file:
                raise ModelFileError("two files have the same tensor", field=shown(tensor.name), offset=header.data_offset)
    for name, file in (index.weight_map if index is not None else {}).items():
        if file in headers and homes.get(name) != file:
            problem = "the index has it in {file}, where it is not"
            raise ModelFileError(problem, field=shown(name), offset=0, file=shown(file))
    return [tensor for header in headers.values() for tensor in header.tensors]


def _weights_bytes(tensors: Sequence[SafetensorsTensor], is_whole: bool, index: SafetensorsIndex | None) -> int | None:
    if is_whole:
        return sum(tensor.num_bytes for tensor in tensors)
    return index.total_bytes if index is not None else None


def _count_types(tensors: Iterable[SafetensorsTensor]) -> tuple[tuple[str, int, int], ...]:
    counted: dict[str, tuple[int, int]] = {}
    for tensor in tensors:
        count, num_bytes = counted.get(tensor.dtype, (0, 0))
        counted[tensor.dtype] = (count + 1, num_bytes + tensor.num_bytes)
    rows = ((name, count, num_bytes) for name, (count, num_bytes) in counted.items())
    return tuple(sorted(rows, key=lambda row: (-row[2], row[0])))


def _label(config: HfConfig, counted: tuple[tuple[str, int, int], ...]) -> str | None:
    """The declared quantisation, else the type that most bytes are stored in."""
    if config.quantisation is not None:
        return config.quantisation.label
    return counted[0][0] if counted else config.float_type


def _tokenizer(texts: Mapping[str, bytes]) -> tuple[str | None, str | None]:
    """The tokenizer's class and the chat template."""
    name, template = None, None
    if TOKENIZER_CONFIG in texts:
        limit = DESCRIBING[TOKENIZER_CONFIG]
        said = parse_object(texts[TOKENIZER_CONFIG], TOKENIZER_CONFIG, max_bytes=limit, max_items=_MAX_ITEMS)
        kind = said.get("tokenizer_class")
        name = shown(kind.removesuffix("Fast")) or None if isinstance(kind, str) else None
        template = _template(said.get("chat_template"))
    if CHAT_TEMPLATE in texts:  # the newer place, which counts where both are there
        template = _text(texts[CHAT_TEMPLATE], CHAT_TEMPLATE)
    return name, template


def _template(said: object) -> str | None:
    """One template, or the one called default of several."""
    if isinstance(said, list):
        named = {entry.get("name"): entry.get("template") for entry in said if isinstance(entry, dict) and _is_named(entry)}
        said = named.get("default")
    if said is not None and not isinstance(said, str):
        raise ModelFileError("the value is not a text", field=f"{TOKENIZER_CONFIG}: chat_template", offset=0)
    return said


def _is_named(entry: Mapping[str, object]) -> bool:
    return isinstance(entry.get("name"), str)


def _text(data: bytes, name: str) -> str:
    if len(data) > DESCRIBING[name]:
        raise ModelFileError("it is larger than {limit} bytes", field=name, offset=0, limit=DESCRIBING[name])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError("it is not UTF-8", field=name, offset=error.start) from None


def _pooling(texts: Mapping[str, bytes]) -> str | None:
    if POOLING not in texts:
        return None
    said = parse_object(texts[POOLING], POOLING, max_bytes=DESCRIBING[POOLING], max_items=1000)
    return next((kind for key, kind in _POOLING if said.get(f"pooling_mode_{key}") is True), None)
