"""What long work emits. Streams of these are consumed alike by every dialect, the CLI and the Python API.

A generation is: any number of deltas, then exactly one Finished, last. A failure is an exception, never an event.
A pull is: Inspected, Progress …, then exactly one Pulled, last. Notices may come anywhere.
A check is: Progress …, and one Checked for every model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zhibei.chat import TokenLogprob
from zhibei.models import ModelInfo, StoredModel

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer. ``choice`` counts the answers when several were asked for."""

    text: str
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a tool call. ``index`` counts the calls of one answer; ``id`` and ``name`` come with the first piece."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted by the engine. ``num_cached_tokens`` of the prompt were not computed again."""

    num_prompt_tokens: int
    num_generated_tokens: int
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """What the engine measured. ``num_prompt_tokens`` is what it computed, cached ones not counted.

    ``num_guessed_tokens`` of the generated ones were guessed right and checked together with others: they took no time.
    """

    num_prompt_tokens: int
    prompt_s: float
    num_generated_tokens: int
    generation_s: float
    num_cached_tokens: int = 0
    num_guessed_tokens: int = 0

    @property
    def prompt_tokens_per_s(self) -> float | None:
        """Prompt speed in tokens/s; None where no time was measured."""
        return self.num_prompt_tokens / self.prompt_s if self.prompt_s > 0 else None

    @property
    def generation_tokens_per_s(self) -> float | None:
        """Generation speed in tokens/s; None where no time was measured."""
        return self.num_generated_tokens / self.generation_s if self.generation_s > 0 else None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a generation: one reason per choice.

    ``stop_texts``: per choice the stop text that ended it, None where it was something else; empty where the engine does
    not tell.
    """

    reasons: tuple[FinishReason, ...]
    usage: Usage
    timings: Timings | None = None
    stop_texts: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Loading:
    """The model is being loaded before the first token can come. ``fraction`` None: not known."""

    model: str
    fraction: float | None = None


GenerationEvent = TextDelta | ReasoningDelta | ToolCallDelta | Finished


@dataclass(frozen=True, slots=True)
class Inspected:
    """The header was read: what the model is, before its bytes have come. ``total_bytes`` is the whole download."""

    name: str
    info: ModelInfo | None
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` (bytes unless ``unit`` says otherwise) of ``what`` are there; total None: not known."""

    what: str
    done: int
    total: int | None
    unit: Literal["bytes", "files"] = "bytes"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know; work goes on. An English template and its values, as errors have."""

    message: str
    values: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        return self.message.format_map(dict(self.values)) if self.values else self.message


@dataclass(frozen=True, slots=True)
class Pulled:
    """The model is in the store, complete and verified."""

    model: StoredModel


@dataclass(frozen=True, slots=True)
class Checked:
    """A stored model was read again: ``problem`` says what is wrong with it (None: nothing), ``bad_files`` which files are."""

    name: str
    problem: str | None
    bad_files: tuple[str, ...] = ()


PullEvent = Inspected | Progress | Notice | Pulled
CheckEvent = Progress | Checked
