"""Which layers of a mixed model keep keys and values, from the various ways in which configurations say it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

_ATTENDING = ("attention", "full_attention", "sliding_attention", "chunked_attention", "hybrid", "local_attention")


def kept_by_layer(values: Mapping[str, object], heads: tuple[int, ...]) -> tuple[int, ...]:
    """``heads`` with 0 where a layer has no attention; () if it cannot be told which have."""
    marks = _marks(values, len(heads))
    if marks is None:
        return heads
    return tuple(count if mark else 0 for count, mark in zip(heads, marks, strict=True)) if len(marks) == len(heads) else ()


def _marks(values: Mapping[str, object], num_layers: int) -> tuple[bool, ...] | None:
    """For each layer whether it attends; None: all do."""
    for key in ("layer_types", "layers_block_type", "block_types"):
        kinds = values.get(key)
        if isinstance(kinds, list):
            return tuple(kind in _ATTENDING for kind in kinds)
    pattern = values.get("hybrid_override_pattern")  # Nemotron-H: a letter per layer, * attends
    if isinstance(pattern, str):
        return tuple(letter == "*" for letter in pattern)
    chosen = values.get("attn_layer_indices", values.get("full_attn_idxs"))  # Bamba, LFM2
    if isinstance(chosen, list):
        return tuple(layer in chosen for layer in range(num_layers))
    interval = _count(values.get("full_attention_interval"))  # Qwen3-Next
    if interval is not None:
        return tuple((layer + 1) % interval == 0 for layer in range(num_layers))
    period = _count(values.get("attn_layer_period"))  # Jamba
    if period is not None:
        return tuple(layer % period == values.get("attn_layer_offset", 0) for layer in range(num_layers))
    if values.get("model_type") == "falcon_h1":  # attention and a state side by side in every layer
        return None
    return () if any(key in values for key in ("block_configs", "mamba_d_state", "linear_attn_config")) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
