"""Speak to anything that speaks OpenAI's API: llama.cpp's server, vLLM, a remote Zhibei. Owns the HTTP of it.

One object per upstream, one connection per call. Closing a stream closes its connection, which is how
the upstream learns that nobody listens any more.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings, Ranking, RerankRequest
from zhibei.engines import openai_body
from zhibei.engines.sse import SseSplitter
from zhibei.errors import EngineRefused, ZhibeiError
from zhibei.events import GenerationEvent

if TYPE_CHECKING:
    import aiohttp

Json = dict[str, Any]
CONNECT_TIMEOUT_S = 10.0


class ConnectionLost(ZhibeiError):
    """The connection broke, or could not be made. The caller knows what that means and raises an error of its own."""


class OpenAIUpstream:
    """A client of one base address, which ends before ``/v1``."""

    def __init__(self, address: str, key: str | None, model: str, extra: Mapping[str, Any] | None = None) -> None:
        """No connection is made yet.

        Args:
            address: like ``http://127.0.0.1:8080``.
            key: sent as a bearer token, if any.
            model: the name the upstream knows the model by.
            extra: fields added to every generation request.
        """
        self._address = address
        self._key = key
        self._model = model
        self._extra = dict(extra or {})
        self._session: aiohttp.ClientSession | None = None

    def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Events of a streamed chat completion."""
        body = openai_body.chat_body(openai_body.plainer(request), self._model) | self._extra
        return self._stream("/v1/chat/completions", body, openai_body.EventReader(request.num_choices, request.top_logprobs))

    def complete(self, request: CompletionRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Events of a streamed completion."""
        body = openai_body.completion_body(openai_body.plainer(request), self._model) | self._extra
        return self._stream("/v1/completions", body, openai_body.EventReader(request.num_choices, request.top_logprobs))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """One vector per input."""
        inputs = [item if isinstance(item, str) else list(item) for item in request.inputs]
        answer = await self.post("/v1/embeddings", {"model": self._model, "input": inputs} | self._extra)
        usage = answer.get("usage") or {}
        return Embeddings(openai_body.vectors(answer, len(inputs)), int(usage.get("prompt_tokens") or 0))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """One score per document."""
        body = {"model": self._model, "query": request.query, "documents": list(request.documents)} | self._extra
        answer = await self.post("/v1/rerank", body)
        results = sorted(answer.get("results") or (), key=lambda item: item.get("index", 0))
        if len(results) != len(request.documents):
            raise EngineRefused("The engine's answer makes no sense: {problem}", problem="scores do not match the documents")
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
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _json(self, method: str, path: str, body: Json | None) -> Json:
        import aiohttp

        try:
            data = None if body is None else orjson.dumps(body)
            async with self._connected().request(method, self._address + path, data=data) as response:
                answer = _parse(await response.read())
                if response.status >= 400:
                    raise openai_body.error_of(answer, response.status)
                if not isinstance(answer, dict):
                    raise EngineRefused("The engine's answer makes no sense: {problem}", problem=str(answer)[:200])
                return answer
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLost("The connection was lost: {problem}", problem=str(error) or type(error).__name__) from error

    async def _stream(self, path: str, body: Json, reader: openai_body.EventReader) -> AsyncGenerator[GenerationEvent, None]:
        import aiohttp

        splitter = SseSplitter()
        try:
            async with self._connected().post(self._address + path, data=orjson.dumps(body)) as response:
                if response.status >= 400:
                    raise openai_body.error_of(_parse(await response.read()), response.status)
                async for piece in response.content.iter_any():
                    for data in splitter.feed(piece):
                        if data == b"[DONE]":
                            continue
                        for event in reader.read(orjson.loads(data)):
                            yield event
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ConnectionLost("The connection was lost: {problem}", problem=str(error) or type(error).__name__) from error
        finished = reader.finish()
        if finished is None:
            raise ConnectionLost("The connection was lost: {problem}", problem="the answer ended too early")
        yield finished

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            headers = {"Content-Type": "application/json"}
            if self._key is not None:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                # A connection that was kept may be closed by the other side at the moment it is used again.
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                trust_env=False,
                auto_decompress=False,
            )
        return self._session


def _parse(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:500].decode("utf-8", "replace")
