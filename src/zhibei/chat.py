"""What is asked of a model: messages, tools, sampling, requests. Values only; no I/O, no wire formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zhibei.options import Limits, Sampling

Role = Literal["system", "user", "assistant", "tool"]
JsonSchema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a message: its bytes and media type (``image/png`` …)."""

    data: bytes
    media_type: str


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model made. ``arguments`` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``parts`` may be empty where ``tool_calls`` says everything."""

    role: Role
    parts: tuple[Part, ...] = ()
    name: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @staticmethod
    def of(role: Role, text: str) -> Message:
        """A message of plain text."""
        return Message(role, (TextPart(text),))

    @property
    def text(self) -> str:
        """All text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. ``parameters`` is its JSON schema."""

    name: str
    description: str | None = None
    parameters: JsonSchema | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``mode`` is auto, none or required; ``name`` (with required) forces one tool."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The shape the answer must have. ``schema`` is set for json_schema only."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    schema: JsonSchema | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to be continued.

    ``num_choices`` answers are generated; ``top_logprobs`` None means no log-probabilities, 0 the chosen token's only.
    ``reasoning_effort`` None leaves it to the model; "none" switches reasoning off where the template can.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat = ResponseFormat()
    num_choices: int = 1
    top_logprobs: int | None = None
    reasoning_effort: str | None = None


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Raw text (or token ids) to be continued, without a template.

    ``suffix``: what comes after the text that is wanted; the model fills the gap, if it was trained to.
    """

    prompt: str | tuple[int, ...]
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    num_choices: int = 1
    top_logprobs: int | None = None
    response_format: ResponseFormat = ResponseFormat()
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts (or token id lists) to be turned into vectors."""

    inputs: tuple[str | tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """Documents to be scored against a query."""

    query: str
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input, each of the model's embedding length. ``num_tokens`` is the total read."""

    vectors: tuple[tuple[float, ...], ...]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """A relevance score per document, in the order of the request."""

    scores: tuple[float, ...]
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its natural-log probability, and the likeliest alternatives in its place."""

    token: str
    logprob: float
    raw: bytes = b""
    id: int | None = None
    top: tuple[TokenLogprob, ...] = field(default=())
