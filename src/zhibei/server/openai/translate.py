"""OpenAI's requests to ours. Pure: a checked body in, values of ``zhibei.chat`` out; BadRequest where they make no sense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from zhibei.chat import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ImagePart,
    Message,
    Part,
    RerankRequest,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from zhibei.errors import BadRequest, Unsupported
from zhibei.options import Limits, Sampling
from zhibei.server.body import MAX_SHOWN_NAMES, ignored_fields
from zhibei.server.images import MAX_IMAGES, find_image, is_remote
from zhibei.server.loading import INT32_MAX, keep_alive, load_options
from zhibei.server.openai import schema
from zhibei.service import RunOptions
from zhibei.text.json_schema import check_schema

NO_IMAGES: Mapping[str, ImagePart] = {}
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
    load, num_ctx = load_options(body.load), body.num_ctx
    if num_ctx is None and body.options is not None:
        num_ctx = body.options.num_ctx
    if num_ctx is not None and load.ctx_size is None:
        load = replace(load, ctx_size=num_ctx)
    return Asked(body.model, RunOptions(load, keep_alive(body.keep_alive)), _ignored(body))


def image_urls(body: schema.ChatBody) -> Iterator[str]:
    """Addresses of the images that are not in the request itself."""
    for message in body.messages:
        for part in message.content if isinstance(message.content, list) else ():
            if part.image_url is not None and is_remote(part.image_url.url):
                yield part.image_url.url


def chat_request(body: schema.ChatBody, *, own: bool = False, images: Mapping[str, ImagePart] = NO_IMAGES) -> ChatRequest:
    """The conversation and how it is to be continued.

    Args:
        own: Zhibei itself asks, which knows more than OpenAI's ranges.
        images: what is at the addresses of ``image_urls``.

    Raises:
        BadRequest: a value makes no sense.
        Unsupported: it does, but cannot be done here.
    """
    _refuse_impossible(body, own=own)
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ()))
    max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return ChatRequest(
        # Neighbours of one role stay apart, as OpenAI keeps them: templates that take them would read joined ones as
        # something else. A strict one refuses in words.
        messages=tuple(_message(message, f"messages[{index}]", images) for index, message in enumerate(body.messages)),
        sampling=sampling(body),
        limits=Limits(max_tokens, _stop(body.stop), body.ignore_eos or False),
        tools=tools,
        tool_choice=tool_choice(body.tool_choice, tools),
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
    refuse_common(body, own=own)
    if body.best_of is not None and body.best_of not in (1, body.n or 1):
        raise Unsupported("best_of other than n is not supported.", hint="Ask for n answers and choose.", param="best_of")
    if body.echo and body.logprobs is not None:
        raise Unsupported("Log-probabilities of the prompt are not available.", hint="Leave out echo or logprobs.", param="echo")
    return tuple(
        CompletionRequest(
            prompt=prompt,
            sampling=sampling(body),
            limits=Limits(body.max_tokens, _stop(body.stop), body.ignore_eos or False),
            num_choices=body.n or 1,
            top_logprobs=body.logprobs,
            response_format=_response_format(body, "completion"),
            suffix=body.suffix or None,
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


def rerank_request(body: schema.RerankBody) -> RerankRequest:
    """The documents to be scored."""
    return RerankRequest(body.query, tuple(item if isinstance(item, str) else item.text for item in body.documents))


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
    if body.options is not None:
        names += [f"options.{name}" for name in ignored_fields(body.options)]
    if isinstance(body, schema.ChatBody):
        names += ["verbosity"] if body.verbosity is not None else []
        found = {name for message in body.messages for name in ignored_fields(message)}
        names += [f"messages.{name}" for name in sorted(found)]
    return tuple(names)[:MAX_SHOWN_NAMES]


def refuse(value: object, param: str, message: str, *, hint: str | None = None) -> None:
    """Refuse a field that has a value."""
    if value is not None:
        raise Unsupported(message, hint=hint, param=param)


def refuse_common(body: schema.DrawingBody, *, own: bool, keeps: bool = False) -> None:
    """Refuse what cannot be done for any request. ``keeps``: answers can be stored."""
    if body.temperature is not None and body.temperature > MAX_TEMPERATURE and not own:
        raise BadRequest("temperature: should be less than or equal to 2.", param="temperature")
    if body.store and not keeps:
        raise Unsupported("Nothing is stored here.", hint="Leave out store, or set it to false.", param="store")
    if body.service_tier not in (None, "auto", "default"):
        raise Unsupported("There is only one service tier here.", hint="Leave out service_tier.", param="service_tier")
    refuse(body.chat_template, "chat_template", "A request cannot bring its own chat template.", hint=_TEMPLATE_HINT)
    refuse(body.grammar, "grammar", "Grammars are not taken here.", hint="Use response_format with a JSON schema.")
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options can only be given with stream.", param="stream_options")


def _refuse_impossible(body: schema.ChatBody, *, own: bool) -> None:
    refuse_common(body, own=own)
    refuse(body.audio, "audio", "There is no audio output here.")
    refuse(body.prediction, "prediction", "Predicted outputs are not supported.")
    refuse(body.moderation, "moderation", "Nothing is moderated here.")
    refuse(body.web_search_options, "web_search_options", "There is no web search here.")
    refuse(body.functions, "functions", "functions was replaced by tools.", hint="Use tools.")
    refuse(body.function_call, "function_call", "function_call was replaced by tool_choice.", hint="Use tool_choice.")
    if body.modalities is not None and body.modalities != ["text"]:
        raise Unsupported("Answers are text only.", hint='Leave out modalities, or set it to ["text"].', param="modalities")


_TEMPLATE_HINT = "Set it on the server, with --chat-template."


def sampling(body: schema.DrawingBody) -> Sampling:
    """How tokens are drawn."""
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


def _response_format(body: schema.SamplingBody, use: Literal["chat", "completion"]) -> ResponseFormat:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return ResponseFormat() if body.json_schema is None else schema_format(body.json_schema, "json_schema", use)
    if wanted.type == "json_schema":
        param = "response_format.json_schema.schema"
        if wanted.json_schema is None or wanted.json_schema.schema_ is None:
            raise BadRequest("A response_format of json_schema needs a schema.", param=param)
        return schema_format(wanted.json_schema.schema_, param, use)
    if wanted.schema_ is not None:
        return schema_format(wanted.schema_, "response_format.schema", use)
    return ResponseFormat("json_object")


def schema_format(wanted: dict[str, Any], param: str, use: Literal["chat", "completion"]) -> ResponseFormat:
    """An answer in a schema."""
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


def tool_choice(body: str | schema.NamedTool | None, tools: tuple[Tool, ...]) -> ToolChoice:
    """Whether a tool is to be called, and which."""
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


def _message(body: schema.MessageBody, param: str, images: Mapping[str, ImagePart]) -> Message:
    refuse(body.audio, f"{param}.audio", "There is no audio here.")
    refuse(body.function_call, f"{param}.function_call", "function_call was replaced by tool_calls.", hint="Use tool_calls.")
    if body.role == "tool" and body.tool_call_id is None:
        raise BadRequest("A tool's message needs the tool_call_id it answers.", param=f"{param}.tool_call_id")
    if body.content is None and not (body.role == "assistant" and (body.tool_calls or body.refusal or body.reasoning_content)):
        raise BadRequest("{param} needs content.", param=f"{param}.content")
    if body.tool_calls and body.role != "assistant":
        raise BadRequest("Only the assistant makes tool calls.", param=f"{param}.tool_calls")
    parts = _parts(body.content, f"{param}.content", images)
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


def _parts(content: str | list[schema.ContentPart] | None, param: str, images: Mapping[str, ImagePart]) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(content),)
    if sum(part.type == "image_url" for part in content) > MAX_IMAGES:
        raise BadRequest("A message can have at most {limit} images.", param=param, limit=MAX_IMAGES)
    return tuple(_part(part, f"{param}[{index}]", images) for index, part in enumerate(content))


def _part(body: schema.ContentPart, param: str, images: Mapping[str, ImagePart]) -> Part:
    if body.type == "text" and body.text is not None:
        return TextPart(body.text)
    if body.type == "refusal" and body.refusal is not None:
        return TextPart(body.refusal)
    if body.type == "image_url" and body.image_url is not None:
        return find_image(body.image_url.url, images, param=f"{param}.image_url.url")
    if body.type in ("text", "refusal", "image_url"):
        raise BadRequest("The parameter {param} is missing.", param=f"{param}.{body.type}")
    raise Unsupported("Content of the type {type!r} is not supported.", param=f"{param}.type", type=body.type)


def wrong_dimensions(wanted: int | None, length: int) -> Unsupported:
    """The refusal of a length that the model's vectors do not have."""
    return Unsupported(
        "This model's vectors have {length} dimensions, not {wanted}.",
        hint="Leave out dimensions.",
        param="dimensions",
        length=length,
        wanted=wanted,
    )
