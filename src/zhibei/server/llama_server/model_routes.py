"""Models by the paths of llama-server's router, tabbyAPI and oobabooga's: listed, loaded, unloaded, watched. HTTP only."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from zhibei.app import App
from zhibei.local import LocalService
from zhibei.planner.fit import task_of
from zhibei.runtime.naming import settings_of
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import ask_of
from zhibei.server.errors import NotOffered
from zhibei.server.llama_server import catalogue, schema
from zhibei.server.native.following import until_stopping
from zhibei.server.replying import WHOLE, as_json
from zhibei.server.streams import EventStream, WholeAnswer
from zhibei.server.unnamed import context_size, meant_model, status_of, stored_model

ACCESS: AccessRules = {
    ("GET", "/models"): Access("read"),
    ("POST", "/models"): Access("admin"),
    ("DELETE", "/models"): Access("admin"),
    ("POST", "/models/load"): Access("admin"),
    ("POST", "/models/unload"): Access("admin"),
    ("GET", "/models/sse"): Access("read"),
    ("GET", "/v1/model"): Access("read"),
    ("GET", "/v1/model/list"): Access("read"),
    ("GET", "/v1/auth/permission"): Access("read"),
    ("GET", "/v1/internal/model/info"): Access("read"),
    ("GET", "/v1/internal/model/list"): Access("read"),
    ("POST", "/v1/internal/stop-generation"): Access("chat"),
}

_STREAM: dict[int | str, dict[str, Any]] = {200: {"description": "Changes as they come.", "content": {"text/event-stream": {}}}}


def add(routes: APIRouter, app: App) -> None:
    """Add the routes."""
    _add_router(routes, app)
    _add_changes(routes, app)
    _add_tabby(routes, app)
    _add_refusals(routes)


def _add_router(routes: APIRouter, app: App) -> None:
    @routes.get("/models", responses=WHOLE)
    async def list_models() -> Response:
        """The models, and which of them are loaded. The store is read each time, so ``reload`` changes nothing."""
        data = [
            catalogue.entry(model, status_of(app, model.name), settings_of(app.settings, model.name).aliases)
            for model in await app.all_models()
            if model.problem is None
        ]
        return as_json({"object": "list", "data": data})

    @routes.post("/models/load", responses=WHOLE)
    async def load_model(body: schema.LoadModelBody, request: Request) -> Response:
        """Load a model; answered when it is loaded."""
        ask = ask_of(request)
        generation.check_model(app, ask, body.model)

        async def work() -> bytes:
            task, _ = task_of((await stored_model(app, body.model)).info, None)
            async with generation.lease(app, ask, body.model, task=task):
                return b'{"success":true}'

        return WholeAnswer(work)

    @routes.post("/models/unload", responses=WHOLE)
    async def unload_model(body: schema.LoadModelBody, request: Request) -> Response:
        """Unload a model; answered when its last request is done and its memory is free."""
        generation.check_model(app, ask_of(request), body.model)
        service = LocalService(app)

        async def work() -> bytes:
            await service.stop_model(body.model)
            return b'{"success":true}'

        return WholeAnswer(work)


def _add_changes(routes: APIRouter, app: App) -> None:
    @routes.get("/models/sse", responses=_STREAM)
    async def watch_models(request: Request) -> Response:
        """The state of each model, and each change of it as it comes."""
        names = [model.name for model in await app.all_models() if model.problem is None]
        return EventStream(until_stopping(ask_of(request), catalogue.changes(app, names)), catalogue.ChangeEvents())


def _add_tabby(routes: APIRouter, app: App) -> None:
    @routes.get("/v1/model", responses=WHOLE)
    async def show_model() -> Response:
        """The model that a request without a name gets, as tabbyAPI shows it."""
        found = await stored_model(app, await meant_model(app))
        return as_json(catalogue.tabby_card(found, await context_size(app, found)))

    @routes.get("/v1/model/list", responses=WHOLE)
    async def list_cards() -> Response:
        """The models, as tabbyAPI lists them."""
        data = [catalogue.tabby_card(model, None) for model in await app.all_models() if model.problem is None]
        return as_json({"object": "list", "data": data})

    @routes.get("/v1/auth/permission", responses=WHOLE)
    async def permission(request: Request) -> Response:
        """What the caller may do, in tabbyAPI's words."""
        return as_json({"permission": "admin" if "admin" in ask_of(request).caller.scopes else "api"})

    @routes.get("/v1/internal/model/info", responses=WHOLE)
    async def model_info() -> Response:
        """The model that a request without a name gets, as oobabooga's shows it."""
        found = await stored_model(app, await meant_model(app))
        return as_json({"model_name": found.name, "lora_names": [], "loader": "zhibei"})

    @routes.get("/v1/internal/model/list", responses=WHOLE)
    async def model_names() -> Response:
        """The models' names, as oobabooga's lists them."""
        return as_json({"model_names": [model.name for model in await app.all_models() if model.problem is None]})


def _add_refusals(routes: APIRouter) -> None:
    async def store_is_elsewhere() -> Response:
        """Not offered."""
        raise NotOffered(
            "Models are not fetched or removed by this path.", hint="Use zhibei pull and zhibei remove, or /zhibei/v1."
        )

    routes.add_api_route("/models", store_is_elsewhere, methods=["POST"], include_in_schema=False)
    routes.add_api_route("/models", store_is_elsewhere, methods=["DELETE"], include_in_schema=False)

    @routes.post("/v1/internal/stop-generation", include_in_schema=False)
    async def stop_generation() -> Response:
        """Not offered."""
        raise NotOffered(
            "Generations of others cannot be stopped.", hint="Close the connection: that ends your own, and no other."
        )
