"""Zhibei's own routes: library, pulls and pool over HTTP, for the CLI and the Python API. HTTP only."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from zhibei import __version__
from zhibei.app import App
from zhibei.local import LocalService
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import ask_of
from zhibei.server.json_route import JsonRoute
from zhibei.server.loading import keep_alive, load_options
from zhibei.server.native import machine_routes, pull_routes, schema, watching_routes
from zhibei.server.native.allowed import check_source
from zhibei.server.native.following import Feed
from zhibei.server.native.replying import LINES, WHOLE
from zhibei.server.native.translate import PullLines, body
from zhibei.server.streams import EventStream, WholeAnswer
from zhibei.service import RunOptions
from zhibei.wire import NATIVE_PREFIX

ACCESS: AccessRules = {
    ("GET", f"{NATIVE_PREFIX}/version"): Access("read"),
    ("GET", f"{NATIVE_PREFIX}/models"): Access("read"),
    ("GET", f"{NATIVE_PREFIX}/models/{{name:path}}"): Access("read"),
    ("DELETE", f"{NATIVE_PREFIX}/models/{{name:path}}"): Access("admin"),
    ("POST", f"{NATIVE_PREFIX}/models/copy"): Access("admin"),
    ("POST", f"{NATIVE_PREFIX}/pull"): Access("admin"),
    ("GET", f"{NATIVE_PREFIX}/leftovers"): Access("read"),
    ("POST", f"{NATIVE_PREFIX}/prune"): Access("admin"),
    ("POST", f"{NATIVE_PREFIX}/verify"): Access("admin"),
    ("POST", f"{NATIVE_PREFIX}/repair"): Access("admin"),
    ("POST", f"{NATIVE_PREFIX}/update"): Access("admin"),
    ("GET", f"{NATIVE_PREFIX}/ps"): Access("read"),
    ("POST", f"{NATIVE_PREFIX}/stop"): Access("admin"),
    ("POST", f"{NATIVE_PREFIX}/tokenize"): Access("chat"),
    ("POST", f"{NATIVE_PREFIX}/detokenize"): Access("chat"),
    **pull_routes.ACCESS,
    **machine_routes.ACCESS,
    **watching_routes.ACCESS,
}


def router(app: App) -> APIRouter:
    """The routes, for one App."""
    routes = APIRouter(prefix=NATIVE_PREFIX, route_class=JsonRoute, tags=["Zhibei"])
    service = LocalService(app)
    _add_library(routes, app, service)
    _add_upkeep(routes, app, service)
    _add_pool(routes, app, service)
    feed = Feed()
    pull_routes.add(routes, app, service, feed)
    machine_routes.add(routes, app)
    watching_routes.add(routes, app, service, feed)
    return routes


def _add_library(routes: APIRouter, app: App, service: LocalService) -> None:
    @routes.get("/version", responses=WHOLE)
    async def version() -> Response:
        """Who answers."""
        return _json(orjson.dumps({"name": "zhibei", "version": __version__, "instance": app.instance}))

    @routes.get("/models", responses=WHOLE)
    async def list_models(here: bool = False) -> Response:
        """The models on this machine, broken ones included, and those of other servers unless only what is here is asked for."""
        return _json(body(await (asyncio.to_thread(app.library.list) if here else service.list_models())))

    @routes.post("/models/copy", responses=WHOLE)
    async def copy_model(asked: schema.CopyBody) -> Response:
        """Give a model a second name."""
        await service.copy_model(asked.source, asked.target)
        return _json(b"{}")

    @routes.get("/models/{name:path}", responses=WHOLE)
    async def show_model(name: str, request: Request) -> Response:
        """One model."""
        generation.check_model(app, ask_of(request), name)
        return _json(body(await service.show_model(name)))

    @routes.delete("/models/{name:path}", responses=WHOLE)
    async def remove_model(name: str) -> Response:
        """Remove a model."""
        await service.remove_model(name)
        return _json(b"{}")

    @routes.post("/pull", responses=LINES)
    async def pull(asked: schema.PullBody) -> Response:
        """Fetch or import a model. A client that leaves stops the pull; the same pull later goes on where it was."""
        check_source(app, asked.ref)
        return EventStream(service.pull(asked.ref, name=asked.name, copy=asked.copy_file), PullLines())


def _add_upkeep(routes: APIRouter, app: App, service: LocalService) -> None:
    @routes.get("/leftovers", responses=WHOLE)
    async def leftovers(partial_only: bool = False) -> Response:
        """What belongs to no model: blobs, and downloads that were cut off."""
        return _json(body(await service.leftovers(partial_only=partial_only)))

    @routes.post("/prune", responses=WHOLE)
    async def prune(asked: schema.EmptyBody) -> Response:
        """Remove what belongs to no model."""
        return _json(body(await service.prune()))

    @routes.post("/verify", responses=LINES)
    async def verify(asked: schema.VerifyBody) -> Response:
        """Read models again and compare them with their digests."""
        return EventStream(service.verify(asked.names), PullLines())

    @routes.post("/repair", responses=LINES)
    async def repair(asked: schema.NameBody) -> Response:
        """Read a model again and fetch what is wrong of it."""
        check_source(app, (await service.show_any(asked.name)).source)
        return EventStream(service.repair(asked.name), PullLines())

    @routes.post("/update", responses=LINES)
    async def update(asked: schema.NameBody) -> Response:
        """Fetch a model's newer version from where it came."""
        check_source(app, (await service.show_any(asked.name)).source)
        return EventStream(service.update(asked.name), PullLines())


def _add_pool(routes: APIRouter, app: App, service: LocalService) -> None:
    @routes.get("/ps", responses=WHOLE)
    async def residents() -> Response:
        """The running models."""
        return _json(body(await service.residents()))

    @routes.post("/stop", responses=WHOLE)
    async def stop_model(asked: schema.StopBody) -> Response:
        """Unload a running model."""
        return WholeAnswer(lambda: _nothing(service.stop_model(asked.name)))

    @routes.post("/tokenize", responses=WHOLE)
    async def tokenize(asked: schema.TokenizeBody, request: Request) -> Response:
        """Token ids of a text."""
        generation.check_model(app, ask_of(request), asked.model)

        async def work() -> bytes:
            return orjson.dumps({"tokens": await service.tokenize(asked.model, asked.text, _options(asked))})

        return WholeAnswer(work)

    @routes.post("/detokenize", responses=WHOLE)
    async def detokenize(asked: schema.DetokenizeBody, request: Request) -> Response:
        """Text of token ids."""
        generation.check_model(app, ask_of(request), asked.model)

        async def work() -> bytes:
            return orjson.dumps({"text": await service.detokenize(asked.model, tuple(asked.tokens), _options(asked))})

        return WholeAnswer(work)


def _options(asked: schema.ModelBody) -> RunOptions:
    return RunOptions(load_options(asked.load), keep_alive(asked.keep_alive))


async def _nothing(work: Coroutine[Any, Any, None]) -> bytes:
    await work
    return b"{}"


def _json(data: bytes) -> Response:
    return Response(data, media_type="application/json")
