"""Events to a message: its blocks as they grow, and each step as a server-sent event. Pure, and the hot path.

A whole answer is what its stream would have built up: there is one way to make it, not two.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from zhibei.errors import EngineRefused
from zhibei.events import Finished, GenerationEvent, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from zhibei.server.sealing import sealed, signature

Json = dict[str, Any]
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


@dataclass(frozen=True, slots=True)
class Head:
    """What a reply takes from its request. ``shows_thinking``: thoughts are blocks; ``hides_text``: without their words."""

    model: str
    max_tokens: int
    shows_thinking: bool = False
    hides_text: bool = False


def new_id(prefix: str) -> str:
    """An identifier as Anthropic makes them: ``msg_`` and letters."""
    return prefix + secrets.token_hex(12)


@dataclass(slots=True)
class _Growing:
    """A block that is not complete. ``head`` is what comes before the next delta's text; ``call`` its index, if it is one."""

    json: Json
    head: bytes
    call: int | None = None
    text: list[str] = field(default_factory=list)


class MessageEvents:
    """A message's events. ``final`` is the finished message, once there is one."""

    media_type = b"text/event-stream; charset=utf-8"

    def __init__(self, head: Head) -> None:
        self._head = head
        self._id = new_id("msg_")
        self._started = False
        self._blocks: list[Json] = []
        self._open: _Growing | None = None
        self._num_calls = 0
        self._num_thinking_tokens = 0
        self.final: Json | None = None

    def event(self, event: GenerationEvent) -> bytes:
        """One event; the first is preceded by the message's start."""
        block = self._open
        # The hot path: more text of a block that is open.
        if isinstance(event, TextDelta) and block is not None and block.json["type"] == "text":
            return _delta(block, event.text)
        start = self._start()
        if isinstance(event, TextDelta):
            return start + self._text(event.text) if event.text else start
        if isinstance(event, ReasoningDelta):
            return start + self._thinking(event.text)
        if isinstance(event, ToolCallDelta):
            return start + self._call(event)
        return start + self._finish(event)

    def failure(self, error: bytes) -> bytes:
        """The error envelope is an event as it is."""
        return b"event: error\ndata: " + error + b"\n\n"

    def end(self) -> bytes:
        """The last event says it all."""
        return b""

    def idle(self) -> bytes:
        """A ping, which may come at any time."""
        return PING

    async def whole(self, events: AsyncGenerator[GenerationEvent, None]) -> bytes:
        """The finished message as one body."""
        async with aclosing(events):
            async for event in events:
                self.event(event)
        assert self.final is not None, "a generation ends with Finished"
        return orjson.dumps(self.final)

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        # The engine counts the prompt as it goes; what it counted is in message_delta.
        message = self._message(None, None, _usage(Usage(0, 0), 0))
        return _event("message_start", message=message) + PING

    def _message(self, reason: str | None, stop_text: str | None, usage: Json) -> Json:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": list(self._blocks),
            "stop_reason": reason,
            "stop_sequence": stop_text,
            "stop_details": None,
            "container": None,
            "diagnostics": None,
            "usage": usage,
        }

    def _text(self, text: str) -> bytes:
        closed = self._close()
        opened = self._begin({"type": "text", "text": "", "citations": None}, b'"text_delta","text":')
        assert self._open is not None
        return closed + opened + _delta(self._open, text)

    def _thinking(self, text: str) -> bytes:
        self._num_thinking_tokens += 1
        if not self._head.shows_thinking:
            return b""
        before = b""
        if self._open is None or self._open.json["type"] != "thinking":
            before = self._close()
            before += self._begin({"type": "thinking", "thinking": "", "signature": ""}, b'"thinking_delta","thinking":')
        assert self._open is not None
        if self._head.hides_text:
            self._open.text.append(text)
            return before
        return before + _delta(self._open, text)

    def _call(self, event: ToolCallDelta) -> bytes:
        before = b""
        if self._open is None or self._open.call != event.index:
            if event.index < self._num_calls:
                raise EngineRefused("The engine's answer makes no sense: {problem}", problem="a tool call went on after its end")
            before = self._close()
            block: Json = {"type": "tool_use", "id": new_id("toolu_"), "name": event.name or "", "input": {}, "caller": _DIRECT}
            before += self._begin(block, b'"input_json_delta","partial_json":')
            assert self._open is not None
            self._open.call, self._num_calls = event.index, event.index + 1
        return before + _delta(self._open, event.arguments)

    def _begin(self, block: Json, kind: bytes) -> bytes:
        index = len(self._blocks)
        self._blocks.append(block)
        head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":' % index
        self._open = _Growing(block, head + kind)
        return _event("content_block_start", index=index, content_block=block)

    def _close(self) -> bytes:
        block, self._open = self._open, None
        if block is None:
            return b""
        index, text, signed = len(self._blocks) - 1, "".join(block.text), b""
        kind = block.json["type"]
        if kind == "text":
            block.json["text"] = text
        elif kind == "tool_use":
            block.json["input"] = _input(text)
        else:
            block.json["signature"] = sealed(text) if self._head.hides_text else signature(text)
            block.json["thinking"] = "" if self._head.hides_text else text
            delta = {"type": "signature_delta", "signature": block.json["signature"]}
            signed = _event("content_block_delta", index=index, delta=delta)
        return signed + _event("content_block_stop", index=index)

    def _finish(self, end: Finished) -> bytes:
        closed = self._close()
        reason, stop_text = self._reason(end)
        usage = _usage(end.usage, self._num_thinking_tokens)
        self.final = self._message(reason, stop_text, usage)
        delta = {"stop_reason": reason, "stop_sequence": stop_text, "stop_details": None, "container": None}
        counted = {name: usage[name] for name in _COUNTED}
        return closed + _event("message_delta", delta=delta, usage=counted) + _event("message_stop")

    def _reason(self, end: Finished) -> tuple[str, str | None]:
        if end.reasons[0] == "length":
            is_full = end.usage.num_generated_tokens < self._head.max_tokens
            return "model_context_window_exceeded" if is_full else "max_tokens", None
        if end.reasons[0] == "tool_calls" or self._num_calls:
            return "tool_use", None
        stop_text = end.stop_texts[0] if end.stop_texts else None
        return "end_turn" if stop_text is None else "stop_sequence", stop_text


_DIRECT: Json = {"type": "direct"}
_COUNTED = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens_details",
    "server_tool_use",
)


def _delta(block: _Growing, text: str) -> bytes:
    block.text.append(text)
    return block.head + orjson.dumps(text) + b"}}\n\n"


def _event(kind: str, **fields: object) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **fields}) + b"\n\n"


def _usage(usage: Usage, num_thinking_tokens: int) -> Json:
    """``input_tokens`` are those that were computed; the prompt is the sum of all three kinds of input."""
    return {
        "input_tokens": usage.num_prompt_tokens - usage.num_cached_tokens,
        "output_tokens": usage.num_generated_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens_details": {"thinking_tokens": min(num_thinking_tokens, usage.num_generated_tokens)},
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": None,
        "speed": "standard",
    }


def _input(arguments: str) -> Json:
    """Arguments as an object; an answer that was cut inside them has none."""
    try:
        found = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
