"""Events to Kobold's replies, streamed and whole. Pure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from zhibei.chat import Embeddings, TokenLogprob
from zhibei.events import Finished, GenerationEvent, TextDelta
from zhibei.server.kobold.runs import Aborted, Last, Run

Json = dict[str, Any]
KoboldEvent = GenerationEvent | Aborted
UNITED_VERSION = "1.2.5"
KOBOLDCPP_VERSION = "1.115.1"
"""Whose API this follows; front ends compare it to know what they may use."""
_STOP_REASONS = {"length": 0, "stop": 1}
_NO_GENERATION, _BY_STOP_TEXT = -1, 2


class TokenEvents:
    """A generation as server-sent events, a token or more in each."""

    media_type = b"text/event-stream; charset=utf-8"

    def __init__(self, run: Run, *, keeps_stop: bool) -> None:
        self._run = run
        self._keeps_stop = keeps_stop

    def event(self, event: KoboldEvent) -> bytes:
        """One event; the last one has the reason."""
        if isinstance(event, TextDelta):
            return _message({"token": event.text, "finish_reason": None})
        if isinstance(event, Finished | Aborted):
            return _message({"token": _stop_text(event, keeps_stop=self._keeps_stop), **_end(self._run, event)})
        return b""

    def failure(self, error: bytes) -> bytes:
        """An error instead of the rest."""
        return b"event: error\ndata: " + error + b"\n\n"

    def end(self) -> bytes:
        """Nothing: the reason said it."""
        return b""

    def idle(self) -> bytes:
        """A comment."""
        return b": waiting\n\n"


async def whole(run: Run, events: AsyncGenerator[KoboldEvent, None], *, keeps_stop: bool) -> bytes:
    """``{"results": [{text, finish_reason, …}]}``."""
    end: Finished | Aborted = Aborted()
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finished | Aborted):
                end = event
    text = run.text + _stop_text(end, keeps_stop=keeps_stop)
    logprobs = logprobs_json(run.logprobs) if run.logprobs else None
    return orjson.dumps({"results": [{"text": text, "logprobs": logprobs, **_end(run, end)}]})


def check_body(run: Run | None) -> bytes:
    """What a generation has said so far; nothing where there is none."""
    return orjson.dumps({"results": [{"text": run.text if run is not None else "", "finish_reason": None}]})


def logprobs_json(logprobs: Sequence[TokenLogprob]) -> Json:
    """Both forms of OpenAI's log-probabilities, as KoboldCpp has them."""
    offsets, offset = [], 0
    for item in logprobs:
        offsets.append(offset)
        offset += len(item.token)
    return {
        "content": [{**_logprob(item), "top_logprobs": [_logprob(top) for top in item.top]} for item in logprobs],
        "tokens": [item.token for item in logprobs],
        "token_logprobs": [item.logprob for item in logprobs],
        "top_logprobs": [{top.token: top.logprob for top in item.top} for item in logprobs],
        "text_offset": offsets,
    }


def tokens_body(tokens: tuple[int, ...]) -> bytes:
    """Token ids under the names of all front ends."""
    ids = list(tokens)
    return orjson.dumps({"value": len(ids), "ids": ids, "tokens": ids, "length": len(ids), "count": len(ids)})


def embeddings_body(found: Embeddings, model: str) -> bytes:
    """A list of embeddings, as OpenAI's."""
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(found.vectors)]
    usage = {"prompt_tokens": found.num_tokens, "total_tokens": found.num_tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


def perf_body(last: Last, *, num_waiting: int, is_idle: bool, uptime_s: float) -> bytes:
    """What the caller's last generation took, and how busy the server is. Zero stands for nothing yet, as in KoboldCpp."""
    timings = last.end.timings if last.end is not None else None
    prompt_s, num_prompt = (timings.prompt_s, timings.num_prompt_tokens) if timings else (0.0, 0)
    generation_s, num_generated = (timings.generation_s, timings.num_generated_tokens) if timings else (0.0, 0)
    usage = last.end.usage if last.end is not None else None
    body = {
        "last_process": prompt_s / num_prompt if num_prompt else 0.0,
        "last_eval": generation_s / num_generated if num_generated else 0.0,
        "last_process_time": prompt_s,
        "last_eval_time": generation_s,
        "last_process_speed": (timings.prompt_tokens_per_s if timings else None) or 0.0,
        "last_eval_speed": (timings.generation_tokens_per_s if timings else None) or 0.0,
        "last_token_count": usage.num_generated_tokens if usage else 0,
        "last_input_count": usage.num_prompt_tokens if usage else 0,
        "total_gens": last.num_runs,
        "stop_reason": _stop_reason(last.end),
        "queue": num_waiting,
        "idle": int(is_idle),
        "uptime": uptime_s,
        "total_img_gens": 0,
        "total_tts_gens": 0,
        "total_transcribe_gens": 0,
        "quiet": True,
    }
    return orjson.dumps(body)


def version_json(*, is_protected: bool, has_vision: bool, has_embeddings: bool) -> Json:
    """Who this is to a front end, and what it may use."""
    return {
        "result": "KoboldCpp",
        "version": KOBOLDCPP_VERSION,
        "protected": is_protected,
        "llm": True,
        "txt2img": False,
        "vision": has_vision,
        "audio": False,
        "transcribe": False,
        "multiplayer": False,
        "websearch": False,
        "tts": False,
        "embeddings": has_embeddings,
        "music": False,
        "savedata": False,
        "admin": 0,
        "guidance": False,
        "jinja": True,
        "mcp": False,
    }


def service_info(version: str) -> Json:
    """``/.well-known/serviceinfo``: which APIs are where."""
    return {
        "version": "0.2",
        "software": {"name": "Zhibei", "version": version},
        "api": {
            "koboldai": {"name": "KoboldAI API", "rel_url": "/api", "documentation": "/docs", "version": KOBOLDCPP_VERSION},
            "openai": {"name": "OpenAI API", "rel_url": "/v1", "documentation": "/docs", "version": version},
        },
    }


def _end(run: Run, end: Finished | Aborted) -> Json:
    usage = end.usage if isinstance(end, Finished) else None
    body: Json = {
        "finish_reason": end.reasons[0] if isinstance(end, Finished) else "stop",
        "prompt_tokens": usage.num_prompt_tokens if usage else None,
        "completion_tokens": usage.num_generated_tokens if usage else None,
    }
    if run.num_cut_tokens:
        body["truncated_tokens"] = run.num_cut_tokens
    return body


def _stop_text(end: Finished | Aborted, *, keeps_stop: bool) -> str:
    if not keeps_stop or not isinstance(end, Finished) or not end.stop_texts:
        return ""
    return end.stop_texts[0] or ""


def _stop_reason(end: Finished | None) -> int:
    if end is None:
        return _NO_GENERATION
    if end.stop_texts and end.stop_texts[0]:
        return _BY_STOP_TEXT
    return _STOP_REASONS.get(end.reasons[0], _NO_GENERATION)


def _logprob(item: TokenLogprob) -> Json:
    return {"token": item.token, "logprob": item.logprob, "bytes": list(item.raw)}


def _message(body: Json) -> bytes:
    return b"event: message\ndata: " + orjson.dumps(body) + b"\n\n"
