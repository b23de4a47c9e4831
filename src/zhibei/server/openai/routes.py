"""OpenAI's routes: HTTP only. What the fields mean is in ``translate``, what the replies look like in ``replies``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from zhibei.app import App, pull_options
from zhibei.runtime.naming import aliases_of, target_of
from zhibei.server import generation, listing
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import ask_of
from zhibei.server.errors import NotYet
from zhibei.server.image_fetch import fetch_images
from zhibei.server.json_route import JsonRoute
from zhibei.server.openai import replies, schema, translate
from zhibei.server.openai.replies import ChatChunks, CompletionChunks, Head, Whole
from zhibei.server.openai.responses import routes as responses
from zhibei.server.replying import WHOLE, as_json, streamed
from zhibei.server.reported import reported, unenforced_conditions
from zhibei.server.streams import EventStream, WholeAnswer
from zhibei.server.unnamed import meant_model

ANTHROPIC_HEADER = "anthropic-version"
RERANK_PATHS = ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking")
LATER_PATHS = (
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/audio/speech",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/images/variations",
    "/v1/moderations",
)

ACCESS: AccessRules = {
    ("GET", "/v1/models"): Access("read"),
    ("GET", "/v1/models/{name:path}"): Access("read"),
    ("POST", "/v1/chat/completions"): Access("chat"),
    ("POST", "/v1/completions"): Access("chat"),
    ("POST", "/v1/embeddings"): Access("chat"),
    **{("POST", path): Access("chat") for path in RERANK_PATHS},
    **{("POST", path): Access("chat", body="file") for path in LATER_PATHS},
    **responses.ACCESS,
    ("GET", "/health"): Access(None),
}
_STREAMED = streamed("The answer")


def router(app: App) -> APIRouter:
    """The routes, for one App."""
    routes = APIRouter(route_class=JsonRoute, tags=["OpenAI"])
    _add_models(routes, app)
    _add_generation(routes, app)
    _add_vectors(routes, app)
    responses.add_routes(routes, app)
    for path in LATER_PATHS:
        routes.add_api_route(path, _later, methods=["POST"], responses=WHOLE)

    @routes.get("/health", responses=WHOLE, tags=["Server"])
    async def health() -> Response:
        """Whether the server takes requests."""
        return as_json({"status": "ok"})

    return routes


def _add_models(routes: APIRouter, app: App) -> None:
    @routes.get("/v1/models", responses=WHOLE)
    async def list_models(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
        after_id: Annotated[str | None, Query(max_length=2048)] = None,
        before_id: Annotated[str | None, Query(max_length=2048)] = None,
    ) -> Response:
        """The models that can be used. With the header ``anthropic-version`` in Anthropic's shape, in pages."""
        models, aliases = await app.all_models(), aliases_of(app.settings)
        if ANTHROPIC_HEADER in request.headers:
            return as_json(listing.anthropic_list(models, aliases, listing.Page(limit, after_id, before_id)))
        return as_json({"object": "list", "data": listing.listed(models, aliases, app.pool.residents())})

    @routes.get("/v1/models/{name:path}", responses=WHOLE)
    async def show_model(name: str, request: Request) -> Response:
        """One model."""
        target = target_of(app.settings, name)
        generation.check_model(app, ask_of(request), target or name)
        model = await asyncio.to_thread(app.resolve, target or name)
        alias = name if target is not None else None
        if ANTHROPIC_HEADER in request.headers:
            return as_json(listing.anthropic_entry(model, alias or model.name))
        return as_json(listing.entry(model, app.pool.residents(), alias))


def _add_generation(routes: APIRouter, app: App) -> None:
    @routes.post("/v1/chat/completions", responses=_STREAMED)
    async def chat_completions(body: schema.ChatBody, request: Request) -> Response:
        """Continue a conversation."""
        asked = await _asked(app, body)
        urls = tuple(translate.image_urls(body))
        images = await fetch_images(urls, pull_options(app.settings).fetch) if urls else {}
        wanted = translate.chat_request(body, own=_is_own(request), images=images)
        head = _head("chatcmpl-", asked.model, body, request, wanted.num_choices)
        events = generation.chat(app, ask_of(request), asked.model, wanted, asked.options)
        headers = reported(asked.ignored, unenforced_conditions(wanted.response_format))
        if body.stream:
            return EventStream(events, ChatChunks(head), headers)
        return WholeAnswer(lambda: Whole(head).chat(events), headers)

    @routes.post("/v1/completions", responses=_STREAMED)
    async def completions(body: schema.CompletionBody, request: Request) -> Response:
        """Continue raw text."""
        asked, wanted = await _asked(app, body), translate.completion_requests(body, own=_is_own(request))
        head = _head("cmpl-", asked.model, body, request, sum(each.num_choices for each in wanted))
        events = generation.complete(app, ask_of(request), asked.model, wanted, asked.options, echo=body.echo or False)
        if body.stream:
            return EventStream(events, CompletionChunks(head), reported(asked.ignored))
        return WholeAnswer(lambda: Whole(head).completion(events), reported(asked.ignored))


def _add_vectors(routes: APIRouter, app: App) -> None:
    @routes.post("/v1/embeddings", responses=WHOLE)
    async def embeddings(body: schema.EmbeddingBody, request: Request) -> Response:
        """Turn texts into vectors."""
        asked, wanted = translate.asked(body), translate.embedding_request(body)

        async def work() -> bytes:
            found = await generation.embed(app, ask_of(request), asked.model, wanted, asked.options)
            length = len(found.vectors[0])
            if body.dimensions not in (None, length):
                raise translate.wrong_dimensions(body.dimensions, length)
            return replies.embeddings_body(found, asked.model, as_base64=body.encoding_format == "base64")

        return WholeAnswer(work, reported(asked.ignored))

    async def rerank(body: schema.RerankBody, request: Request) -> Response:
        """Sort documents by how well they answer a query."""
        asked, wanted = translate.asked(body), translate.rerank_request(body)

        async def work() -> bytes:
            found = await generation.rerank(app, ask_of(request), asked.model, wanted, asked.options)
            documents = wanted.documents if body.return_documents else None
            return replies.ranking_body(found, asked.model, documents, body.top_n)

        return WholeAnswer(work, reported(asked.ignored))

    for path in RERANK_PATHS:
        routes.add_api_route(path, rerank, methods=["POST"], responses=WHOLE)


async def _later(request: Request) -> Response:
    """Reserved: this is not built yet. The body is not read."""
    raise NotYet(
        "{path} does not work yet: this server only reads and writes text, so far.",
        hint="Use another server for speech, images and moderation.",
        path=request.url.path,
    )


async def _asked(app: App, body: schema.SamplingBody) -> translate.Asked:
    """What is asked for; front ends made for KoboldCpp or llama.cpp's server name no model here."""
    asked = translate.asked(body)
    return asked if asked.model else replace(asked, model=await meant_model(app, None))


def _head(prefix: str, model: str, body: schema.SamplingBody, request: Request, num_choices: int) -> Head:
    options = body.stream_options
    return Head(
        id=replies.new_id(prefix),
        created=int(time.time()),
        model=model,
        num_choices=num_choices,
        include_usage=options is not None and bool(options.include_usage),
        own=_is_own(request),
    )


def _is_own(request: Request) -> bool:
    return ask_of(request).detail
