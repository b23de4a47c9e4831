"""What a person may set: how a model is loaded, how tokens are drawn, when to stop. None: left to somebody else.

Apart from chat.py and plans.py because settings hold these and every command reads settings.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Speculation = Literal["auto", "ngram", "off"]
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a person wants a model loaded. None: the planner decides.

    Names are llama.cpp's: ``ctx_size`` tokens per slot, ``parallel`` slots, ``gpu_layers`` layers on the GPU,
    ``batch_size`` and ``ubatch_size`` tokens, ``cache_ram_mib`` MiB of prompt cache. ``speculation`` ngram: where a text
    repeats itself its next words are guessed from before, and checked together. ``kernels``: compute with our own, where
    they can.
    """

    ctx_size: int | None = None
    parallel: int | None = None
    threads: int | None = None
    threads_batch: int | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    flash_attn: Literal["on", "off", "auto"] | None = None
    gpu_layers: int | None = None
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    mmap: bool | None = None
    mlock: bool | None = None
    cache_ram_mib: int | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    lora: tuple[tuple[str, float], ...] = ()
    mmproj: str | None = None
    draft_model: str | None = None
    speculation: Speculation | None = None
    chat_template: str | None = None
    reasoning: Literal["on", "off", "auto"] | None = None
    pooling: str | None = None
    kernels: bool | None = None

    def over(self, defaults: LoadOptions) -> LoadOptions:
        """These values where set, else those of ``defaults``."""
        if defaults == LoadOptions():
            return self
        if self == LoadOptions():
            return defaults
        return LoadOptions(
            **{
                f.name: mine if (mine := getattr(self, f.name)) not in (None, ()) else getattr(defaults, f.name)
                for f in fields(self)
            }
        )


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. None: the engine's (or the model's) own default.

    ``logit_bias`` maps token ids to added logits.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()

    def over(self, defaults: Sampling) -> Sampling:
        """These values where set, else those of ``defaults``."""
        if defaults == Sampling():
            return self
        if self == Sampling():
            return defaults
        return Sampling(
            **{
                f.name: mine if (mine := getattr(self, f.name)) not in (None, ()) else getattr(defaults, f.name)
                for f in fields(self)
            }
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop. ``max_tokens`` None: until the model stops or the context is full."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
