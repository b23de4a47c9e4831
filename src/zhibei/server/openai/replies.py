"""Events to OpenAI's replies, streamed and whole. Pure, and the hot path: a delta costs one string escape and one join."""

from __future__ import annotations

import secrets
import sys
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from zhibei import __version__
from zhibei.chat import Embeddings, Ranking, TokenLogprob
from zhibei.events import Finished, GenerationEvent, ReasoningDelta, TextDelta, Timings, ToolCallDelta, Usage

Json = dict[str, Any]
FINGERPRINT = f"zhibei-{__version__}"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What all pieces of one reply have in common. ``created`` is in seconds since 1970; ``own`` means a Zhibei asks."""

    id: str
    created: int
    model: str
    num_choices: int = 1
    include_usage: bool = False
    own: bool = False


def new_id(prefix: str) -> str:
    """An identifier as OpenAI makes them: ``chatcmpl-`` and letters."""
    return prefix + secrets.token_hex(14)


class ChatChunks:
    """A chat's events as server-sent events."""

    media_type = b"text/event-stream; charset=utf-8"

    def __init__(self, head: Head) -> None:
        self._chunk = _Chunk(head, "chat.completion.chunk")
        self._opened: set[int] = set()
        self._text_heads = [self._chunk.before + b'{"index":%d,"delta":{"content":' % index for index in range(head.num_choices)]
        self._text_tail = b'},"logprobs":null,"finish_reason":null}' + self._chunk.after

    def event(self, event: GenerationEvent) -> bytes:
        """One event; a choice's first is preceded by the chunk that names the role."""
        if isinstance(event, Finished):
            return self._finished(event)
        choice = event.choice
        if isinstance(event, TextDelta) and not event.logprobs and choice in self._opened:
            return self._text_heads[choice] + orjson.dumps(event.text) + self._text_tail
        return self._open(choice) + self._chunk.of({"index": choice, **_chat_delta(event), "finish_reason": None})

    def failure(self, error: bytes) -> bytes:
        """An error instead of the rest."""
        return b"data: " + error + b"\n\n"

    def end(self) -> bytes:
        """The mark of success."""
        return DONE

    def idle(self) -> bytes:
        """A comment."""
        return b": waiting\n\n"

    def _open(self, choice: int) -> bytes:
        if choice in self._opened:
            return b""
        self._opened.add(choice)
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._chunk.of({"index": choice, "delta": delta, "logprobs": None, "finish_reason": None})

    def _finished(self, event: Finished) -> bytes:
        pieces = [self._open(choice) for choice in range(len(event.reasons))]
        for choice, reason in enumerate(event.reasons):
            last = {"index": choice, "delta": {}, "logprobs": None, "finish_reason": reason}
            pieces.append(self._chunk.of(last, event if choice == len(event.reasons) - 1 else None))
        return b"".join(pieces) + self._chunk.usage(event)


class CompletionChunks:
    """A completion's events as server-sent events."""

    media_type = ChatChunks.media_type
    failure = ChatChunks.failure
    end = ChatChunks.end
    idle = ChatChunks.idle

    def __init__(self, head: Head) -> None:
        self._head = head
        self._chunk = _Chunk(head, "text_completion")
        self._offsets: dict[int, int] = {}
        self._text_tail = b',"logprobs":null,"finish_reason":null}' + self._chunk.after

    def event(self, event: GenerationEvent) -> bytes:
        """One event; what only chats have is left out."""
        if isinstance(event, Finished):
            pieces = []
            for choice, reason in enumerate(event.reasons):
                last = {"index": choice, "text": "", "logprobs": None, "finish_reason": reason}
                pieces.append(self._chunk.of(last, event if choice == len(event.reasons) - 1 else None))
            return b"".join(pieces) + self._chunk.usage(event)
        if not isinstance(event, TextDelta):
            return b""
        if not event.logprobs:
            return self._chunk.before + b'{"index":%d,"text":' % event.choice + orjson.dumps(event.text) + self._text_tail
        offset = self._offsets.get(event.choice, 0)
        self._offsets[event.choice] = offset + len(event.text)
        logprobs = _completion_logprobs(event.logprobs, offset, own=self._head.own)
        return self._chunk.of({"index": event.choice, "text": event.text, "logprobs": logprobs, "finish_reason": None})


class _Chunk:
    """The constant parts of a chunk, written once."""

    def __init__(self, head: Head, kind: str) -> None:
        common = {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "system_fingerprint": FINGERPRINT,
        }
        self._include_usage = head.include_usage
        self._common = b"data: " + orjson.dumps(common)[:-1]
        self.before = self._common + b',"choices":['
        self.after = b'],"usage":null}\n\n' if head.include_usage else b"]}\n\n"

    def of(self, choice: Json, end: Finished | None = None) -> bytes:
        if end is None or end.timings is None:
            return self.before + orjson.dumps(choice) + self.after
        timings = b',"timings":' + orjson.dumps(timings_json(end.timings))
        return self.before + orjson.dumps(choice) + b"]" + timings + self.after[1:]

    def usage(self, end: Finished) -> bytes:
        if not self._include_usage:
            return b""
        return self._common + b',"choices":[],"usage":' + orjson.dumps(usage_json(end.usage)) + b"}\n\n"


@dataclass(slots=True)
class _Choice:
    """One answer in the making."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: dict[int, Json] = field(default_factory=dict)

    def take(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
        if isinstance(event, TextDelta):
            self.text.append(event.text)
            self.logprobs.extend(event.logprobs)
        elif isinstance(event, ReasoningDelta):
            self.reasoning.append(event.text)
        else:
            call = self.calls.setdefault(
                event.index, {"id": event.id or "", "type": "function", "function": {"name": event.name or "", "arguments": ""}}
            )
            call["function"]["arguments"] += event.arguments


class Whole:
    """Collects the events of one generation into one body."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._choices = [_Choice() for _ in range(head.num_choices)]
        self._end: Finished | None = None

    async def chat(self, events: AsyncGenerator[GenerationEvent, None]) -> bytes:
        """A ``chat.completion``."""
        await self._collect(events)
        return self._body("chat.completion", [_chat_choice(choice) for choice in self._choices])

    async def completion(self, events: AsyncGenerator[GenerationEvent, None]) -> bytes:
        """A ``text_completion``."""
        await self._collect(events)
        return self._body("text_completion", [_completion_choice(choice, own=self._head.own) for choice in self._choices])

    async def _collect(self, events: AsyncGenerator[GenerationEvent, None]) -> None:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    self._end = event
                else:
                    self._choices[event.choice].take(event)

    def _body(self, kind: str, choices: list[Json]) -> bytes:
        assert self._end is not None, "a generation ends with Finished"
        for index, (choice, reason) in enumerate(zip(choices, self._end.reasons, strict=True)):
            choice["index"], choice["finish_reason"] = index, reason
        body: Json = {
            "id": self._head.id,
            "object": kind,
            "created": self._head.created,
            "model": self._head.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
            "usage": usage_json(self._end.usage),
        }
        if self._end.timings is not None:
            body["timings"] = timings_json(self._end.timings)
        return orjson.dumps(body)


def usage_json(usage: Usage) -> Json:
    """``usage``."""
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_generated_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_generated_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.num_cached_tokens},
    }


def timings_json(timings: Timings) -> Json:
    """``timings``, with the names llama.cpp's server gives them."""
    return {
        "cache_n": timings.num_cached_tokens,
        "prompt_n": timings.num_prompt_tokens,
        "prompt_ms": timings.prompt_s * 1000,
        "prompt_per_second": timings.prompt_tokens_per_s,
        "predicted_n": timings.num_generated_tokens,
        "predicted_ms": timings.generation_s * 1000,
        "predicted_per_second": timings.generation_tokens_per_s,
    }


def embeddings_body(embeddings: Embeddings, model: str, *, as_base64: bool) -> bytes:
    """A list of embeddings; base64 holds little-endian 32-bit floats, as OpenAI's do."""
    data = [
        {"object": "embedding", "index": index, "embedding": _base64_floats(vector) if as_base64 else vector}
        for index, vector in enumerate(embeddings.vectors)
    ]
    usage = {"prompt_tokens": embeddings.num_tokens, "total_tokens": embeddings.num_tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


def ranking_body(ranking: Ranking, model: str, documents: Sequence[str] | None, top_n: int | None) -> bytes:
    """Documents by score, the best first; with their texts where those are given."""
    order = sorted(range(len(ranking.scores)), key=lambda index: -ranking.scores[index])
    results: list[Json] = [{"index": index, "relevance_score": ranking.scores[index]} for index in order[:top_n]]
    if documents is not None:
        results = [result | {"document": {"text": documents[result["index"]]}} for result in results]
    usage = {"prompt_tokens": ranking.num_tokens, "total_tokens": ranking.num_tokens}
    return orjson.dumps({"id": new_id("rerank-"), "object": "list", "model": model, "results": results, "usage": usage})


def _base64_floats(vector: Sequence[float]) -> str:
    from base64 import b64encode

    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return b64encode(floats.tobytes()).decode("ascii")


def _chat_delta(event: TextDelta | ReasoningDelta | ToolCallDelta) -> Json:
    if isinstance(event, TextDelta):
        logprobs = _chat_logprobs(event.logprobs) if event.logprobs else None
        return {"delta": {"content": event.text}, "logprobs": logprobs}
    if isinstance(event, ReasoningDelta):
        return {"delta": {"reasoning_content": event.text}, "logprobs": None}
    call: Json = {"index": event.index}
    function: Json = {}
    if event.id is not None:
        call["id"], call["type"] = event.id, "function"
    if event.name is not None:
        function["name"] = event.name
    function["arguments"] = event.arguments
    call["function"] = function
    return {"delta": {"tool_calls": [call]}, "logprobs": None}


def _chat_choice(choice: _Choice) -> Json:
    text = "".join(choice.text)
    message: Json = {"role": "assistant", "content": text if text or not choice.calls else None, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.calls:
        message["tool_calls"] = [call for _, call in sorted(choice.calls.items())]
    logprobs = _chat_logprobs(choice.logprobs) if choice.logprobs else None
    return {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": None}


def _completion_choice(choice: _Choice, *, own: bool) -> Json:
    logprobs = _completion_logprobs(choice.logprobs, 0, own=own) if choice.logprobs else None
    return {"index": 0, "text": "".join(choice.text), "logprobs": logprobs, "finish_reason": None}


def _chat_logprobs(logprobs: Sequence[TokenLogprob]) -> Json:
    content = [{**_logprob(item), "top_logprobs": [_logprob(top) for top in item.top]} for item in logprobs]
    return {"content": content, "refusal": None}


def _logprob(item: TokenLogprob) -> Json:
    found: Json = {"token": item.token, "logprob": item.logprob, "bytes": list(item.raw)}
    if item.id is not None:
        found["id"] = item.id
    return found


def _completion_logprobs(logprobs: Sequence[TokenLogprob], offset: int, *, own: bool) -> Json:
    offsets: list[int] = []
    for item in logprobs:
        offsets.append(offset)
        offset += len(item.token)
    found: Json = {
        "tokens": [item.token for item in logprobs],
        "token_logprobs": [item.logprob for item in logprobs],
        "top_logprobs": [{top.token: top.logprob for top in item.top} for item in logprobs],
        "text_offset": offsets,
    }
    # OpenAI's form of completions loses bytes and ids; a Zhibei that asks gets the chat's form too.
    return {**found, **_chat_logprobs(logprobs)} if own else found
