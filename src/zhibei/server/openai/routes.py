"""OpenAI's routes: HTTP only. What the fields mean is in ``translate``, what the replies look like in ``replies``."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from zhibei.app import App
from zhibei.models import StoredModel
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import ask_of
from zhibei.server.json_route import JsonRoute
from zhibei.server.openai import replies, schema, translate
from zhibei.server.openai.replies import ChatChunks, CompletionChunks, Head, Whole
from zhibei.server.streams import EventStream, WholeAnswer

IGNORED_HEADER = "x-zhibei-ignored"
UNENFORCED_HEADER = "x-zhibei-unenforced"

ACCESS: AccessRules = {
    ("GET", "/v1/models"): Access("read"),
    ("GET", "/v1/models/{name:path}"): Access("read"),
    ("POST", "/v1/chat/completions"): Access("chat"),
    ("POST", "/v1/completions"): Access("chat"),
    ("POST", "/v1/embeddings"): Access("chat"),
    ("GET", "/health"): Access(None),
}

_log = logging.getLogger("zhibei.server")
_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with stream, server-sent events.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
}
_WHOLE: dict[int | str, dict[str, Any]] = {200: {"description": "The answer.", "content": {"application/json": {}}}}


def router(app: App) -> APIRouter:
    """The routes, for one App."""
    routes = APIRouter(route_class=JsonRoute, tags=["OpenAI"])

    @routes.get("/v1/models", responses=_WHOLE)
    async def list_models() -> Response:
        """The models on this machine."""
        models = await asyncio.to_thread(app.library.list)
        data = [_model_json(model) for model in models if model.problem is None]
        return _json({"object": "list", "data": data})

    @routes.get("/v1/models/{name:path}", responses=_WHOLE)
    async def show_model(name: str) -> Response:
        """One model."""
        generation.check_model(app.settings.server, name)
        return _json(_model_json(await asyncio.to_thread(app.library.resolve, name)))

    @routes.post("/v1/chat/completions", responses=_STREAMED)
    async def chat_completions(body: schema.ChatBody, request: Request) -> Response:
        """Continue a conversation."""
        asked, wanted = translate.asked(body), translate.chat_request(body, own=_is_own(request))
        head = _head("chatcmpl-", body, request, wanted.num_choices)
        events = generation.chat(app, ask_of(request), asked.model, wanted, asked.options)
        headers = _headers(asked.ignored, translate.unenforced_conditions(wanted.response_format))
        if body.stream:
            return EventStream(events, ChatChunks(head), headers)
        return WholeAnswer(lambda: Whole(head).chat(events), headers)

    @routes.post("/v1/completions", responses=_STREAMED)
    async def completions(body: schema.CompletionBody, request: Request) -> Response:
        """Continue raw text."""
        asked, wanted = translate.asked(body), translate.completion_requests(body, own=_is_own(request))
        head = _head("cmpl-", body, request, sum(each.num_choices for each in wanted))
        events = generation.complete(app, ask_of(request), asked.model, wanted, asked.options, echo=body.echo or False)
        if body.stream:
            return EventStream(events, CompletionChunks(head), _headers(asked.ignored))
        return WholeAnswer(lambda: Whole(head).completion(events), _headers(asked.ignored))

    @routes.post("/v1/embeddings", responses=_WHOLE)
    async def embeddings(body: schema.EmbeddingBody, request: Request) -> Response:
        """Turn texts into vectors."""
        asked, wanted = translate.asked(body), translate.embedding_request(body)

        async def work() -> bytes:
            found = await generation.embed(app, ask_of(request), asked.model, wanted, asked.options)
            length = len(found.vectors[0])
            if body.dimensions not in (None, length):
                raise translate.wrong_dimensions(body.dimensions, length)
            return replies.embeddings_body(found, asked.model, as_base64=body.encoding_format == "base64")

        return WholeAnswer(work, _headers(asked.ignored))

    @routes.get("/health", responses=_WHOLE, tags=["Server"])
    async def health() -> Response:
        """Whether the server takes requests."""
        return _json({"status": "ok"})

    return routes


def _head(prefix: str, body: schema.SamplingBody, request: Request, num_choices: int) -> Head:
    options = body.stream_options
    return Head(
        id=replies.new_id(prefix),
        created=int(time.time()),
        model=body.model,
        num_choices=num_choices,
        include_usage=options is not None and bool(options.include_usage),
        own=_is_own(request),
    )


def _is_own(request: Request) -> bool:
    return ask_of(request).detail


def _headers(ignored: tuple[str, ...], unenforced: tuple[str, ...] = ()) -> dict[str, str]:
    headers: dict[str, str] = {}
    if ignored:
        _log.info("fields that nobody here knows were ignored: %s", ", ".join(ignored))
        headers[IGNORED_HEADER] = ",".join(ignored)
    if unenforced:
        headers[UNENFORCED_HEADER] = ",".join(unenforced)
    return headers


def _model_json(model: StoredModel) -> dict[str, Any]:
    info = model.info
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.added_at.timestamp()),
        "owned_by": "zhibei",
        "zhibei": {
            "size_bytes": model.size_bytes,
            "quantisation": info.quantisation if info else None,
            "context_length": info.context_length if info else None,
            "num_parameters": info.num_parameters if info else None,
        },
    }


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
