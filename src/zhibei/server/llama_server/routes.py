"""What llama.cpp's server has beside OpenAI's API, and the token routes of other servers. HTTP only."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from zhibei import __version__
from zhibei.app import App
from zhibei.models import StoredModel
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import Ask, ask_of
from zhibei.server.body import ignored_fields
from zhibei.server.errors import NotOffered
from zhibei.server.json_route import JsonRoute
from zhibei.server.llama_server import catalogue, generate, messages, model_routes, replies, schema, token_routes, translate
from zhibei.server.replying import WHOLE, as_json, streamed
from zhibei.server.reported import reported, unenforced_conditions
from zhibei.server.streams import EventStream, WholeAnswer
from zhibei.server.unnamed import context_size, meant_model, resident, stored_model
from zhibei.service import RunOptions

ACCESS: AccessRules = {
    ("POST", "/completion"): Access("chat"),
    ("POST", "/completions"): Access("chat"),
    ("POST", "/infill"): Access("chat"),
    ("POST", "/apply-template"): Access("chat"),
    ("POST", "/embedding"): Access("chat"),
    ("POST", "/embeddings"): Access("chat"),
    ("GET", "/props"): Access("read"),
    ("POST", "/props"): Access("admin"),
    ("GET", "/slots"): Access("read"),
    ("POST", "/slots/{number}"): Access("admin"),
    ("GET", "/lora-adapters"): Access("read"),
    ("POST", "/lora-adapters"): Access("admin"),
    ("GET", "/v1/health"): Access(None),
    ("GET", "/version"): Access("read"),
    **token_routes.ACCESS,
    **model_routes.ACCESS,
}

_STREAMED = streamed("The answer")


def router(app: App) -> APIRouter:
    """The routes, for one App."""
    routes = APIRouter(route_class=JsonRoute, tags=["llama-server"])
    _add_completions(routes, app)
    _add_others(routes, app)
    _add_server(routes, app)
    _add_refusals(routes)
    token_routes.add(routes, app)
    model_routes.add(routes, app)
    return routes


def _add_completions(routes: APIRouter, app: App) -> None:
    async def answer(wanted: translate.Wanted, body: schema.SamplingBody, request: Request) -> Response:
        course = generate.Course()
        headers = reported(wanted.ignored, unenforced_conditions(wanted.response_format))
        events = generate.complete(app, ask_of(request), await meant_model(app, body.model), wanted, course)
        if body.stream:
            return EventStream(events, replies.CompletionChunks(wanted, course), headers)
        return WholeAnswer(lambda: replies.whole(wanted, course, events), headers)

    @routes.post("/completion", responses=_STREAMED)
    @routes.post("/completions", responses=_STREAMED)
    async def completion(body: schema.CompletionBody, request: Request) -> Response:
        """Continue raw text."""
        return await answer(translate.completion(body), body, request)

    @routes.post("/infill", responses=_STREAMED)
    async def infill(body: schema.InfillBody, request: Request) -> Response:
        """Fill the gap between two texts."""
        return await answer(translate.infill(body), body, request)


def _add_others(routes: APIRouter, app: App) -> None:
    @routes.post("/apply-template", responses=WHOLE)
    async def apply_template(body: schema.TemplateBody, request: Request) -> Response:
        """The prompt that a chat would become."""
        ask, model = ask_of(request), await meant_model(app, body.model)
        wanted = messages.chat_request(body.messages, body.tools or ())

        async def work() -> bytes:
            async with generation.lease(app, ask, model) as engine:
                return orjson.dumps({"prompt": await engine.render(wanted)})

        return WholeAnswer(work, reported(ignored_fields(body)))

    @routes.post("/embedding", responses=WHOLE)
    @routes.post("/embeddings", responses=WHOLE)
    async def embedding(body: schema.EmbeddingBody, request: Request) -> Response:
        """Turn texts into vectors."""
        ask, model = ask_of(request), await meant_model(app, body.model, "embed")
        wanted = translate.embedding_request(body)

        async def work() -> bytes:
            return orjson.dumps(replies.embeddings_json(await generation.embed(app, ask, model, wanted, RunOptions())))

        return WholeAnswer(work, reported(ignored_fields(body)))


def _add_server(routes: APIRouter, app: App) -> None:
    @routes.get("/props", responses=WHOLE)
    async def props(request: Request, model: str | None = Query(None, max_length=2048)) -> Response:
        """What a front end wants to know of the model."""
        found = await _stored(app, ask_of(request), model)
        loaded = resident(app, found.name)
        return as_json(catalogue.properties(found, await context_size(app, found), loaded))

    @routes.get("/slots", responses=WHOLE)
    async def slots(request: Request, model: str | None = Query(None, max_length=2048)) -> Response:
        """The places for requests of a loaded model; what is in them is not shown."""
        found = await _stored(app, ask_of(request), model)
        return as_json(catalogue.slots(resident(app, found.name)))

    @routes.get("/lora-adapters", responses=WHOLE)
    async def lora_adapters() -> Response:
        """The adapters of the settings."""
        return as_json(catalogue.adapters(app.settings.load.lora))

    @routes.get("/v1/health", responses=WHOLE)
    async def health() -> Response:
        """Whether the server takes requests."""
        return as_json({"status": "ok"})

    @routes.get("/version", responses=WHOLE)
    async def version() -> Response:
        """Which version of Zhibei this is."""
        return as_json({"version": __version__})


def _add_refusals(routes: APIRouter) -> None:
    @routes.post("/props", include_in_schema=False)
    async def set_props() -> Response:
        """Not offered."""
        raise NotOffered("Requests cannot change the properties of the server.", hint="Change its settings.")

    @routes.post("/slots/{number}", include_in_schema=False)
    async def slot_action(number: str) -> Response:
        """Not offered."""
        raise NotOffered(
            "Slots cannot be saved, restored or erased by requests.", hint="Prompts are kept and reused by themselves."
        )

    @routes.post("/lora-adapters", include_in_schema=False)
    async def set_adapters() -> Response:
        """Not offered."""
        raise NotOffered("Adapters cannot be set by a request.", hint="Set them on the server, with --lora.")


async def _stored(app: App, ask: Ask, name: str | None) -> StoredModel:
    model = await meant_model(app, name)
    generation.check_model(app, ask, model)
    return await stored_model(app, model)
