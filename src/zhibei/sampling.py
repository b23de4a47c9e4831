"""How tokens are drawn and when to stop. Apart from chat.py because settings hold it and every command reads settings."""

from __future__ import annotations

from dataclasses import dataclass, fields


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
