"""Speak to anything that speaks OpenAI's API: llama.cpp's server, vLLM, a remote Zhibei.

One object per upstream. Closing a stream closes its connection: the upstream learns that nobody listens any more.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings, Ranking, RerankRequest
from zhibei.engines import openai_body
from zhibei.engines.sse import EventTooLarge, SseSplitter
from zhibei.engines.transport import Answer, ConnectionLost, NonsenseAnswer, transport_to
from zhibei.events import GenerationEvent
from zhibei.i18n import Phrase

Json = dict[str, Any]
# Many inputs make a large answer: ten thousand embeddings of a thousand numbers are about this much.
MAX_ANSWER_BYTES = 256 << 20
# What reading JSON of another shape than agreed trips over.
NONSENSE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


class OpenAIUpstream:
    """A client of one base address, which ends before ``/v1``."""

    def __init__(
        self,
        address: str,
        key: str | None,
        model: str,
        extra: Mapping[str, Any] | None = None,
        on_progress: Callable[[], None] | None = None,
    ) -> None:
        """No connection is made yet.

        Args:
            address: like ``http://127.0.0.1:8080``, or ``unix:///run/x.sock``.
            key: sent as a bearer token, if any.
            model: the name the upstream knows the model by.
            extra: fields added to every generation request.
            on_progress: told of everything that a stream brings: text, or how far a prompt is read.
        """
        self._transport = transport_to(address, key)
        self._model = model
        self._extra = dict(extra or {})
        self._on_progress = on_progress or (lambda: None)

    def chat(self, request: ChatRequest, extra: Mapping[str, Any] | None = None) -> AsyncGenerator[GenerationEvent, None]:
        """Events of a streamed chat completion. ``extra``: further fields of this request."""
        body = openai_body.chat_body(openai_body.plainer(request), self._model) | self._extra | dict(extra or {})
        return self._stream("/v1/chat/completions", body, _reader(request))

    def complete(
        self, request: CompletionRequest, extra: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Events of a streamed completion. ``extra``: further fields of this request."""
        body = openai_body.completion_body(openai_body.plainer(request), self._model) | self._extra | dict(extra or {})
        return self._stream("/v1/completions", body, _reader(request))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """One vector per input."""
        inputs = [item if isinstance(item, str) else list(item) for item in request.inputs]
        answer = await self.post("/v1/embeddings", {"model": self._model, "input": inputs} | self._extra)
        with _sensible():
            usage = answer.get("usage") or {}
            return Embeddings(openai_body.vectors(answer, len(inputs)), int(usage.get("prompt_tokens") or 0))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """One score per document."""
        body = {"model": self._model, "query": request.query, "documents": list(request.documents)} | self._extra
        answer = await self.post("/v1/rerank", body)
        with _sensible():
            results = sorted(answer.get("results") or (), key=lambda item: item.get("index", 0))
            if len(results) != len(request.documents):
                raise NonsenseAnswer("scores do not match the documents")
            usage = answer.get("usage") or {}
            return Ranking(tuple(float(item["relevance_score"]) for item in results), int(usage.get("total_tokens") or 0))

    async def get(self, path: str) -> Json:
        """A JSON answer."""
        return await self._json("GET", path, None)

    async def post(self, path: str, body: Json) -> Json:
        """A JSON answer to a JSON request."""
        return await self._json("POST", path, body)

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        await self._transport.close()

    async def _json(self, method: str, path: str, body: Json | None) -> Json:
        response = await self._transport.send(method, path, None if body is None else orjson.dumps(body))
        try:
            answer = _parse(await _whole(response))
        finally:
            response.close()
        if response.status >= 300:
            raise openai_body.error_of(answer, response.status)
        if not isinstance(answer, dict):
            raise NonsenseAnswer(str(answer)[:200])
        return answer

    async def _stream(self, path: str, body: Json, reader: openai_body.EventReader) -> AsyncGenerator[GenerationEvent, None]:
        splitter = SseSplitter()
        answer = await self._transport.send("POST", path, orjson.dumps(body))
        try:
            if answer.status >= 300:
                raise openai_body.error_of(_parse(await _whole(answer)), answer.status)
            while piece := await answer.read():
                self._on_progress()
                for data in splitter.feed(piece):
                    if data != b"[DONE]":
                        for event in _events(reader, data):
                            yield event
        except EventTooLarge as error:
            raise NonsenseAnswer(str(error)) from error
        finally:
            answer.close()
        with _sensible():
            finished = reader.finish()
        if finished is None:
            raise ConnectionLost("The connection was lost: {problem}", problem="the answer ended too early")
        yield finished


@contextmanager
def _sensible() -> Iterator[None]:
    """JSON of another shape than agreed is the other side's fault, whatever it trips over here."""
    try:
        yield
    except NONSENSE as error:
        raise NonsenseAnswer(repr(error)[:200]) from error


def _events(reader: openai_body.EventReader, data: bytes) -> list[GenerationEvent]:
    try:
        return reader.read(orjson.loads(data))
    except NONSENSE as error:
        raise NonsenseAnswer(repr(error)[:200]) from error


async def _whole(answer: Answer) -> bytes:
    pieces, num_bytes = [], 0
    while piece := await answer.read():
        pieces.append(piece)
        num_bytes += len(piece)
        if num_bytes > MAX_ANSWER_BYTES:
            raise NonsenseAnswer(Phrase("over {limit} bytes", limit=MAX_ANSWER_BYTES))
    return b"".join(pieces)


def _reader(request: ChatRequest | CompletionRequest) -> openai_body.EventReader:
    return openai_body.EventReader(request.num_choices, request.top_logprobs, request.limits.stop)


def _parse(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:500].decode("utf-8", "replace")
