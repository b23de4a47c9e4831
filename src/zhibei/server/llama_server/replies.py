"""Events to llama-server's replies, streamed and whole, and the token replies of all front ends. Pure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from zhibei.chat import Embeddings, TokenLogprob
from zhibei.events import Finished, GenerationEvent, TextDelta, Timings
from zhibei.server.llama_server.generate import Course
from zhibei.server.llama_server.translate import Wanted, settings_json

Json = dict[str, Any]
_NO_SLOT = -1


@dataclass(slots=True)
class _Answer:
    """What one prompt has got so far."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    has_new_line: bool = False

    def take(self, event: TextDelta, *, keep: bool) -> None:
        self.has_new_line = self.has_new_line or "\n" in event.text
        if keep:
            self.texts.append(event.text)
            self.logprobs.extend(event.logprobs)


class CompletionChunks:
    """A completion as server-sent events; the last of each prompt says how it went."""

    media_type = b"text/event-stream; charset=utf-8"

    def __init__(self, wanted: Wanted, course: Course) -> None:
        self._wanted = wanted
        self._course = course
        self._settings = settings_json(wanted, stream=True)
        self._answers = [_Answer() for _ in wanted.prompts]
        self._num_done = 0

    def event(self, event: GenerationEvent) -> bytes:
        """One event."""
        if isinstance(event, Finished):
            body = _final(self._wanted, self._course, self._answers[self._num_done], event, self._num_done, self._settings)
            self._num_done += 1
            return _data(_chosen(body, self._wanted.fields))
        if not isinstance(event, TextDelta) or self._wanted.is_silent:
            return b""
        self._answers[event.choice].take(event, keep=False)
        body = {
            "index": event.choice,
            "content": event.text,
            "tokens": _ids(event.logprobs) if self._wanted.shows_tokens else [],
            "stop": False,
            "id_slot": _NO_SLOT,
        }
        if self._wanted.top_logprobs and event.logprobs:
            body["completion_probabilities"] = _probabilities(event.logprobs)
        return _data(body)

    def failure(self, error: bytes) -> bytes:
        """An error instead of the rest."""
        return b"data: " + error + b"\n\n"

    def end(self) -> bytes:
        """Nothing: the last event said that it was."""
        return b""

    def idle(self) -> bytes:
        """A comment."""
        return b": waiting\n\n"


async def whole(wanted: Wanted, course: Course, events: AsyncGenerator[GenerationEvent, None]) -> bytes:
    """The answer to one prompt, or a list of them."""
    settings = settings_json(wanted, stream=False)
    answers = [_Answer() for _ in wanted.prompts]
    bodies: list[Json] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finished):
                number = len(bodies)
                bodies.append(_chosen(_final(wanted, course, answers[number], event, number, settings), wanted.fields))
            elif isinstance(event, TextDelta):
                answers[event.choice].take(event, keep=not wanted.is_silent)
    return orjson.dumps(bodies[0] if len(wanted.prompts) == 1 else bodies)


def tokens_json(
    tokens: tuple[int, ...], max_tokens: int | None, pieces: Sequence[str | None] | None, *, with_pieces: bool
) -> Json:
    """Token ids under the names of all front ends; ``tokens`` has the pieces too where llama-server's words asked for them."""
    ids = list(tokens)
    shown: list[Any] = ids
    if with_pieces and pieces is not None:
        shown = [{"id": token, "piece": piece} for token, piece in zip(ids, pieces, strict=True)]
    return {
        "tokens": shown,
        "ids": ids,
        "length": len(ids),
        "count": len(ids),
        "value": len(ids),
        "max_model_len": max_tokens,
        "token_strs": None if pieces is None or with_pieces else list(pieces),
    }


def text_json(text: str) -> Json:
    """A text under the names of all front ends."""
    return {"content": text, "prompt": text, "text": text, "result": text}


def embeddings_json(found: Embeddings) -> list[Json]:
    """A list of embeddings; each is a list of one vector, as the model pools them."""
    return [{"index": index, "embedding": [vector]} for index, vector in enumerate(found.vectors)]


def timings_json(timings: Timings) -> Json:
    """``timings``; a rate that nothing was measured for is null."""
    prompt_ms, generation_ms = timings.prompt_s * 1000, timings.generation_s * 1000
    num_prompt, num_generated = timings.num_prompt_tokens, timings.num_generated_tokens
    return {
        "cache_n": timings.num_cached_tokens,
        "prompt_n": num_prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / num_prompt if num_prompt else None,
        "prompt_per_second": timings.prompt_tokens_per_s,
        "predicted_n": num_generated,
        "predicted_ms": generation_ms,
        "predicted_per_token_ms": generation_ms / num_generated if num_generated else None,
        "predicted_per_second": timings.generation_tokens_per_s,
    }


def _final(wanted: Wanted, course: Course, answer: _Answer, end: Finished, number: int, settings: Json) -> Json:
    num_generated = 0 if wanted.is_silent else end.usage.num_generated_tokens
    stop_type, stopping_word = _stop(wanted, end)
    body: Json = {
        "index": number,
        "content": "".join(answer.texts),
        "tokens": _ids(answer.logprobs) if wanted.shows_tokens else [],
        "id_slot": _NO_SLOT,
        "stop": True,
        "model": course.model,
        "tokens_predicted": num_generated,
        "tokens_evaluated": end.usage.num_prompt_tokens,
        "generation_settings": settings,
        "prompt": course.prompts[number],
        "has_new_line": answer.has_new_line and not wanted.is_silent,
        "truncated": False,
        "stop_type": stop_type,
        "stopping_word": stopping_word,
        # The last token that was drawn is shown, and not read any more.
        "tokens_cached": end.usage.num_prompt_tokens + max(0, num_generated - 1),
    }
    if end.timings is not None:
        body["timings"] = timings_json(end.timings)
    if wanted.top_logprobs and answer.logprobs:
        body["completion_probabilities"] = _probabilities(answer.logprobs)
    return body


def _stop(wanted: Wanted, end: Finished) -> tuple[str, str]:
    """``stop_type`` and ``stopping_word``; none where the engine does not tell which of the two reasons to stop it was."""
    if wanted.is_silent or end.reasons[0] == "length":
        return "limit", ""
    if end.stop_texts:
        return ("word", end.stop_texts[0]) if end.stop_texts[0] else ("eos", "")
    return ("none" if wanted.limits.stop else "eos"), ""


def _chosen(body: Json, fields: tuple[str, ...] | None) -> Json:
    """The fields that were asked for, each under the path it was asked by; those that are not there are left out."""
    if fields is None:
        return body
    found: Json = {}
    for path in fields:
        value: Any = body
        for name in path.split("/"):
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        else:
            found[path] = value
    return found


def _probabilities(logprobs: Sequence[TokenLogprob]) -> list[Json]:
    return [{**_probability(item), "top_logprobs": [_probability(top) for top in item.top]} for item in logprobs]


def _probability(item: TokenLogprob) -> Json:
    return {"id": item.id, "token": item.token, "bytes": list(item.raw), "logprob": item.logprob}


def _ids(logprobs: Sequence[TokenLogprob]) -> list[int]:
    return [item.id for item in logprobs if item.id is not None]


def _data(body: Json) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
