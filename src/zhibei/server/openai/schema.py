"""What OpenAI's requests may hold: the fields, their types and their ranges. Meaning is given to them in ``translate``.

A field of another type or out of range is refused; a field that is not listed is reported in a header and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from zhibei.server.body import Body
from zhibei.server.loading import INT32_MAX, LoadBody

MAX_STOPS = 16
MAX_CHOICES = 128
MAX_INPUTS = 2048
MAX_TOOLS = 512
CHAT_TOP_LOGPROBS = 20
COMPLETION_LOGPROBS = 5

Stop = str | list[str]
TokenIds = list[Annotated[int, Field(ge=0, le=INT32_MAX)]]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Bias = Annotated[float, Field(ge=-100, le=100)]


class ContextBody(Body):
    """Ollama's ``options``, of which the size of the context is taken; the rest has names of its own here."""

    num_ctx: int | None = Field(None, ge=1, le=INT32_MAX)


class ModelBody(Body):
    """What every request on a model has."""

    model: str = Field(min_length=1, max_length=2048)
    user: str | None = None
    keep_alive: str | float | None = Field(None, description="Zhibei's own: how long the model stays loaded afterwards.")
    load: LoadBody | None = Field(None, description="Zhibei's own: how to load the model.")
    num_ctx: int | None = Field(None, ge=1, le=INT32_MAX, description="As load.ctx_size; Ollama's front ends send it.")
    options: ContextBody | None = Field(None, description="As Ollama's: num_ctx in it counts as num_ctx.")


class StreamOptions(Body):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SchemaFormat(Body):
    """A JSON schema the answer must follow."""

    name: str | None = Field(None, max_length=256)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class FormatBody(Body):
    """The shape of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class DrawingBody(ModelBody):
    """How tokens are drawn. The second group is not OpenAI's; its names are llama.cpp's and vLLM's."""

    temperature: float | None = Field(None, ge=0, le=5, description="OpenAI's range: 0 to 2.")
    top_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    logit_bias: dict[str, Bias] | None = Field(None, max_length=1024)

    top_k: int | None = Field(None, ge=0, le=INT32_MAX)
    min_p: Probability | None = None
    typical_p: Probability | None = None
    repeat_penalty: float | None = Field(None, gt=0, le=10)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    repeat_last_n: int | None = Field(None, ge=-1, le=INT32_MAX)
    mirostat: int | None = Field(None, ge=0, le=2)
    mirostat_tau: float | None = Field(None, ge=0, le=100)
    mirostat_eta: Probability | None = None
    dry_multiplier: float | None = Field(None, ge=0, le=100)
    dry_base: float | None = Field(None, ge=1, le=100)
    dry_allowed_length: int | None = Field(None, ge=0, le=INT32_MAX)
    xtc_probability: Probability | None = None
    xtc_threshold: Probability | None = None
    ignore_eos: bool | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    service_tier: str | None = Field(None, max_length=64)
    safety_identifier: str | None = Field(None, max_length=1024)
    prompt_cache_key: str | None = Field(None, max_length=1024)
    prompt_cache_retention: str | None = Field(None, max_length=64)
    chat_template: Any = None
    grammar: Any = None


class SamplingBody(DrawingBody):
    """What chats and completions have in common."""

    model: str = Field("", max_length=2048, description="Not OpenAI's: without it, the model that is in use here.")
    stop: Stop | None = None
    max_tokens: int | None = Field(None, ge=1, le=INT32_MAX)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    response_format: FormatBody | None = None
    json_schema: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ImageUrl(Body):
    """Where an image is: a ``data:`` URL, or an address on the web."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ContentPart(Body):
    """A piece of a message. ``type`` says which of the other fields holds it."""

    type: str = Field(max_length=64)
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | None = None


class FunctionCall(Body):
    """A function's name and its arguments as JSON text."""

    name: str = Field(min_length=1, max_length=256)
    arguments: str


class ToolCallBody(Body):
    """A call the model made earlier."""

    id: str = Field(max_length=256)
    type: Literal["function"] = "function"
    function: FunctionCall


class MessageBody(Body):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = Field(None, max_length=256)
    reasoning_content: str | None = None
    refusal: str | None = None
    audio: Any = None
    function_call: Any = None
    tool_calls: list[ToolCallBody] | None = Field(None, max_length=MAX_TOOLS)
    tool_call_id: str | None = Field(None, max_length=256)


class FunctionBody(Body):
    """A function the model may call; ``parameters`` is a JSON schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Body):
    """A tool; only functions are known."""

    type: str = Field(max_length=64)
    function: FunctionBody | None = None


class NamedFunction(Body):
    """The name of a function."""

    name: str = Field(max_length=256)


class NamedTool(Body):
    """The tool that must be called."""

    type: str = Field(max_length=64)
    function: NamedFunction | None = None


class ChatBody(SamplingBody):
    """``POST /v1/chat/completions``."""

    messages: list[MessageBody] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=INT32_MAX)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=CHAT_TOP_LOGPROBS)
    tools: list[ToolBody] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    moderation: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    functions: Any = None
    function_call: Any = None


class CompletionBody(SamplingBody):
    """``POST /v1/completions``."""

    prompt: str | list[str] | TokenIds | list[TokenIds]
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = Field(None, ge=0, le=COMPLETION_LOGPROBS)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)


class EmbeddingBody(ModelBody):
    """``POST /v1/embeddings``."""

    input: str | list[str] | TokenIds | list[TokenIds]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=INT32_MAX)


class DocumentBody(Body):
    """A document as an object, as Cohere and Jina take them."""

    text: str


class RerankBody(ModelBody):
    """``POST /v1/rerank``, which OpenAI has not; the fields are Jina's and Cohere's."""

    query: str = Field(min_length=1)
    documents: list[str | DocumentBody] = Field(min_length=1, max_length=MAX_INPUTS)
    top_n: int | None = Field(None, ge=1, le=INT32_MAX)
    return_documents: bool | None = None
