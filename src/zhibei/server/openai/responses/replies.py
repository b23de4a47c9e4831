"""Events to a response: the items as they grow, and each step as a server-sent event. Pure, and the hot path.

A whole answer is what the last event of its stream holds: there is one way to make it, not two.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from zhibei.chat import TokenLogprob
from zhibei.events import Finished, GenerationEvent, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from zhibei.server.openai.replies import new_id
from zhibei.server.openai.responses.schema import CLIENTS_OWN_TOOLS, Item, NamedTool, ResponseBody, Tool
from zhibei.server.sealing import sealed

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a response repeats of its request. ``created`` is in seconds since 1970, which ``now`` counts too."""

    id: str
    created: int
    body: ResponseBody
    now: Callable[[], float] = time.time

    @property
    def seals_reasoning(self) -> bool:
        """Whether reasoning is wanted in the form that clients give back."""
        return "reasoning.encrypted_content" in (self.body.include or ())


def response_json(asked: Asked, status: str, output: Sequence[Json] = (), **more: object) -> Json:
    """A response object with every field of the reference; null where nothing is known."""
    body = asked.body
    reasoning, text = body.reasoning, body.text
    wanted_format = text.format.model_dump(by_alias=True, exclude_none=True) if text is not None and text.format else None
    found: Json = {
        "id": asked.id,
        "object": "response",
        "created_at": asked.created,
        "status": status,
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": body.model,
        "output": list(output),
        "parallel_tool_calls": True if body.parallel_tool_calls is None else body.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort if reasoning is not None else None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": True if body.store is None else body.store,
        "temperature": body.temperature,
        "text": {"format": wanted_format or {"type": "text"}, "verbosity": text.verbosity if text is not None else None},
        "tool_choice": _choice_json(body.tool_choice),
        "tools": [_tool_json(tool) for tool in body.tools or () if tool.type not in CLIENTS_OWN_TOOLS],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
    }
    return found | more


def item_json(item: Item) -> Json:
    """An item as it is listed: what its kind requires is there."""
    found: Json = item.model_dump(exclude_none=True)
    if item.type == "reasoning":
        found.setdefault("summary", [])
    for part in found["content"] if isinstance(found.get("content"), list) else ():
        if part["type"] == "output_text":
            part.setdefault("annotations", [])
            part.setdefault("logprobs", [])
        if part["type"] == "input_image":
            part.setdefault("detail", "auto")
    return found


def usage_json(usage: Usage, num_reasoning_tokens: int) -> Json:
    """``usage``."""
    return {
        "input_tokens": usage.num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.num_generated_tokens,
        "output_tokens_details": {"reasoning_tokens": min(num_reasoning_tokens, usage.num_generated_tokens)},
        "total_tokens": usage.num_prompt_tokens + usage.num_generated_tokens,
    }


@dataclass(slots=True)
class _Growing:
    """An item that is not complete. ``head`` is what comes before the next delta's number, ``text`` what came."""

    json: Json
    index: int
    head: bytes = b""
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class ResponseEvents:
    """A response's events, in the order of the reference. ``final`` is the finished response, once there is one."""

    media_type = b"text/event-stream; charset=utf-8"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._number = 0
        self._num_reasoning = 0
        self._output: list[Json] = []
        self._speaking: _Growing | None = None
        self._calls: dict[int, _Growing] = {}
        self.final: Json | None = None

    def event(self, event: GenerationEvent) -> bytes:
        """One event; the first is preceded by those that open the response."""
        # The hot path: more text of a message that is open.
        speaking = self._speaking
        if isinstance(event, TextDelta) and speaking is not None and not event.logprobs and speaking.json["type"] == "message":
            return self._delta(speaking, event.text)
        opening = self._open()
        if isinstance(event, Finished):
            return opening + self._finish(event)
        if isinstance(event, ToolCallDelta):
            return opening + self._call(event)
        return opening + self._say(event)

    def failure(self, error: bytes) -> bytes:
        """The error, and the response as a failed one."""
        envelope: Json = orjson.loads(error)["error"]
        opening = self._open()
        code = "server_error" if envelope["type"] in ("server_error", "internal_error") else "invalid_prompt"
        said = {"code": envelope["code"], "message": envelope["message"], "param": envelope["param"]}
        problem = {"code": code, "message": envelope["message"]}
        failed = response_json(self._asked, "failed", self._output, error=problem)
        return opening + self._event("error", **said) + self._event("response.failed", response=failed)

    def end(self) -> bytes:
        """The last event says it all."""
        return b""

    def idle(self) -> bytes:
        """A comment."""
        return b": waiting\n\n"

    async def whole(self, events: AsyncGenerator[GenerationEvent, None]) -> bytes:
        """The finished response as one body."""
        async with aclosing(events):
            async for event in events:
                self.event(event)
        assert self.final is not None, "a generation ends with Finished"
        return orjson.dumps(self.final)

    def _open(self) -> bytes:
        if self._number:
            return b""
        started = response_json(self._asked, "in_progress")
        return self._event("response.created", response=started) + self._event("response.in_progress", response=started)

    def _say(self, event: TextDelta | ReasoningDelta) -> bytes:
        kind = "message" if isinstance(event, TextDelta) else "reasoning"
        before = b""
        if self._speaking is None or self._speaking.json["type"] != kind:
            before = self._close_speaking("completed")
            speaking, opening = self._open_message() if kind == "message" else self._open_reasoning()
            self._speaking = speaking
            before += opening
        assert self._speaking is not None
        if isinstance(event, ReasoningDelta):
            self._num_reasoning += 1
            return before + self._delta(self._speaking, event.text)
        self._speaking.logprobs += event.logprobs
        return before + self._delta(self._speaking, event.text, event.logprobs)

    def _delta(self, item: _Growing, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        item.text.append(text)
        self._number += 1
        tail = b"}\n\n"
        if item.json["type"] == "message":
            tail = b',"logprobs":[]}\n\n' if not logprobs else b',"logprobs":' + orjson.dumps(_streamed(logprobs)) + tail
        return item.head + b"%d" % (self._number - 1) + b',"delta":' + orjson.dumps(text) + tail

    def _open_message(self) -> tuple[_Growing, bytes]:
        json: Json = {"id": new_id("msg_"), "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return self._add(json, "response.output_text.delta", part)

    def _open_reasoning(self) -> tuple[_Growing, bytes]:
        json: Json = {"id": new_id("rs_"), "type": "reasoning", "status": "in_progress", "summary": [], "content": []}
        return self._add(json, "response.reasoning_text.delta", {"type": "reasoning_text", "text": ""})

    def _call(self, event: ToolCallDelta) -> bytes:
        before = b""
        call = self._calls.get(event.index)
        if call is None:
            before = self._close_speaking("completed")
            json: Json = {
                "id": new_id("fc_"),
                "type": "function_call",
                "status": "in_progress",
                "name": event.name or "",
                "call_id": event.id or new_id("call_"),
                "arguments": "",
            }
            call, opening = self._add(json, "response.function_call_arguments.delta", None)
            self._calls[event.index] = call
            before += opening
        return before + (self._delta(call, event.arguments) if event.arguments else b"")

    def _add(self, json: Json, delta_event: str, part: Json | None) -> tuple[_Growing, bytes]:
        index = len(self._output)
        self._output.append(json)
        place: Json = {"item_id": json["id"], "output_index": index}
        added = self._event("response.output_item.added", output_index=index, item=json)
        if part is not None:
            place["content_index"] = 0
            added += self._event("response.content_part.added", **place, part=part)
        common = orjson.dumps({"type": delta_event, **place})[:-1]
        head = b"event: " + delta_event.encode() + b"\ndata: " + common + b',"sequence_number":'
        return _Growing(json, index, head), added

    def _close_speaking(self, status: str) -> bytes:
        item, self._speaking = self._speaking, None
        if item is None:
            return b""
        text = "".join(item.text)
        place: Json = {"item_id": item.json["id"], "output_index": item.index, "content_index": 0}
        if item.json["type"] == "message":
            logprobs = [_logprob(each) | {"top_logprobs": [_logprob(top) for top in each.top]} for each in item.logprobs]
            part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
            done = self._event("response.output_text.done", **place, text=text, logprobs=_streamed(item.logprobs))
        else:
            part = {"type": "reasoning_text", "text": text}
            done = self._event("response.reasoning_text.done", **place, text=text)
            if self._asked.seals_reasoning:
                item.json["encrypted_content"] = sealed(text)
        item.json["content"], item.json["status"] = [part], status
        done += self._event("response.content_part.done", **place, part=part)
        return done + self._event("response.output_item.done", output_index=item.index, item=item.json)

    def _close_calls(self, status: str) -> bytes:
        done = b""
        for item in self._calls.values():
            arguments = "".join(item.text)
            item.json["arguments"], item.json["status"] = arguments, status
            done += self._event(
                "response.function_call_arguments.done",
                item_id=item.json["id"],
                output_index=item.index,
                name=item.json["name"],
                arguments=arguments,
            )
            done += self._event("response.output_item.done", output_index=item.index, item=item.json)
        self._calls.clear()
        return done

    def _finish(self, end: Finished) -> bytes:
        is_cut = end.reasons[0] == "length"
        status = "incomplete" if is_cut else "completed"
        opening = b""
        if not self._output:
            # An answer of nothing is an empty message, not the absence of one.
            self._speaking, opening = self._open_message()
        done = opening + self._close_speaking(status) + self._close_calls(status)
        self.final = response_json(
            self._asked,
            status,
            self._output,
            incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
            completed_at=None if is_cut else int(self._asked.now()),
            usage=usage_json(end.usage, self._num_reasoning),
        )
        return done + self._event(f"response.{status}", response=self.final)

    def _event(self, kind: str, **fields: object) -> bytes:
        data = orjson.dumps({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _logprob(item: TokenLogprob) -> Json:
    return {"token": item.token, "logprob": item.logprob, "bytes": list(item.raw)}


def _streamed(logprobs: Sequence[TokenLogprob]) -> list[Json]:
    return [
        {
            "token": each.token,
            "logprob": each.logprob,
            "top_logprobs": [{"token": top.token, "logprob": top.logprob} for top in each.top],
        }
        for each in logprobs
    ]


def _choice_json(choice: str | NamedTool | None) -> object:
    return choice.model_dump(exclude_none=True) if isinstance(choice, NamedTool) else choice or "auto"


def _tool_json(tool: Tool) -> Json:
    return {"description": None, "parameters": None, "strict": None} | tool.model_dump(exclude_none=True)
