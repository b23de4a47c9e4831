"""What requests to ``/v1/responses`` may hold. Meaning is given to the fields in ``translate``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from zhibei.server.body import Body
from zhibei.server.loading import INT32_MAX
from zhibei.server.openai.schema import CHAT_TOP_LOGPROBS, MAX_TOOLS, DrawingBody, Effort

MAX_ITEMS = 10_000
Id = Annotated[str, Field(min_length=1, max_length=256)]
Includable = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
Status = Literal["in_progress", "completed", "incomplete"]
# Agents put these into every request, whoever serves: to refuse them would be to refuse the agent.
CLIENTS_OWN_TOOLS = frozenset(
    (
        "apply_patch",
        "custom",
        "image_generation",
        "local_shell",
        "namespace",
        "shell",
        "tool_search",
        "web_search",
        "web_search_preview",
    )
)


class Part(Body):
    """A piece of an item. ``type`` says which of the other fields holds it."""

    type: str = Field(max_length=64)
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    file_id: str | None = Field(None, max_length=256)
    detail: Literal["auto", "low", "high", "original"] | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    prompt_cache_breakpoint: Any = None


class Item(Body):
    """A piece of a conversation. Without ``type`` it is a message."""

    type: str | None = Field(None, max_length=64)
    id: Id | None = None
    status: Status | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    phase: Literal["commentary", "final_answer"] | None = None
    name: str | None = Field(None, min_length=1, max_length=256)
    namespace: str | None = Field(None, max_length=256)
    arguments: str | None = None
    call_id: Id | None = None
    output: str | list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None
    caller: Any = None
    created_by: str | None = None


class Tool(Body):
    """A tool; functions are called, and ``CLIENTS_OWN_TOOLS`` let pass."""

    type: str = Field(max_length=64)
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: dict[str, Any] | None = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None


class NamedTool(Body):
    """The tool that must be called, or those that may be."""

    type: str = Field(max_length=64)
    name: str | None = Field(None, max_length=256)
    mode: Literal["auto", "required"] | None = None
    tools: list[dict[str, Any]] | None = Field(None, max_length=MAX_TOOLS)


class Format(Body):
    """The shape of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, max_length=256)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class Text(Body):
    """How the answer is to be written."""

    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Body):
    """How much the model is to think first."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: str | None = Field(None, max_length=64)


class ResponseBody(DrawingBody):
    """``POST /v1/responses``; ``POST /v1/responses/input_tokens`` takes the same."""

    input: str | Annotated[list[Item], Field(max_length=MAX_ITEMS)] | None = None
    instructions: str | None = None
    previous_response_id: Id | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=INT32_MAX)
    max_tool_calls: int | None = Field(None, ge=1, le=INT32_MAX)
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: Text | None = None
    top_logprobs: int | None = Field(None, ge=0, le=CHAT_TOP_LOGPROBS)
    truncation: Literal["auto", "disabled"] | None = None
    include: list[Includable] | None = Field(None, max_length=32)
    metadata: dict[str, str] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None
    personality: str | None = Field(None, max_length=64)
