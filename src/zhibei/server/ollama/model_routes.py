"""Ollama's routes around models: what is here, what runs, pull, create, copy, delete. HTTP only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response

from zhibei import __version__
from zhibei.app import App
from zhibei.errors import BadReference, BadRequest, ModelNotFound, StoreError, Unsupported
from zhibei.events import PullEvent
from zhibei.models import StoredModel
from zhibei.plans import Resident
from zhibei.refs import ModelName, ModelRef
from zhibei.runtime import naming
from zhibei.runtime.naming import folded
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import Ask, ask_of
from zhibei.server.body import ignored_fields
from zhibei.server.errors import BodyTooSlow
from zhibei.server.guard import BODY_TIMEOUT_S
from zhibei.server.native.allowed import check_source
from zhibei.server.ollama import creating, listing, pulling, schema
from zhibei.server.replying import WHOLE
from zhibei.server.reported import reported
from zhibei.server.streams import EventStream, WholeAnswer
from zhibei.store.digests import Digest
from zhibei.store.library import Library

# The version of Ollama whose routes these are; clients compare it with the ones they need.
OLLAMA_VERSION = "0.13.0"

ACCESS: AccessRules = {
    ("GET", "/"): Access(None),
    ("GET", "/api/version"): Access("read"),
    ("GET", "/api/tags"): Access("read"),
    ("GET", "/api/ps"): Access("read"),
    ("POST", "/api/show"): Access("read", may_be_untyped=True),
    ("POST", "/api/pull"): Access("admin", may_be_untyped=True),
    ("POST", "/api/push"): Access("admin", may_be_untyped=True),
    ("POST", "/api/create"): Access("admin", may_be_untyped=True),
    ("POST", "/api/copy"): Access("admin", may_be_untyped=True),
    ("DELETE", "/api/delete"): Access("admin", may_be_untyped=True),
    ("GET", "/api/blobs/{digest}"): Access("admin"),
    ("POST", "/api/blobs/{digest}"): Access("admin", body="file"),
}

_STATUS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What is done, one JSON object a line; with stream false, the last of them.",
        "content": {"application/json": {}, "application/x-ndjson": {}},
    }
}


def add(routes: APIRouter, app: App) -> None:
    """Add the routes, for one App."""
    _add_greeting(routes)
    _add_looking(routes, app)
    _add_fetching(routes, app)
    _add_changing(routes, app)
    _add_blobs(routes, app)


def _add_greeting(routes: APIRouter) -> None:
    @routes.head("/", include_in_schema=False)
    @routes.get("/", responses={200: {"description": "A word.", "content": {"text/plain": {}}}})
    async def greet() -> Response:
        """Say that there is somebody, in the words that Ollama's clients look for."""
        return PlainTextResponse("Ollama is running")

    @routes.head("/api/version", include_in_schema=False)
    @routes.get("/api/version", responses=WHOLE)
    async def version() -> Response:
        """Which Ollama this is like, and which Zhibei it is."""
        return _json({"version": OLLAMA_VERSION, "zhibei": __version__})


def _add_looking(routes: APIRouter, app: App) -> None:
    @routes.head("/api/tags", include_in_schema=False)
    @routes.get("/api/tags", responses=WHOLE)
    async def list_models() -> Response:
        """The models on this machine and of other servers, the newest first."""
        return Response(
            await asyncio.to_thread(_tags, await app.all_models(), naming.aliases_of(app.settings)), media_type="application/json"
        )

    @routes.get("/api/ps", responses=WHOLE)
    async def residents() -> Response:
        """The models that are loaded."""
        return Response(await asyncio.to_thread(_running, app.library, app.pool.residents()), media_type="application/json")

    @routes.post("/api/show", responses=WHOLE)
    async def show_model(body: schema.ShowBody, request: Request) -> Response:
        """What is known of a model."""
        model = await _stored(app, ask_of(request), body.model)
        shown = await asyncio.to_thread(listing.show_json, model, verbose=bool(body.verbose))
        return _json(shown, ignored_fields(body))


def _add_fetching(routes: APIRouter, app: App) -> None:
    @routes.post("/api/pull", responses=_STATUS)
    async def pull(body: schema.TransferBody) -> Response:
        """Fetch a model. A client that leaves stops the pull; the same pull later goes on where it was."""
        ignored = (*ignored_fields(body), *(("insecure",) if body.insecure else ()))
        return _status(await _pull(app, body.model), stream=body.stream, ignored=ignored)

    @routes.post("/api/push", responses=_STATUS)
    async def push(body: schema.TransferBody) -> Response:
        """Refused: nothing of this machine is published."""
        raise Unsupported(
            "Models are not published from here.",
            hint="Upload the model's files to a hub with the hub's own program.",
            param="model",
        )

    @routes.post("/api/create", responses=_STATUS)
    async def create(body: schema.CreateBody) -> Response:
        """Make a model of another one, or of uploaded files."""
        order = creating.order(body)
        ignored = (*ignored_fields(body), *(f"parameters.{name}" for name in order.ignored))
        return _status(_create(app, order), stream=body.stream, ignored=ignored)


def _add_changing(routes: APIRouter, app: App) -> None:
    @routes.post("/api/copy", responses=WHOLE)
    async def copy(body: schema.CopyBody) -> Response:
        """Give a model a second name."""
        source, target = ModelName.parse(body.source), ModelName.parse(body.destination)
        await asyncio.to_thread(app.library.copy, source, target)
        return Response()

    @routes.delete("/api/delete", responses=WHOLE)
    async def delete(body: schema.ModelBody) -> Response:
        """Remove a model."""
        await asyncio.to_thread(app.library.remove, ModelName.parse(body.model))
        return Response()


def _add_blobs(routes: APIRouter, app: App) -> None:
    @routes.head("/api/blobs/{digest}", include_in_schema=False)
    async def has_blob(digest: str) -> Response:
        """Whether a file is here."""
        found = await asyncio.to_thread(app.library.has_blob, _digest(digest))
        return Response(status_code=200 if found else 404)

    @routes.post("/api/blobs/{digest}", responses={201: {"description": "The file is here."}})
    async def receive_blob(digest: str, request: Request) -> Response:
        """Upload a file, to make a model of it. The body is the file."""
        wanted, length = _digest(digest), request.headers.get("content-length")
        pieces = _pieces(request)
        try:
            is_new = await app.library.receive(wanted, pieces, int(length) if length is not None else None)
            if not is_new:
                # A client that is cut off while it sends sees a broken connection instead of an answer.
                async for _ in pieces:
                    pass
        except ClientDisconnect:
            return Response(status_code=400)
        return Response(status_code=201 if is_new else 200)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. A client that stops sending is not waited for."""
    async with aclosing(request.stream()) as stream:
        while True:
            try:
                piece = await asyncio.wait_for(anext(stream, None), BODY_TIMEOUT_S)
            except asyncio.TimeoutError:
                raise BodyTooSlow("The request's body did not arrive within {seconds} s.", seconds=int(BODY_TIMEOUT_S)) from None
            if piece is None:
                return
            if piece:
                yield piece


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except StoreError:
        raise BadRequest("A digest is sha256: and 64 hexadecimal digits.", param="digest") from None


def _tags(all_models: Iterable[StoredModel], named: Mapping[str, str]) -> bytes:
    models = [model for model in all_models if model.problem is None]
    models.sort(key=lambda model: model.added_at, reverse=True)
    aliases = [(folded(name), alias) for alias, name in sorted(named.items())]
    entries = []
    for model in models:
        others = [alias for name, alias in aliases if name == folded(model.name)]
        entries += [listing.tag_json(model, alias) for alias in (None, *others)]
    return orjson.dumps({"models": entries})


def _running(library: Library, residents: Sequence[Resident]) -> bytes:
    found = []
    for resident in residents:
        model = None
        with suppress(ModelNotFound, BadReference, StoreError):
            model = library.look(ModelName.parse(resident.name))
        found.append(listing.running_json(resident, model))
    return orjson.dumps({"models": found})


async def _stored(app: App, ask: Ask, name: str) -> StoredModel:
    generation.check_model(app, ask, name)
    return await asyncio.to_thread(app.pool.find, name)


async def _pull(app: App, text: str) -> AsyncGenerator[PullEvent | str, None]:
    """The events of a pull: of a newer version where the model is here already and came from elsewhere."""
    here = await asyncio.to_thread(_here, app, text)
    wanted = pulling.wanted(text, is_known=here is not None or _is_pullable(app, text))
    source = ModelRef.parse(here.source) if here is not None and not here.is_created else wanted.ref
    check_source(app, str(source))
    if here is not None and source.source in ("hf", "ms", "ollama", "pypi"):
        return _events(app.library.update(ModelName.parse(here.name)))
    return _events(app.library.pull(wanted.ref, name=wanted.name))


async def _events(events: AsyncGenerator[PullEvent, None]) -> AsyncGenerator[PullEvent | str, None]:
    async with aclosing(events):
        async for event in events:
            yield event


def _here(app: App, text: str) -> StoredModel | None:
    try:
        return app.library.look(ModelName.parse(text))
    except (ModelNotFound, BadReference):
        return None


def _is_pullable(app: App, text: str) -> bool:
    try:
        return app.library.pullable(ModelName.parse(text))
    except BadReference:
        return False


async def _create(app: App, order: creating.Order) -> AsyncGenerator[PullEvent | str, None]:
    recipe = order.recipe
    yield "reading model metadata"
    if order.base is not None:
        here = await asyncio.to_thread(_here, app, order.base)
        if here is None:
            async with aclosing(await _pull(app, order.base)) as events:
                async for event in events:
                    here = pulling.model_of(event) or here
                    if pulling.model_of(event) is None:
                        yield event
        assert here is not None, "a pull ends with its model"
        recipe = creating.based_on(recipe, here.name)
    made = await asyncio.to_thread(app.library.create, recipe)
    for file in made.files:
        if file.digest is not None:
            yield f"using existing layer {file.digest}"
    yield "writing manifest"
    yield "success"


def _status(events: AsyncGenerator[PullEvent | str, None], *, stream: bool | None, ignored: tuple[str, ...]) -> Response:
    headers = reported(ignored)
    if stream is False:
        return WholeAnswer(lambda: pulling.collected(events), headers)
    return EventStream(events, pulling.StatusLines(), headers)


def _json(value: object, ignored: tuple[str, ...] = ()) -> Response:
    return Response(orjson.dumps(value), media_type="application/json", headers=reported(ignored))
