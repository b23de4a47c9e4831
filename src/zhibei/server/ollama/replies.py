"""Events to Ollama's replies, streamed and whole. Pure but for the clock. The hot path: a delta is one escape and one join."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from time import time_ns
from typing import Any, Literal

import orjson

from zhibei.chat import TokenLogprob
from zhibei.events import Finished, GenerationEvent, ReasoningDelta, TextDelta, ToolCallDelta

Json = dict[str, Any]
Kind = Literal["chat", "generate"]
MEDIA_TYPE = b"application/x-ndjson"


@dataclass(slots=True)
class Course:
    """How a request went, as far as its answer tells: filled in by the work, read when the answer ends.

    Times are in ns of ``time.perf_counter_ns``. ``context``: the token ids of the conversation, for the next request.
    ``cut``: what was left out so that the rest fits.
    """

    began_ns: int = field(default_factory=time.perf_counter_ns)
    loaded_ns: int | None = None
    context: Sequence[int] | None = None
    cut: Mapping[str, int] = field(default_factory=dict)

    def loaded(self) -> None:
        """The model is at hand."""
        self.loaded_ns = time.perf_counter_ns()

    def durations(self) -> Json:
        """``total_duration`` and ``load_duration``, in ns."""
        found: Json = {"total_duration": time.perf_counter_ns() - self.began_ns}
        if self.loaded_ns is not None:
            found["load_duration"] = self.loaded_ns - self.began_ns
        return found


_NS = 1_000_000_000
_SAME_TIME_NS = 1_000_000


def _date_text(second: int) -> bytes:
    """A time as RFC 3339 in UTC, up to the point before its nine digits of the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()


def now_text() -> str:
    """The time as RFC 3339 in UTC."""
    second, rest = divmod(time_ns(), _NS)
    return f"{_date_text(second).decode()}{rest:09d}Z"


@dataclass(slots=True)
class _Call:
    """A tool call in the making."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def take(self, event: ToolCallDelta) -> None:
        self.id = event.id or self.id
        self.name = event.name or self.name
        self.arguments.append(event.arguments)

    def json(self, index: int) -> Json | None:
        """The call; None where its arguments are no object, because the answer was cut short."""
        text = "".join(self.arguments)
        try:
            arguments = orjson.loads(text) if text.strip() else {}
        except ValueError:
            return None
        if not isinstance(arguments, dict):
            return None
        return {"id": self.id, "function": {"index": index, "name": self.name, "arguments": arguments}}


class Lines:
    """A generation's events as lines of JSON. A tool call is sent whole, once it is known to be."""

    media_type = MEDIA_TYPE

    def __init__(self, model: str, kind: Kind, course: Course) -> None:
        self._course = course
        self._is_chat = kind == "chat"
        self._head = b'{"model":' + orjson.dumps(model) + b',"created_at":"'
        self._second, self._dated = -1, b""
        self._begun_ns, self._begun = 0, b""
        text_key = b'Z","message":{"role":"assistant","content":' if self._is_chat else b'Z","response":'
        self._text = text_key
        self._text_end = b'},"done":false}\n' if self._is_chat else b',"done":false}\n'
        self._thinking = text_key + b'"","thinking":'
        self._calls: dict[int, _Call] = {}

    def event(self, event: GenerationEvent) -> bytes:
        """One event, or the tool calls that were complete before it."""
        if isinstance(event, TextDelta):
            if not event.logprobs and not self._calls:
                return self._begin() + self._text + orjson.dumps(event.text) + self._text_end
            return self._flush() + self._with_logprobs(event)
        if isinstance(event, ReasoningDelta):
            return self._begin() + self._thinking + orjson.dumps(event.text) + self._text_end
        if isinstance(event, ToolCallDelta):
            before = self._flush() if self._calls and event.index not in self._calls else b""
            self._calls.setdefault(event.index, _Call()).take(event)
            return before
        return self._flush() + self._finished(event)

    def failure(self, error: bytes) -> bytes:
        """An error instead of the rest."""
        return error + b"\n"

    def end(self) -> bytes:
        """Nothing: the last event says that it is done."""
        return b""

    def idle(self) -> bytes:
        """Nothing: every line must be an object."""
        return b""

    def _begin(self) -> bytes:
        """A line up to the time in it, without the Z. Tokens within a millisecond share their time."""
        now_ns = time_ns()
        if not self._begun_ns <= now_ns < self._begun_ns + _SAME_TIME_NS:
            second, rest = divmod(now_ns, _NS)
            if second != self._second:
                self._second, self._dated = second, self._head + _date_text(second)
            self._begun_ns, self._begun = now_ns, self._dated + b"%09d" % rest
        return self._begun

    def _flush(self) -> bytes:
        """The tool calls that are complete, a line each."""
        if not self._calls:
            return b""
        calls, self._calls = self._calls, {}
        lines = []
        for index, call in sorted(calls.items()):
            message = _message("", "", [call], first_index=index)
            body = {"message": message} if self._is_chat else {"response": message["content"], **_calls_of(message)}
            lines.append(self._line(body))
        return b"".join(lines)

    def _line(self, rest: Json) -> bytes:
        return self._begin() + b'Z",' + orjson.dumps({**rest, "done": False})[1:] + b"\n"

    def _with_logprobs(self, event: TextDelta) -> bytes:
        body: Json = {"message": {"role": "assistant", "content": event.text}} if self._is_chat else {"response": event.text}
        return self._line({**body, "logprobs": logprobs_json(event.logprobs)} if event.logprobs else body)

    def _finished(self, event: Finished) -> bytes:
        body: Json = {"message": {"role": "assistant", "content": ""}} if self._is_chat else {"response": ""}
        return self._begin() + b'Z",' + orjson.dumps({**body, **end_json(event, self._course)})[1:] + b"\n"


class Whole:
    """Collects the events of one generation into one body."""

    def __init__(self, model: str, kind: Kind, course: Course) -> None:
        self._model = model
        self._is_chat = kind == "chat"
        self._course = course
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._calls: dict[int, _Call] = {}

    async def body(self, events: AsyncGenerator[GenerationEvent, None]) -> bytes:
        """The answer."""
        end: Finished | None = None
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    end = event
                elif isinstance(event, TextDelta):
                    self._text.append(event.text)
                    self._logprobs.extend(event.logprobs)
                elif isinstance(event, ReasoningDelta):
                    self._thinking.append(event.text)
                else:
                    self._calls.setdefault(event.index, _Call()).take(event)
        assert end is not None, "a generation ends with Finished"
        calls = [call for _, call in sorted(self._calls.items())]
        message = _message("".join(self._text), "".join(self._thinking), calls)
        body: Json = {"model": self._model, "created_at": now_text()}
        if self._is_chat:
            body["message"] = message
        else:
            body["response"] = message["content"]
            body |= {key: message[key] for key in ("thinking", "tool_calls") if key in message}
        if self._logprobs:
            body["logprobs"] = logprobs_json(self._logprobs)
        return orjson.dumps(body | end_json(end, self._course))


def end_json(end: Finished, course: Course) -> Json:
    """What the last object of an answer says: why it ended and what it cost. Counts are tokens, durations ns.

    What the engine did not measure is left out, and so is what was cut where nothing was.
    """
    body: Json = {"done": True, "done_reason": "length" if end.reasons[0] == "length" else "stop"}
    if course.context is not None:
        body["context"] = course.context
    body |= course.durations()
    timings = end.timings
    body["prompt_eval_count"] = end.usage.num_prompt_tokens
    if timings is not None:
        body["prompt_eval_duration"] = round(timings.prompt_s * 1e9)
    body["eval_count"] = end.usage.num_generated_tokens
    if timings is not None:
        body["eval_duration"] = round(timings.generation_s * 1e9)
    if course.cut:
        body["zhibei"] = {"cut": dict(course.cut)}
    return body


def nothing_said(model: str, kind: Kind, reason: Literal["load", "unload"], course: Course) -> bytes:
    """The answer to a request that only loads or unloads a model."""
    body: Json = {"model": model, "created_at": now_text()}
    body |= {"message": {"role": "assistant", "content": ""}} if kind == "chat" else {"response": ""}
    body |= {"done": True, "done_reason": reason}
    return orjson.dumps(body | (course.durations() if reason == "load" else {}))


def logprobs_json(logprobs: Sequence[TokenLogprob]) -> list[Json]:
    """``logprobs``: one entry per token."""
    return [{**_logprob(item), "top_logprobs": [_logprob(top) for top in item.top]} for item in logprobs]


def _logprob(item: TokenLogprob) -> Json:
    return {"token": item.token, "logprob": item.logprob, "bytes": list(item.raw)}


def _message(text: str, thinking: str, calls: Sequence[_Call], *, first_index: int = 0) -> Json:
    """An assistant's message. The arguments of a call that was cut short stay readable, as text."""
    whole: list[Json] = []
    for index, call in enumerate(calls, start=first_index):
        found = call.json(index)
        if found is None:
            text += "".join(call.arguments)
        else:
            whole.append(found)
    message: Json = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if whole:
        message["tool_calls"] = whole
    return message


def _calls_of(message: Json) -> Json:
    return {"tool_calls": message["tool_calls"]} if "tool_calls" in message else {}
