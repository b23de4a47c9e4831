"""OpenAI's requests to ours. Pure: a checked body in, values of ``zhibei.chat`` out; BadRequest where they make no sense."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from zhibei.chat import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ImagePart,
    Message,
    Part,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from zhibei.errors import BadRequest, Unsupported
from zhibei.options import Limits, Sampling
from zhibei.server.body import MAX_SHOWN_NAMES, ignored_fields
from zhibei.server.loading import INT32_MAX, keep_alive, load_options
from zhibei.server.openai import schema
from zhibei.service import RunOptions
from zhibei.text.json_schema import check_schema, unenforced

IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp")
MAX_STOP_CHARS = 1024
MAX_TEMPERATURE = 2
# llama.cpp takes 32 bits and reserves the highest value for "any".
_NUM_SEEDS = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What every request on a model comes to. ``ignored`` are the fields that nobody here knows."""

    model: str
    options: RunOptions
    ignored: tuple[str, ...]


def asked(body: schema.ModelBody) -> Asked:
    """The model, how it is to be loaded, and what is left over."""
    return Asked(body.model, RunOptions(load_options(body.load), keep_alive(body.keep_alive)), _ignored(body))


def chat_request(body: schema.ChatBody, *, own: bool = False) -> ChatRequest:
    """The conversation and how it is to be continued. ``own``: Zhibei itself asks, which knows more than OpenAI's ranges.

    Raises:
        BadRequest: a value makes no sense.
        Unsupported: it does, but cannot be done here.
    """
    _refuse_impossible(body, own=own)
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ()))
    max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return ChatRequest(
        messages=tuple(_message(message, f"messages[{index}]") for index, message in enumerate(body.messages)),
        sampling=_sampling(body),
        limits=Limits(max_tokens, _stop(body.stop), body.ignore_eos or False),
        tools=tools,
        tool_choice=_tool_choice(body.tool_choice, tools),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_response_format(body, "chat"),
        num_choices=body.n or 1,
        top_logprobs=_chat_logprobs(body),
        reasoning_effort=_reasoning_effort(body),
    )


def completion_requests(body: schema.CompletionBody, *, own: bool = False) -> tuple[CompletionRequest, ...]:
    """One request per prompt. ``own``: as for a chat.

    Raises:
        BadRequest: a value makes no sense.
        Unsupported: it does, but cannot be done here.
    """
    _refuse_common(body, own=own)
    _refuse(body.suffix, "suffix", "Text cannot be inserted before a suffix here.")
    if body.best_of is not None and body.best_of not in (1, body.n or 1):
        raise Unsupported("best_of other than n is not supported.", hint="Ask for n answers and choose.", param="best_of")
    if body.echo and body.logprobs is not None:
        raise Unsupported("Log-probabilities of the prompt are not available.", hint="Leave out echo or logprobs.", param="echo")
    return tuple(
        CompletionRequest(
            prompt=prompt,
            sampling=_sampling(body),
            limits=Limits(body.max_tokens, _stop(body.stop), body.ignore_eos or False),
            num_choices=body.n or 1,
            top_logprobs=body.logprobs,
            response_format=_response_format(body, "completion"),
        )
        for prompt in _texts(body.prompt, "prompt")
    )


def embedding_request(body: schema.EmbeddingBody) -> EmbeddingRequest:
    """The texts to turn into vectors.

    Raises:
        BadRequest: there are none, or one is empty.
    """
    texts = _texts(body.input, "input")
    if any(not text for text in texts):
        raise BadRequest("The input cannot be empty.", param="input")
    return EmbeddingRequest(texts)


def _texts(value: str | list[str] | list[int] | list[list[int]], param: str) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(value, str):
        return (value,)
    if not value or (len(value) > schema.MAX_INPUTS and not isinstance(value[0], int)):
        raise BadRequest("{param} must have 1 to {most} entries.", param=param, most=schema.MAX_INPUTS)
    found: list[str | tuple[int, ...]] = []
    token_ids: list[int] = []
    for item in value:
        if isinstance(item, int):
            token_ids.append(item)
        else:
            found.append(item if isinstance(item, str) else tuple(item))
    return tuple(found) or (tuple(token_ids),)


def _ignored(body: schema.ModelBody) -> tuple[str, ...]:
    names = list(ignored_fields(body))
    if isinstance(body, schema.ChatBody):
        found = {name for message in body.messages for name in ignored_fields(message)}
        names += [f"messages.{name}" for name in sorted(found)]
    return tuple(names)[:MAX_SHOWN_NAMES]


def _refuse(value: object, param: str, message: str, *, hint: str | None = None) -> None:
    if value is not None:
        raise Unsupported(message, hint=hint, param=param)


def _refuse_common(body: schema.SamplingBody, *, own: bool) -> None:
    if body.temperature is not None and body.temperature > MAX_TEMPERATURE and not own:
        raise BadRequest("temperature: should be less than or equal to 2.", param="temperature")
    if body.store:
        raise Unsupported("Nothing is stored here.", hint="Leave out store, or set it to false.", param="store")
    if body.service_tier not in (None, "auto", "default"):
        raise Unsupported("There is only one service tier here.", hint="Leave out service_tier.", param="service_tier")
    _refuse(body.chat_template, "chat_template", "A request cannot bring its own chat template.", hint=_TEMPLATE_HINT)
    _refuse(body.grammar, "grammar", "Grammars are not taken here.", hint="Use response_format with a JSON schema.")
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options can only be given with stream.", param="stream_options")


def _refuse_impossible(body: schema.ChatBody, *, own: bool) -> None:
    _refuse_common(body, own=own)
    _refuse(body.audio, "audio", "There is no audio output here.")
    _refuse(body.prediction, "prediction", "Predicted outputs are not supported.")
    _refuse(body.web_search_options, "web_search_options", "There is no web search here.")
    _refuse(body.functions, "functions", "functions was replaced by tools.", hint="Use tools.")
    _refuse(body.function_call, "function_call", "function_call was replaced by tool_choice.", hint="Use tool_choice.")
    if body.modalities is not None and body.modalities != ["text"]:
        raise Unsupported("Answers are text only.", hint='Leave out modalities, or set it to ["text"].', param="modalities")


_TEMPLATE_HINT = "Set it on the server, with --chat-template."


def _sampling(body: schema.SamplingBody) -> Sampling:
    repeat_penalty = body.repeat_penalty if body.repeat_penalty is not None else body.repetition_penalty
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        typical_p=body.typical_p,
        repeat_penalty=repeat_penalty,
        repeat_last_n=body.repeat_last_n,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        seed=None if body.seed in (None, -1) else body.seed % _NUM_SEEDS,
        mirostat=body.mirostat,
        mirostat_tau=body.mirostat_tau,
        mirostat_eta=body.mirostat_eta,
        dry_multiplier=body.dry_multiplier,
        dry_base=body.dry_base,
        dry_allowed_length=body.dry_allowed_length,
        xtc_probability=body.xtc_probability,
        xtc_threshold=body.xtc_threshold,
        logit_bias=_logit_bias(body.logit_bias),
    )


def _logit_bias(biases: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    found: list[tuple[int, float]] = []
    for token, bias in (biases or {}).items():
        if not (token.isascii() and token.isdigit() and int(token) <= INT32_MAX):
            raise BadRequest("logit_bias maps token ids to numbers; {token!r} is not one.", param="logit_bias", token=token[:50])
        found.append((int(token), bias))
    return tuple(found)


def _stop(value: schema.Stop | None) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else tuple(value or ())
    if len(stops) > schema.MAX_STOPS or any(not stop or len(stop) > MAX_STOP_CHARS for stop in stops):
        raise BadRequest(
            "stop takes up to {most} strings of 1 to {chars} characters.",
            param="stop",
            most=schema.MAX_STOPS,
            chars=MAX_STOP_CHARS,
        )
    return stops


def unenforced_conditions(wanted: ResponseFormat) -> tuple[str, ...]:
    """Paths of what a schema says and an answer may break all the same, for the client to know."""
    if wanted.schema is None:
        return ()
    return tuple(quote(path, safe="/.[]#$") for path in unenforced(wanted.schema)[:MAX_SHOWN_NAMES])


def _response_format(body: schema.SamplingBody, use: Literal["chat", "completion"]) -> ResponseFormat:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return ResponseFormat() if body.json_schema is None else _schema_format(body.json_schema, "json_schema", use)
    if wanted.type == "json_schema":
        param = "response_format.json_schema.schema"
        if wanted.json_schema is None or wanted.json_schema.schema_ is None:
            raise BadRequest("A response_format of json_schema needs a schema.", param=param)
        return _schema_format(wanted.json_schema.schema_, param, use)
    if wanted.schema_ is not None:
        return _schema_format(wanted.schema_, "response_format.schema", use)
    return ResponseFormat("json_object")


def _schema_format(wanted: dict[str, Any], param: str, use: Literal["chat", "completion"]) -> ResponseFormat:
    check_schema(wanted, param=param, use=use)
    return ResponseFormat("json_schema", wanted)


def _chat_logprobs(body: schema.ChatBody) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _reasoning_effort(body: schema.ChatBody) -> str | None:
    wishes = body.chat_template_kwargs or {}
    for name, value in wishes.items():
        if name != "enable_thinking" or not isinstance(value, bool):
            raise BadRequest(
                "chat_template_kwargs takes enable_thinking (true or false) and nothing else.",
                hint="Use reasoning_effort.",
                param="chat_template_kwargs",
            )
    if body.reasoning_effort is None and wishes.get("enable_thinking") is False:
        return "none"
    return body.reasoning_effort


def _tool(body: schema.ToolBody, param: str) -> Tool:
    if body.type != "function":
        raise Unsupported("Only tools of the type function are known here.", param=f"{param}.type")
    if body.function is None:
        raise BadRequest("The parameter {param} is missing.", param=f"{param}.function")
    if body.function.parameters is not None:
        check_schema(body.function.parameters, param=f"{param}.function.parameters", use="tool")
    return Tool(body.function.name, body.function.description, body.function.parameters)


def _tool_choice(body: str | schema.NamedTool | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if body in (None, "auto"):
        return ToolChoice()
    if body == "none":
        return ToolChoice("none")
    if body == "required":
        if not tools:
            raise BadRequest("tool_choice required needs tools.", param="tool_choice")
        return ToolChoice("required")
    if not isinstance(body, schema.NamedTool) or body.type != "function" or body.function is None:
        raise Unsupported("tool_choice takes auto, none, required or a function.", param="tool_choice")
    if body.function.name not in {tool.name for tool in tools}:
        raise BadRequest("tool_choice names a function that is not among the tools.", param="tool_choice")
    return ToolChoice("required", body.function.name)


def _message(body: schema.MessageBody, param: str) -> Message:
    _refuse(body.audio, f"{param}.audio", "There is no audio here.")
    _refuse(body.function_call, f"{param}.function_call", "function_call was replaced by tool_calls.", hint="Use tool_calls.")
    if body.role == "tool" and body.tool_call_id is None:
        raise BadRequest("A tool's message needs the tool_call_id it answers.", param=f"{param}.tool_call_id")
    if body.content is None and not (body.role == "assistant" and (body.tool_calls or body.refusal or body.reasoning_content)):
        raise BadRequest("{param} needs content.", param=f"{param}.content")
    if body.tool_calls and body.role != "assistant":
        raise BadRequest("Only the assistant makes tool calls.", param=f"{param}.tool_calls")
    parts = _parts(body.content, f"{param}.content")
    if body.refusal is not None:
        parts = (*parts, TextPart(body.refusal))
    if body.role != "user" and any(isinstance(part, ImagePart) for part in parts):
        raise BadRequest("Images can only be in messages of the user.", param=f"{param}.content")
    return Message(
        role="system" if body.role == "developer" else body.role,
        parts=parts,
        name=body.name,
        reasoning=body.reasoning_content,
        tool_calls=tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in body.tool_calls or ()),
        tool_call_id=body.tool_call_id,
    )


def _parts(content: str | list[schema.ContentPart] | None, param: str) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(_part(part, f"{param}[{index}]") for index, part in enumerate(content))


def _part(body: schema.ContentPart, param: str) -> Part:
    if body.type == "text" and body.text is not None:
        return TextPart(body.text)
    if body.type == "refusal" and body.refusal is not None:
        return TextPart(body.refusal)
    if body.type == "image_url" and body.image_url is not None:
        return _image(body.image_url.url, f"{param}.image_url.url")
    if body.type in ("text", "refusal", "image_url"):
        raise BadRequest("The parameter {param} is missing.", param=f"{param}.{body.type}")
    raise Unsupported("Content of the type {type!r} is not supported.", param=f"{param}.type", type=body.type)


def _image(url: str, param: str) -> ImagePart:
    head, comma, data = url.partition(",")
    if not comma or head[:5].lower() != "data:":
        raise Unsupported(
            "Images must be sent in the request; they are not fetched from elsewhere.",
            hint="Send a data URL: data:image/png;base64,…",
            param=param,
        )
    media_type, _, encoding = head[5:].lower().partition(";")
    if media_type not in IMAGE_TYPES or encoding != "base64":
        raise BadRequest("An image must be one of {types}, in base64.", param=param, types=", ".join(IMAGE_TYPES))
    try:
        decoded = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        raise BadRequest("The image is not valid base64.", param=param)
    return ImagePart(decoded, media_type)


def wrong_dimensions(wanted: int | None, length: int) -> Unsupported:
    """The refusal of a length that the model's vectors do not have."""
    return Unsupported(
        "This model's vectors have {length} dimensions, not {wanted}.",
        hint="Leave out dimensions.",
        param="dimensions",
        length=length,
        wanted=wanted,
    )
