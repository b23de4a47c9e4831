"""Requests as OpenAI JSON, and OpenAI JSON as events. Pure; the names are OpenAI's, with llama.cpp's for what OpenAI lacks."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from zhibei.chat import (
    ChatRequest,
    CompletionRequest,
    ImagePart,
    JsonSchema,
    Message,
    ResponseFormat,
    TextPart,
    TokenLogprob,
    Tool,
    ToolChoice,
)
from zhibei.errors import BadRequest, Busy, ContextTooLong, EngineRefused, NotPermitted, Unsupported, ZhibeiError
from zhibei.events import (
    Finished,
    FinishReason,
    GenerationEvent,
    ReasoningDelta,
    TextDelta,
    Timings,
    ToolCallDelta,
    Usage,
)
from zhibei.options import Limits, Sampling

Json = dict[str, Any]
Generation = TypeVar("Generation", ChatRequest, CompletionRequest)
# More choices or tool calls than any answer has.
MAX_INDEX = 1024
_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


def plainer(request: Generation) -> Generation:
    """The same request without two words of OpenAI's that llama.cpp passes over in silence.

    A tool forced by its name becomes the only tool, and required. No alternatives to a token become one, because none gives
    no log-probabilities at all; an ``EventReader`` that is told of it takes them away again.
    """
    if isinstance(request, ChatRequest) and request.tool_choice.name is not None:
        only = tuple(tool for tool in request.tools if tool.name == request.tool_choice.name)
        request = replace(request, tools=only, tool_choice=ToolChoice("required"))
    return replace(request, top_logprobs=1) if request.top_logprobs == 0 else request


def chat_body(request: ChatRequest, model: str) -> Json:
    """The body of a streamed ``/v1/chat/completions`` request."""
    body = _common(model, request.sampling, request.limits, request.num_choices)
    body["messages"] = [_message(message) for message in request.messages]
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _tool_choice(request.tool_choice)
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.response_format.kind != "text":
        body["response_format"] = _response_format(request.response_format)
    if request.top_logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs
    if request.reasoning_effort is not None:
        body["reasoning_effort"] = request.reasoning_effort
    return body


def completion_body(request: CompletionRequest, model: str) -> Json:
    """The body of a streamed ``/v1/completions`` request."""
    body = _common(model, request.sampling, request.limits, request.num_choices)
    body["prompt"] = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
    if request.suffix is not None:
        body["suffix"] = request.suffix
    if request.top_logprobs is not None:
        body["logprobs"] = request.top_logprobs
    if request.response_format.kind == "json_schema":
        body["json_schema"] = request.response_format.schema
    elif request.response_format.kind == "json_object":
        body["json_schema"] = {"type": "object"}
    return body


def _common(model: str, sampling: Sampling, limits: Limits, num_choices: int) -> Json:
    body: Json = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    for field in fields(Sampling):
        value = getattr(sampling, field.name)
        if field.name != "logit_bias" and value is not None:
            body[field.name] = value
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if limits.max_tokens is not None:
        body["max_tokens"] = limits.max_tokens
    if limits.stop:
        body["stop"] = list(limits.stop)
    if limits.ignore_eos:
        body["ignore_eos"] = True
    if num_choices != 1:
        body["n"] = num_choices
    return body


def _message(message: Message) -> Json:
    out: Json = {"role": message.role, "content": _content(message)}
    if message.name is not None:
        out["name"] = message.name
    if message.reasoning is not None:
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    return out


def _content(message: Message) -> str | list[Json] | None:
    if all(isinstance(part, TextPart) for part in message.parts):
        return message.text if message.parts or not message.tool_calls else None
    return [_part(part) for part in message.parts]


def _part(part: TextPart | ImagePart) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    data = base64.b64encode(part.data).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:{part.media_type};base64,{data}"}}


def _tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.parameters if tool.parameters is not None else {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> str | Json:
    if choice.name is not None:
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _response_format(wanted: ResponseFormat) -> Json:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    schema: JsonSchema = wanted.schema or {}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


class EventReader:
    """Turn the chunks of one streamed answer into events; ``finish`` gives the last.

    ``top_logprobs`` 0 leaves the alternatives out of the log-probabilities. ``stop``: the request's; which of them ended
    a choice is taken from where llama.cpp (``__verbose``) or vLLM (``stop_reason``) say so.
    """

    def __init__(self, num_choices: int, top_logprobs: int | None = None, stop: Sequence[str] | None = None) -> None:
        self._with_alternatives = top_logprobs != 0
        self._reasons: list[FinishReason | None] = [None] * num_choices
        self._stop = frozenset(stop or ())
        self._stop_texts: list[str | None] = [None] * num_choices
        # Without stop texts in the request none can have ended it; with them, it has to be told. None: nobody knows.
        self._told = [stop is not None and not stop] * num_choices
        self._num_prompt_tokens = 0
        self._num_cached_tokens = 0
        self._usages: list[int] = []
        self._timings: Mapping[str, Any] | None = None

    def read(self, chunk: Json) -> list[GenerationEvent]:
        """The deltas in a chunk.

        Raises:
            ZhibeiError: the chunk is an error.
            AttributeError, LookupError, TypeError, ValueError: its shape is not the one that was agreed.
        """
        if chunk.get("error"):
            raise error_of(chunk, 500)
        usage = chunk.get("usage")
        if usage:
            self._absorb_usage(usage)
        timings = chunk.get("timings")
        if timings:
            self._timings = timings
        events: list[GenerationEvent] = []
        for choice in chunk.get("choices") or ():
            index = _index(choice.get("index"))
            delta = choice.get("delta")
            if delta is None:
                self._read_text(choice, choice.get("text"), index, events)
            elif delta:
                self._read_delta(choice, delta, index, events)
            reason = choice.get("finish_reason")
            if reason is not None and index < len(self._reasons):
                self._reasons[index] = _REASONS.get(reason, "stop")
            if "stop_reason" in choice and reason is not None:
                self._absorb_stop(index, choice["stop_reason"])
        native = chunk.get("__verbose")
        if native and native.get("stop"):
            self._absorb_stop(_index(native.get("index")), native.get("stopping_word"))
        return events

    def finish(self) -> Finished | None:
        """The end of the generation; None if the stream stopped before it."""
        if any(reason is None for reason in self._reasons):
            return None
        usage = Usage(self._num_prompt_tokens, sum(self._usages), self._num_cached_tokens)
        stop_texts = tuple(self._stop_texts) if all(self._told) else ()
        return Finished(tuple(reason or "stop" for reason in self._reasons), usage, _timings(self._timings), stop_texts)

    def _read_delta(self, choice: Json, delta: Json, index: int, events: list[GenerationEvent]) -> None:
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning:
            events.append(ReasoningDelta(_text(reasoning), index))
        self._read_text(choice, delta.get("content"), index, events)
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            events.append(
                ToolCallDelta(
                    index=_index(call.get("index")),
                    arguments=_text(function.get("arguments") or ""),
                    id=_text(call.get("id") or "") or None,
                    name=_text(function.get("name") or "") or None,
                    choice=index,
                )
            )

    def _read_text(self, choice: Json, text: str | None, index: int, events: list[GenerationEvent]) -> None:
        raw = choice.get("logprobs") or {}
        logprobs = tuple(_logprob(item, with_alternatives=self._with_alternatives) for item in raw.get("content") or ())
        if text or logprobs:
            events.append(TextDelta(_text(text or ""), index, logprobs))

    def _absorb_stop(self, index: int, text: object) -> None:
        if not 0 <= index < len(self._told):
            return
        self._told[index] = True
        # A template's own stop texts, and token ids, are nothing that was asked for.
        self._stop_texts[index] = text if isinstance(text, str) and text in self._stop else None

    def _absorb_usage(self, usage: Json) -> None:
        # llama.cpp reports every choice by itself, other servers report once for all.
        self._num_prompt_tokens = int(usage.get("prompt_tokens") or 0)
        self._usages.append(int(usage.get("completion_tokens") or 0))
        details = usage.get("prompt_tokens_details") or {}
        self._num_cached_tokens = max(self._num_cached_tokens, int(details.get("cached_tokens") or 0))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _index(value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or not 0 <= value < MAX_INDEX:
        raise ValueError("no index")
    return value


def _logprob(item: Json, *, with_alternatives: bool) -> TokenLogprob:
    alternatives = (item.get("top_logprobs") or ()) if with_alternatives else ()
    return TokenLogprob(
        token=_text(item["token"]),
        logprob=float(item["logprob"]),
        raw=bytes(list(item.get("bytes") or ())),
        id=item.get("id"),
        top=tuple(_logprob(top, with_alternatives=False) for top in alternatives),
    )


def _timings(raw: Mapping[str, Any] | None) -> Timings | None:
    if raw is None:
        return None
    return Timings(
        num_prompt_tokens=int(raw.get("prompt_n") or 0),
        prompt_s=float(raw.get("prompt_ms") or 0.0) / 1000,
        num_generated_tokens=int(raw.get("predicted_n") or 0),
        generation_s=float(raw.get("predicted_ms") or 0.0) / 1000,
        num_cached_tokens=int(raw.get("cache_n") or 0),
        num_guessed_tokens=int(raw.get("draft_n_accepted") or 0),
    )


def error_of(body: object, status: int) -> ZhibeiError:
    """An error answer as one of ours, by its type first and its status second."""
    raw = body.get("error") if isinstance(body, dict) else None
    error: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
    problem = str(error.get("message") or raw or body)[:500]
    kind = error.get("type")
    if error.get("n_prompt_tokens") and error.get("n_ctx"):
        return ContextTooLong(int(error["n_prompt_tokens"]), int(error["n_ctx"]))
    # OpenAI gives a wrong key the type of a wrong request.
    if kind in ("authentication_error", "permission_error") or status in (401, 403):
        return NotPermitted("The engine refused the key: {problem}", problem=problem)
    if kind in ("invalid_request_error", "not_found_error", "exceed_context_size_error") or status in (400, 404, 422):
        return BadRequest("The engine refused the request: {problem}", problem=problem)
    if kind == "not_supported_error" or status == 501:
        return Unsupported("The engine cannot do this: {problem}", problem=problem)
    if kind == "unavailable_error" or status in (429, 503):
        return Busy("The engine is not ready: {problem}", problem=problem)
    return EngineRefused("The engine failed on this request: {problem}", problem=problem)


def vectors(body: Json, num_inputs: int) -> tuple[tuple[float, ...], ...]:
    """Embeddings in the order of the inputs.

    Raises:
        EngineRefused: the answer makes no sense.
    """
    data: Sequence[Json] = body.get("data") or ()
    ordered = sorted((item for item in data if isinstance(item, dict)), key=lambda item: item.get("index", 0))
    if len(ordered) != num_inputs or not all(isinstance(item.get("embedding"), list) for item in ordered):
        raise EngineRefused("The engine's answer makes no sense: {problem}", problem="embeddings do not match the inputs")
    return tuple(tuple(map(float, item["embedding"])) for item in ordered)
