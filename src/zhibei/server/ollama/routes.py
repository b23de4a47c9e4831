"""Ollama's routes that run models. HTTP only: fields get their meaning in ``translate``, replies their form in ``replies``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from zhibei.app import App
from zhibei.chat import CompletionRequest, EmbeddingRequest
from zhibei.errors import Unsupported
from zhibei.events import GenerationEvent
from zhibei.models import StoredModel
from zhibei.runtime.naming import wishes_of
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import Ask, ask_of
from zhibei.server.json_route import JsonRoute
from zhibei.server.ollama import embeddings, model_routes, replies, schema, translate, work
from zhibei.server.ollama.listing import can_think, template_of
from zhibei.server.ollama.replies import Course, Kind, Lines, Whole
from zhibei.server.ollama.translate import Asked
from zhibei.server.reported import reported
from zhibei.server.shortening import TRUNCATED_HEADER
from zhibei.server.streams import EventStream, WholeAnswer

ACCESS: AccessRules = {
    **model_routes.ACCESS,
    ("POST", "/api/generate"): Access("chat", may_be_untyped=True),
    ("POST", "/api/chat"): Access("chat", may_be_untyped=True),
    ("POST", "/api/embed"): Access("chat", may_be_untyped=True),
    ("POST", "/api/embeddings"): Access("chat", may_be_untyped=True),
}

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; unless stream is false, one JSON object a line.",
        "content": {"application/json": {}, "application/x-ndjson": {}},
    }
}
WHOLE: dict[int | str, dict[str, Any]] = {200: {"description": "The answer.", "content": {"application/json": {}}}}


def router(app: App) -> APIRouter:
    """The routes, for one App."""
    routes = APIRouter(route_class=JsonRoute, tags=["Ollama"])
    _add_generation(routes, app)
    _add_embedding(routes, app)
    model_routes.add(routes, app)
    return routes


def _add_generation(routes: APIRouter, app: App) -> None:
    @routes.post("/api/generate", responses=STREAMED)
    async def generate(body: schema.GenerateBody, request: Request) -> Response:
        """Answer a prompt. Without one, load or unload the model."""
        asked, course, ask = translate.asked(body), Course(), ask_of(request)
        has_words = bool(body.prompt or body.images or body.context)
        if asked.thinks and (has_words or not asked.unloads):
            await _check_thinking(app, ask, asked.model)
        if not has_words:
            translate.refuse_template(body)
            return await _without_words(app, ask, asked, "generate", course)
        events, ignored = await _answers(app, ask, asked, body, course)
        return _generation(events, asked, "generate", course, stream=body.stream, ignored=ignored)

    @routes.post("/api/chat", responses=STREAMED)
    async def chat(body: schema.ChatBody, request: Request) -> Response:
        """Continue a conversation. Without messages, load or unload the model."""
        asked, course, ask = translate.asked(body), Course(), ask_of(request)
        wanted = translate.chat_request(body)
        if asked.thinks and (body.messages or not asked.unloads):
            await _check_thinking(app, ask, asked.model)
        if not body.messages:
            return await _without_words(app, ask, asked, "chat", course)
        events = work.chat(app, ask, asked, wanted, course)
        return _generation(events, asked, "chat", course, stream=body.stream)


def _add_embedding(routes: APIRouter, app: App) -> None:
    @routes.post("/api/embed", responses=WHOLE)
    async def embed(body: schema.EmbedBody, request: Request) -> Response:
        """Turn texts into vectors of length one."""
        asked, course = translate.asked(body), Course()
        wanted = translate.embedding_request(body)

        async def answer() -> bytes:
            found = await embeddings.embed(app, ask_of(request), asked, wanted, course, cuts=bool(body.truncate))
            return embeddings.embed_body(found, asked.model, course, body.dimensions)

        return WholeAnswer(answer, _headers(asked, course))

    @routes.post("/api/embeddings", responses=WHOLE)
    async def embed_one(body: schema.EmbeddingsBody, request: Request) -> Response:
        """Turn a text into a vector; embed took its place."""
        asked, course = translate.asked(body), Course()
        wanted = EmbeddingRequest((body.prompt,) if body.prompt else ())

        async def answer() -> bytes:
            found = await embeddings.embed(app, ask_of(request), asked, wanted, course, cuts=False)
            return embeddings.one_body(found)

        return WholeAnswer(answer, _headers(asked, course))


async def _answers(
    app: App, ask: Ask, asked: Asked, body: schema.GenerateBody, course: Course
) -> tuple[AsyncGenerator[GenerationEvent, None], tuple[str, ...]]:
    """The answer to a prompt, and the fields that have no meaning for the way it is given."""
    if body.raw or body.suffix:
        unheard = ("think",) if body.think else ()
        return work.complete(app, ask, asked, translate.completion_request(body), course), unheard
    if body.context:

        def continued(tokens: tuple[int, ...]) -> CompletionRequest:
            return translate.completion_request(body, tokens)

        continued(())  # what is wrong with it is said before anything is loaded
        turn = translate.generate_request(body)
        ignored = tuple(name for name in ("system", "think") if getattr(body, name))
        return work.proceed(app, ask, asked, tuple(body.context), turn, continued, course), ignored
    if not body.images and not _has_template(app, await _stored(app, ask, asked.model)):
        return work.complete(app, ask, asked, translate.completion_request(body), course), ()
    return work.prompt(app, ask, asked, translate.generate_request(body), course), ()


async def _stored(app: App, ask: Ask, name: str) -> StoredModel:
    generation.check_model(app, ask, name)
    return await asyncio.to_thread(app.pool.find, name)


async def _check_thinking(app: App, ask: Ask, name: str) -> None:
    """Raise Unsupported, in Ollama's words, if the model is asked to think and cannot. Nothing is loaded."""
    stored = await _stored(app, ask, name)
    template = wishes_of(app.settings, stored, name).load.chat_template
    if not await asyncio.to_thread(can_think, stored, template):
        raise Unsupported(
            '"{model}" does not support thinking.', hint="Leave out think, or set it to false.", param="think", model=name
        )


def _has_template(app: App, model: StoredModel) -> bool:
    """Whether prompts are turns of a chat. A base model's are continued as they stand."""
    if model.info is None or model.info.format != "gguf" or app.settings.load.chat_template is not None:
        return True
    return template_of(model) is not None


async def _without_words(app: App, ask: Ask, asked: Asked, kind: Kind, course: Course) -> Response:
    if asked.unloads:
        stored = await _stored(app, ask, asked.model)

        async def unload() -> bytes:
            if any(resident.name == stored.name for resident in app.pool.residents()):
                await app.pool.stop(stored.name)
            return replies.nothing_said(asked.model, kind, "unload", course)

        return WholeAnswer(unload, reported(asked.ignored))

    async def load() -> bytes:
        await work.load(app, ask, asked, course)
        return replies.nothing_said(asked.model, kind, "load", course)

    return WholeAnswer(load, reported(asked.ignored))


def _generation(
    events: AsyncGenerator[GenerationEvent, None],
    asked: Asked,
    kind: Kind,
    course: Course,
    *,
    stream: bool | None,
    ignored: tuple[str, ...] = (),
) -> Response:
    headers = _headers(asked, course, ignored)
    if stream is False:
        return WholeAnswer(lambda: Whole(asked.model, kind, course).body(events), headers)
    return EventStream(events, Lines(asked.model, kind, course), headers)


def _headers(asked: Asked, course: Course, ignored: tuple[str, ...] = ()) -> Callable[[], Mapping[str, str]]:
    """Headers that can only be known once the work has begun."""
    known = reported((*asked.ignored, *ignored))

    def found() -> Mapping[str, str]:
        cut = ",".join(f"{name}={count}" for name, count in course.cut.items())
        return {**known, TRUNCATED_HEADER: cut} if cut else known

    return found
