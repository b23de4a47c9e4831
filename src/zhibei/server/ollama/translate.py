"""Ollama's requests to ours. Pure: a checked body in, values of ``zhibei.chat`` out; BadRequest where they make no sense."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from zhibei.chat import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Message,
    Part,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
)
from zhibei.errors import BadRequest, Unsupported
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.server.body import MAX_SHOWN_NAMES, ignored_fields
from zhibei.server.images import MAX_IMAGES, load_image
from zhibei.server.loading import keep_alive
from zhibei.server.ollama import schema
from zhibei.service import RunOptions
from zhibei.text.json_schema import check_schema

MAX_STOP_CHARS = 1024
# llama.cpp takes 32 bits and reserves the highest value for "any".
_NUM_SEEDS = 2**32 - 1
_DURATION = re.compile(r"([+-]?)((?:\d{1,12}(?:\.\d{0,12})?(?:ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
_PIECE = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_EFFORTS: Mapping[bool | str, str] = {True: "medium", False: "none", "max": "high"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What every request that runs a model comes to. ``ignored`` are the fields that have no meaning here.

    ``thinks``: the model is asked to think.
    """

    model: str
    options: RunOptions
    ignored: tuple[str, ...] = ()
    may_cut: bool = False
    thinks: bool = False

    @property
    def unloads(self) -> bool:
        """Whether the model is to go as soon as it is done."""
        return self.options.keep_alive is not None and float_or_none(self.options.keep_alive) == 0


def float_or_none(text: str) -> float | None:
    """A number, if the text is one."""
    try:
        return float(text)
    except ValueError:
        return None


def asked(body: schema.RunBody) -> Asked:
    """The model, how it is to be loaded, and what is left over.

    Raises:
        BadRequest: keep_alive is no duration.
    """
    options = _options(body)
    may_cut = isinstance(body, schema.GenerationBody) and bool(body.truncate or body.shift)
    thinks = isinstance(body, schema.GenerationBody) and bool(body.think)
    return Asked(body.model, RunOptions(_load(options), _keep_alive(body.keep_alive)), _ignored(body), may_cut, thinks)


def chat_request(body: schema.ChatBody) -> ChatRequest:
    """The conversation and how it is to be continued.

    Raises:
        BadRequest: a value makes no sense.
        Unsupported: it does, but cannot be done here.
    """
    options = _options(body)
    return ChatRequest(
        messages=_messages(body.messages or []),
        sampling=_sampling(options),
        limits=_limits(options),
        tools=tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ())),
        response_format=_response_format(body.format, "chat"),
        top_logprobs=_top_logprobs(body),
        reasoning_effort=_effort(body.think),
    )


def generate_request(body: schema.GenerateBody) -> ChatRequest:
    """A prompt as the one turn of a chat.

    Raises:
        As ``chat_request``.
    """
    refuse_template(body)
    options = _options(body)
    parts = (*_images(body.images, "images"), TextPart(body.prompt or ""))
    system = (Message.of("system", body.system),) if body.system else ()
    return ChatRequest(
        messages=(*system, Message("user", parts)),
        sampling=_sampling(options),
        limits=_limits(options),
        response_format=_response_format(body.format, "chat"),
        top_logprobs=_top_logprobs(body),
        reasoning_effort=_effort(body.think),
    )


def completion_request(body: schema.GenerateBody, prompt: str | tuple[int, ...] | None = None) -> CompletionRequest:
    """The prompt as it stands, without a template: ``raw``, with a ``suffix``, or where the model has no template.

    Raises:
        As ``chat_request``.
    """
    refuse_template(body)
    if body.images:
        raise Unsupported("Images cannot be given with raw, suffix or context.", hint="Use /api/chat.", param="images")
    options = _options(body)
    text = body.prompt or ""
    if prompt is None and body.system and not body.raw and not body.suffix:
        text = f"{body.system}\n\n{text}"
    return CompletionRequest(
        prompt=text if prompt is None else prompt,
        sampling=_sampling(options),
        limits=_limits(options),
        top_logprobs=_top_logprobs(body),
        response_format=_response_format(body.format, "completion"),
        suffix=body.suffix or None,
    )


def embedding_request(body: schema.EmbedBody) -> EmbeddingRequest:
    """The texts to turn into vectors; there may be none.

    Raises:
        BadRequest: there are too many.
    """
    texts = (body.input,) if isinstance(body.input, str) else tuple(body.input)
    if len(texts) > schema.MAX_INPUTS:
        raise BadRequest("{param} must have 1 to {most} entries.", param="input", most=schema.MAX_INPUTS)
    return EmbeddingRequest(texts)


def refuse_template(body: schema.GenerateBody) -> None:
    """Raise Unsupported if a request brings a chat template of its own."""
    if body.template:
        raise Unsupported(
            "A request cannot bring its own chat template.",
            hint="Give it to a model of its own with /api/create, or use raw.",
            param="template",
        )


def _options(body: schema.RunBody) -> schema.OptionsBody:
    return body.options or schema.OptionsBody.model_validate({})


def _ignored(body: schema.RunBody) -> tuple[str, ...]:
    names = list(ignored_fields(body))
    if body.options is not None:
        names += [f"options.{name}" for name in ignored_fields(body.options)]
    if isinstance(body, schema.ChatBody):
        found = {name for message in body.messages or () for name in ignored_fields(message)}
        names += [f"messages.{name}" for name in sorted(found)]
    return tuple(names)[:MAX_SHOWN_NAMES]


def _keep_alive(value: str | float | None) -> str | None:
    """A number of seconds, or a duration as Go writes it: ``5m``, ``1h30m``, ``-1``; an empty one is none."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        match = _DURATION.fullmatch(text)
        if match is not None:
            seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PIECE.findall(match[2]))
            return keep_alive(-max(seconds, 1.0) if match[1] == "-" else seconds)
    return keep_alive(value)


def _load(options: schema.OptionsBody) -> LoadOptions:
    """How the model is loaded; zero, and minus one, leave it to the plan. No layer on the graphics processor is a wish."""
    return LoadOptions(
        ctx_size=options.num_ctx or None,
        batch_size=options.num_batch or None,
        gpu_layers=options.num_gpu if options.num_gpu is not None and options.num_gpu >= 0 else None,
        main_gpu=options.main_gpu,
        threads=options.num_thread or None,
        mmap=options.use_mmap,
        mlock=options.use_mlock,
    )


def _sampling(options: schema.OptionsBody) -> Sampling:
    return Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=None if options.top_k is None else max(0, options.top_k),
        min_p=options.min_p,
        typical_p=options.typical_p,
        repeat_penalty=options.repeat_penalty,
        repeat_last_n=options.repeat_last_n,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        seed=None if options.seed in (None, -1) else options.seed % _NUM_SEEDS,
        mirostat=options.mirostat,
        mirostat_tau=options.mirostat_tau,
        mirostat_eta=options.mirostat_eta,
    )


def _limits(options: schema.OptionsBody) -> Limits:
    """Zero and below mean: until the model stops or the context is full."""
    wanted = options.num_predict
    return Limits(wanted if wanted is not None and wanted > 0 else None, _stop(options.stop))


def _stop(value: str | list[str] | None) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else tuple(value or ())
    stops = tuple(stop for stop in stops if stop)
    if len(stops) > schema.MAX_STOPS or any(len(stop) > MAX_STOP_CHARS for stop in stops):
        raise BadRequest(
            "stop takes up to {most} strings of 1 to {chars} characters.",
            param="options.stop",
            most=schema.MAX_STOPS,
            chars=MAX_STOP_CHARS,
        )
    return stops


def _response_format(wanted: str | dict[str, Any] | None, use: Literal["chat", "completion"]) -> ResponseFormat:
    if wanted is None or wanted == "":
        return ResponseFormat()
    if wanted == "json":
        return ResponseFormat("json_object")
    if isinstance(wanted, str):
        raise BadRequest('format takes "json" or a JSON schema.', param="format")
    check_schema(wanted, param="format", use=use)
    return ResponseFormat("json_schema", wanted)


def _top_logprobs(body: schema.GenerationBody) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _effort(think: schema.Think | None) -> str | None:
    if think is None or think == "":
        return None
    return _EFFORTS.get(think) or str(think)


def _tool(body: schema.ToolBody, param: str) -> Tool:
    if body.type not in (None, "", "function"):
        raise Unsupported("Only tools of the type function are known here.", param=f"{param}.type")
    if body.function.parameters is not None:
        check_schema(body.function.parameters, param=f"{param}.function.parameters", use="tool")
    return Tool(body.function.name, body.function.description, body.function.parameters)


def _messages(bodies: list[schema.MessageBody]) -> tuple[Message, ...]:
    """The turns. Ollama's tool calls need no ids: answers without one belong to the open calls, by name or by order."""
    found: list[Message] = []
    open_calls: deque[ToolCall] = deque()
    num_calls = 0
    for index, body in enumerate(bodies):
        param = f"messages[{index}]"
        calls = tuple(_call(call, num_calls + number) for number, call in enumerate(body.tool_calls or ()))
        if calls and body.role != "assistant":
            raise BadRequest("Only the assistant makes tool calls.", param=f"{param}.tool_calls")
        if body.images and body.role != "user":
            raise BadRequest("Images can only be in messages of the user.", param=f"{param}.images")
        num_calls += len(calls)
        open_calls.extend(calls)
        is_tool = body.role == "tool"
        found.append(
            Message(
                role=body.role,
                parts=_parts(body, param),
                name=body.tool_name if is_tool else None,
                reasoning=body.thinking or None,
                tool_calls=calls,
                tool_call_id=(body.tool_call_id or _answered(body.tool_name, open_calls)) if is_tool else None,
            )
        )
    if sum(len(body.images or ()) for body in bodies) > MAX_IMAGES:
        raise BadRequest("A request may have {most} images.", param="messages", most=MAX_IMAGES)
    return tuple(found)


def _parts(body: schema.MessageBody, param: str) -> tuple[Part, ...]:
    needs_text = not body.tool_calls and not body.images
    text = (TextPart(body.content or ""),) if body.content or needs_text else ()
    return (*_images(body.images, f"{param}.images"), *text)


def _call(body: schema.ToolCallBody, number: int) -> ToolCall:
    arguments = orjson.dumps(body.function.arguments or {}).decode()
    return ToolCall(body.id or f"call_{number}", body.function.name, arguments)


def _answered(name: str | None, open_calls: deque[ToolCall]) -> str:
    chosen = next((call for call in open_calls if call.name == name), None) or next(iter(open_calls), None)
    if chosen is None:
        return "call_0"
    open_calls.remove(chosen)
    return chosen.id


def _images(images: list[str] | None, param: str) -> tuple[Part, ...]:
    if len(images or ()) > MAX_IMAGES:
        raise BadRequest("A request may have {most} images.", param=param, most=MAX_IMAGES)
    return tuple(load_image(image, param=f"{param}[{index}]") for index, image in enumerate(images or ()))
