"""What Ollama's requests may hold: the fields, their types and their ranges. Meaning is given to them in ``translate``.

A field of another type or out of range is refused; a field that is not listed is reported in a header and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zhibei.server.body import Body
from zhibei.server.loading import INT32_MAX

MAX_STOPS = 16
MAX_INPUTS = 2048
MAX_TOOLS = 512
MAX_LOGPROBS = 20
MAX_CONTEXT_TOKENS = 4_000_000
MAX_NAME = 2048

Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=-1, le=INT32_MAX)]
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
Images = list[str]
Think = bool | Literal["", "low", "medium", "high", "max"]


class OptionsBody(Body):
    """``options``: sampling, limits, and how the model is loaded. Minus one stands for "no limit" or "choose yourself".

    What else Ollama's clients may send (num_keep, tfs_z, penalize_newline, numa, low_vram …) has no meaning here and is reported.
    """

    num_ctx: int | None = Field(None, ge=0, le=INT32_MAX)
    num_batch: int | None = Field(None, ge=0, le=1_048_576)
    num_gpu: int | None = Field(None, ge=-1, le=100_000)
    main_gpu: int | None = Field(None, ge=0, le=255)
    num_thread: int | None = Field(None, ge=0, le=4096)
    use_mmap: bool | None = None
    use_mlock: bool | None = None

    num_predict: int | None = Field(None, ge=-2, le=INT32_MAX)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_k: Count | None = None
    top_p: Probability | None = None
    min_p: Probability | None = None
    typical_p: Probability | None = None
    repeat_last_n: Count | None = None
    repeat_penalty: float | None = Field(None, gt=0, le=100)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    mirostat: int | None = Field(None, ge=0, le=2)
    mirostat_tau: float | None = Field(None, ge=0, le=100)
    mirostat_eta: Probability | None = None
    stop: str | list[str] | None = None


class ModelBody(Body):
    """What every request on a model has. Older clients call the model ``name``."""

    model: str = Field(min_length=1, max_length=MAX_NAME)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, dict) and "name" in value and not value.get("model"):
            return {"model" if key == "name" else key: item for key, item in value.items() if key != "model"}
        return value


class RunBody(ModelBody):
    """What every request that runs a model has."""

    options: OptionsBody | None = None
    keep_alive: str | float | None = None


class GenerationBody(RunBody):
    """What a completion and a chat have in common."""

    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    think: Think | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)


class GenerateBody(GenerationBody):
    """POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[TokenId] | None = Field(None, max_length=MAX_CONTEXT_TOKENS)
    raw: bool | None = None
    images: Images | None = None


class CalledFunction(Body):
    """A function's name and its arguments, as an object."""

    name: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Any] | None = None
    index: int | None = None


class ToolCallBody(Body):
    """A call the model made earlier."""

    id: str | None = Field(None, max_length=256)
    type: str | None = Field(None, max_length=64)
    function: CalledFunction


class MessageBody(Body):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: list[ToolCallBody] | None = Field(None, max_length=MAX_TOOLS)
    tool_name: str | None = Field(None, max_length=256)
    tool_call_id: str | None = Field(None, max_length=256)


class FunctionBody(Body):
    """A function the model may call; ``parameters`` is a JSON schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolBody(Body):
    """A tool."""

    type: str | None = Field(None, max_length=64)
    function: FunctionBody


class ChatBody(GenerationBody):
    """POST /api/chat."""

    messages: list[MessageBody] | None = None
    tools: list[ToolBody] | None = Field(None, max_length=MAX_TOOLS)


class EmbedBody(RunBody):
    """POST /api/embed."""

    input: str | list[str]
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=1, le=INT32_MAX)


class EmbeddingsBody(RunBody):
    """POST /api/embeddings, which embed took the place of."""

    prompt: str | None = None


class ShowBody(ModelBody):
    """POST /api/show."""

    verbose: bool | None = None


class TransferBody(ModelBody):
    """POST /api/pull and /api/push. ``username`` and ``password`` are old fields of no use."""

    insecure: bool | None = None
    stream: bool | None = None


class CopyBody(Body):
    """POST /api/copy."""

    source: str = Field(min_length=1, max_length=MAX_NAME)
    destination: str = Field(min_length=1, max_length=MAX_NAME)


class ExampleBody(Body):
    """A message that a created model begins every conversation with."""

    role: Literal["system", "user", "assistant"]
    content: str


class CreateBody(ModelBody):
    """POST /api/create. Either ``modelfile``, as older clients send it, or its parts."""

    modelfile: str | None = Field(None, max_length=1_048_576)
    path: Any = None
    from_: str | None = Field(None, alias="from", max_length=MAX_NAME)
    files: dict[str, str] | None = Field(None, max_length=1024)
    adapters: dict[str, str] | None = Field(None, max_length=64)
    template: str | None = Field(None, max_length=1_048_576)
    system: str | None = Field(None, max_length=1_048_576)
    license: str | list[str] | None = None
    parameters: dict[str, Any] | None = Field(None, max_length=256)
    messages: list[ExampleBody] | None = Field(None, max_length=1024)
    quantize: str | None = None
    quantization: str | None = None
    stream: bool | None = None
