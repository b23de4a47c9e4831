"""What llama-server's requests may hold, and the token routes of other servers. Meaning is given to them in ``translate``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from zhibei.server.body import Body
from zhibei.server.loading import INT32_MAX
from zhibei.server.unnamed import MAX_TEXT_CHARS

MAX_STOPS = 256
MAX_STOP_CHARS = 1024
MAX_BIASES = 1024
MAX_PROMPTS = 128
MAX_IDS = 1_000_000
MAX_INPUTS = 2048
MAX_MESSAGES = 10_000
MAX_TOOLS = 512

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
Mixed = Annotated[list[TokenId | Text], Field(max_length=MAX_IDS)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-10, le=10)]
StopText = Annotated[str, Field(max_length=MAX_STOP_CHARS)]


class ModelBody(Body):
    """What every request has: which model is meant; without a name that of ``unnamed``."""

    model: str | None = Field(None, max_length=2048)


class SamplingBody(ModelBody):
    """What ``/completion`` and ``/infill`` have in common."""

    stream: bool | None = None
    n_predict: int | None = Field(None, ge=-1, le=INT32_MAX)
    max_tokens: int | None = Field(None, ge=-1, le=INT32_MAX)
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_k: int | None = Field(None, ge=-1, le=INT32_MAX)
    top_p: Probability | None = None
    min_p: Probability | None = None
    typical_p: Probability | None = None
    repeat_penalty: float | None = Field(None, gt=0, le=10)
    repeat_last_n: int | None = Field(None, ge=-1, le=INT32_MAX)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    dry_multiplier: float | None = Field(None, ge=0, le=100)
    dry_base: float | None = Field(None, ge=0, le=100)
    dry_allowed_length: int | None = Field(None, ge=0, le=INT32_MAX)
    xtc_probability: Probability | None = None
    xtc_threshold: Probability | None = None
    mirostat: int | None = Field(None, ge=0, le=2)
    mirostat_tau: float | None = Field(None, ge=0, le=100)
    mirostat_eta: Probability | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    ignore_eos: bool | None = None
    n_probs: int | None = Field(None, ge=0, le=100)
    logit_bias: dict[str, Any] | Annotated[list[Any], Field(max_length=MAX_BIASES)] | None = None
    json_schema: dict[str, Any] | None = None
    return_tokens: bool | None = None
    response_fields: list[Annotated[str, Field(max_length=256)]] | None = Field(None, max_length=128)

    # Known, so that they can be refused in words where they say something.
    grammar: Any = None
    lora: Any = None
    n_cmpl: Any = None
    post_sampling_probs: bool | None = None
    # Known, so that values that change nothing are not reported as ignored.
    cache_prompt: Any = None
    id_slot: Any = None
    n_keep: Any = None
    min_keep: Any = None
    dynatemp_range: Any = None
    dynatemp_exponent: Any = None
    top_n_sigma: Any = None
    t_max_predict_ms: Any = None
    n_indent: Any = None
    n_cache_reuse: Any = None
    timings_per_token: Any = None
    return_progress: Any = None


class CompletionBody(SamplingBody):
    """``POST /completion``."""

    prompt: Text | Annotated[list[TokenId | Text | Mixed | dict[str, Any]], Field(max_length=MAX_IDS)] | dict[str, Any]


class InfillBody(SamplingBody):
    """``POST /infill``: the gap between ``input_prefix`` with ``prompt`` after it, and ``input_suffix``."""

    input_prefix: Text
    input_suffix: Text
    prompt: Text | None = None
    input_extra: list[dict[str, Any]] | None = Field(None, max_length=MAX_INPUTS)


class MessageBody(Body):
    """One turn of a chat. A list holds parts of text."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[dict[str, Any]] | None = None
    name: str | None = Field(None, max_length=256)
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = Field(None, max_length=MAX_TOOLS)
    tool_call_id: str | None = Field(None, max_length=256)


class TemplateBody(ModelBody):
    """``POST /apply-template``."""

    messages: list[MessageBody] = Field(min_length=1, max_length=MAX_MESSAGES)
    tools: list[dict[str, Any]] | None = Field(None, max_length=MAX_TOOLS)
    add_generation_prompt: bool | None = None


class TokenizeBody(ModelBody):
    """A text by whichever name the front end has for it: llama-server's, vLLM's, or those of tabbyAPI and oobabooga's."""

    content: Text | Mixed | None = None
    prompt: Text | None = None
    text: Text | None = None
    messages: list[MessageBody] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    add_bos_token: bool | None = None
    parse_special: bool | None = None
    encode_special_tokens: bool | None = None
    with_pieces: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(ModelBody):
    """Tokens to be turned into text."""

    tokens: list[TokenId] = Field(max_length=MAX_IDS)


class EmbeddingBody(ModelBody):
    """``POST /embedding``; ``input`` is another name of ``content``."""

    content: Text | Annotated[list[Text], Field(max_length=MAX_INPUTS)] | None = None
    input: Text | Annotated[list[Text], Field(max_length=MAX_INPUTS)] | None = None


class LoadModelBody(Body):
    """``POST /models/load`` and ``/models/unload``."""

    model: str = Field(min_length=1, max_length=2048)
