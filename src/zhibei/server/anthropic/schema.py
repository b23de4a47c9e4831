"""What Anthropic's requests may hold: the fields, their types and their ranges. Meaning is given to them in ``translate``.

A field of another type or out of range is refused; a field that is not listed is reported in a header and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from zhibei.server.body import Body
from zhibei.server.loading import INT32_MAX, LoadBody

MAX_MESSAGES = 100_000
MAX_BLOCKS = 10_000
MAX_STOPS = 16
MAX_TOOLS = 512
MIN_BUDGET_TOKENS = 1024

Id = Annotated[str, Field(min_length=1, max_length=256)]


class Source(Body):
    """Where an image is: in the request, or at an address on the web."""

    type: str = Field(max_length=64)
    media_type: str | None = Field(None, max_length=64)
    data: str | None = None
    url: str | None = None
    file_id: str | None = Field(None, max_length=256)


class Block(Body):
    """A piece of a message. ``type`` says which of the other fields holds it."""

    type: str = Field(max_length=64)
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    source: Source | None = None
    id: Id | None = None
    name: str | None = Field(None, min_length=1, max_length=256)
    input: dict[str, Any] | None = None
    tool_use_id: Id | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None
    title: str | None = None
    cache_control: Any = None
    citations: Any = None
    caller: Any = None
    context: str | None = None
    toolset_name: str | None = None


class MessageBody(Body):
    """One turn of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(max_length=MAX_BLOCKS)]


class ToolBody(Body):
    """A tool; only those that the client runs itself are known."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")
    type: str | None = Field(None, max_length=64)
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: Any = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: Any = None
    allowed_callers: list[str] | None = None


class ToolChoiceBody(Body):
    """Whether a tool is to be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, max_length=256)
    disable_parallel_tool_use: bool | None = None


class ThinkingBody(Body):
    """Whether the model is to think first. Only that there is a budget is told to it, not how large it is."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = Field(None, ge=MIN_BUDGET_TOKENS, le=INT32_MAX)
    display: Literal["summarized", "omitted"] | None = None


class FormatBody(Body):
    """The shape of the answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputBody(Body):
    """How much is to be thought, and the shape of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: FormatBody | None = None


class MetadataBody(Body):
    """Who asks; nothing is done with it."""

    user_id: str | None = Field(None, max_length=4096)


class CountBody(Body):
    """``POST /v1/messages/count_tokens``, and what it has in common with ``POST /v1/messages``."""

    model: str = Field(min_length=1, max_length=2048)
    messages: list[MessageBody] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: str | Annotated[list[Block], Field(max_length=MAX_BLOCKS)] | None = None
    tools: list[ToolBody] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoiceBody | None = None
    thinking: ThinkingBody | None = None
    output_config: OutputBody | None = None
    cache_control: Any = None
    context_management: Any = None
    mcp_servers: list[Any] | None = None
    speed: Literal["standard", "fast"] | None = None

    keep_alive: str | float | None = Field(None, description="Zhibei's own: how long the model stays loaded afterwards.")
    load: LoadBody | None = Field(None, description="Zhibei's own: how to load the model.")
    num_ctx: int | None = Field(None, ge=1, le=INT32_MAX, description="As load.ctx_size.")


class MessagesBody(CountBody):
    """``POST /v1/messages``."""

    max_tokens: int = Field(ge=1, le=INT32_MAX)
    stream: bool | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1, max_length=1024)]] | None = Field(None, max_length=MAX_STOPS)
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=INT32_MAX)
    metadata: MetadataBody | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: Any = None
    inference_geo: str | None = Field(None, max_length=64)
    diagnostics: Any = None
