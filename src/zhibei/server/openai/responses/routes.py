"""The routes of ``/v1/responses``: HTTP only, and the one holder of what is kept."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from zhibei.app import App, pull_options
from zhibei.chat import ChatRequest
from zhibei.errors import Unsupported
from zhibei.events import GenerationEvent
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import Ask, ask_of
from zhibei.server.errors import NotContinued, NotKept
from zhibei.server.image_fetch import fetch_images
from zhibei.server.openai.replies import new_id
from zhibei.server.openai.responses import replies, translate
from zhibei.server.openai.responses.kept import Kept, KeptResponses
from zhibei.server.openai.responses.schema import Includable, Item, ResponseBody
from zhibei.server.openai.translate import asked
from zhibei.server.replying import WHOLE, as_json, streamed
from zhibei.server.reported import reported, unenforced_conditions
from zhibei.server.shortening import shortened
from zhibei.server.streams import EventStream, WholeAnswer
from zhibei.service import RunOptions

ACCESS: AccessRules = {
    ("POST", "/v1/responses"): Access("chat"),
    ("POST", "/v1/responses/input_tokens"): Access("chat"),
    ("GET", "/v1/responses/{response_id}"): Access("chat"),
    ("DELETE", "/v1/responses/{response_id}"): Access("chat"),
    ("GET", "/v1/responses/{response_id}/input_items"): Access("chat"),
    ("POST", "/v1/responses/{response_id}/cancel"): Access("chat"),
}
# What is left for an answer where a request that is to be cut does not say how long it may be.
_USUAL_ANSWER_TOKENS = 1024
_STREAMED = streamed("The response")


@dataclass(slots=True)
class _Run:
    """One request on its way. ``headers`` grow until the answer begins."""

    ask: Ask
    body: ResponseBody
    items: tuple[Item, ...]
    request: ChatRequest
    options: RunOptions
    headers: dict[str, str] = field(default_factory=dict)


def add_routes(routes: APIRouter, app: App) -> None:
    """Add the routes, for one App."""
    kept = KeptResponses()
    _add_create(routes, app, kept)
    _add_kept(routes, kept)


def _add_create(routes: APIRouter, app: App, kept: KeptResponses) -> None:
    @routes.post("/v1/responses", responses=_STREAMED)
    async def create_response(body: ResponseBody, request: Request) -> Response:
        """Continue a conversation of items."""
        run = await _prepared(app, kept, body, ask_of(request))
        encoder = replies.ResponseEvents(replies.Asked(new_id("resp_"), int(time.time()), body))
        events = _kept(kept, run, encoder, _events(app, run))
        if body.stream:
            return EventStream(events, encoder, lambda: run.headers)
        return WholeAnswer(lambda: encoder.whole(events), lambda: run.headers)

    @routes.post("/v1/responses/input_tokens", responses=WHOLE)
    async def count_input_tokens(body: ResponseBody, request: Request) -> Response:
        """How many tokens a request would begin with."""
        run = await _prepared(app, kept, body, ask_of(request))

        async def work() -> bytes:
            async with generation.lease(app, run.ask, body.model, run.options) as engine:
                prompt = await engine.render(run.request)
                tokens = await engine.tokenize(prompt, parse_special=True)
            return orjson.dumps({"object": "response.input_tokens", "input_tokens": len(tokens)})

        return WholeAnswer(work, run.headers)


def _add_kept(routes: APIRouter, kept: KeptResponses) -> None:
    @routes.get("/v1/responses/{response_id}", responses=WHOLE)
    async def show_response(
        response_id: str,
        request: Request,
        stream: bool = False,
        include: Annotated[list[Includable] | None, Query()] = None,
    ) -> Response:
        """A response that is kept."""
        if stream:
            raise Unsupported("A finished response is not streamed again.", hint="Leave out stream.", param="stream")
        return as_json(_find(kept, request, response_id).body)

    @routes.delete("/v1/responses/{response_id}", responses=WHOLE)
    async def delete_response(response_id: str, request: Request) -> Response:
        """Forget a response."""
        _find(kept, request, response_id)
        kept.drop(ask_of(request).caller.id, response_id)
        return as_json({"id": response_id, "object": "response.deleted", "deleted": True})

    @routes.get("/v1/responses/{response_id}/input_items", responses=WHOLE)
    async def list_input_items(
        response_id: str,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: Annotated[str | None, Query(max_length=256)] = None,
    ) -> Response:
        """What a response was given."""
        found = _find(kept, request, response_id)
        items = found.history if order == "asc" else found.history[::-1]
        first = next((index + 1 for index, item in enumerate(items) if item.id == after), 0)
        shown = items[first : first + limit]
        return as_json(
            {
                "object": "list",
                "data": [replies.item_json(item) for item in shown],
                "first_id": shown[0].id if shown else None,
                "last_id": shown[-1].id if shown else None,
                "has_more": first + limit < len(items),
            }
        )

    @routes.post("/v1/responses/{response_id}/cancel", responses=WHOLE)
    async def cancel_response(response_id: str, request: Request) -> Response:
        """Nothing runs in the background here that could be cancelled."""
        _find(kept, request, response_id)
        raise Unsupported(
            "Only a response made in the background can be cancelled, and there is none here.",
            hint="Close the connection to end one that is under way.",
        )


async def _prepared(app: App, kept: KeptResponses, body: ResponseBody, ask: Ask) -> _Run:
    """The request with the conversation before it, and the images it refers to."""
    owner = ask.caller.id
    earlier = _earlier(kept, owner, body.previous_response_id)
    known: dict[str, Item] | None = None

    def find(item_id: str) -> Item | None:
        nonlocal known
        if known is None:
            known = dict(kept.items_of(owner))
        return known.get(item_id)

    items = (*earlier, *translate.input_items(body, new_id=new_id, find=find))
    images = await fetch_images(translate.image_urls(items), pull_options(app.settings).fetch)
    request = translate.chat_request(body, items, images)
    headers = reported(translate.ignored(body), unenforced_conditions(request.response_format))
    return _Run(ask, body, items, request, asked(body).options, headers)


def _earlier(kept: KeptResponses, owner: str, previous_id: str | None) -> tuple[Item, ...]:
    if previous_id is None:
        return ()
    found = kept.find(owner, previous_id)
    if found is None:
        raise NotContinued(
            "There is no response {id!r} here.",
            hint="Responses are kept in memory for a while, unless store is false; send the items themselves.",
            param="previous_response_id",
            id=previous_id[:100],
        )
    return found.items


async def _events(app: App, run: _Run) -> AsyncGenerator[GenerationEvent, None]:
    model, request = run.body.model, run.request
    if run.body.truncation != "auto":
        events = generation.chat(app, run.ask, model, request, run.options)
        async with aclosing(events):
            async for event in events:
                yield event
        return
    async with generation.lease(app, run.ask, model, run.options) as engine:
        ctx_size = engine.spec.ctx_size
        reserve = min(run.body.max_output_tokens or _USUAL_ANSWER_TOKENS, ctx_size // 2)
        fitting = await shortened(engine, request, ctx_size, reserve)
        run.headers.update(fitting.headers)
        async with aclosing(generation.watched(run.ask, model, engine.chat(fitting.request))) as events:
            async for event in events:
                yield event


async def _kept(
    kept: KeptResponses, run: _Run, encoder: replies.ResponseEvents, events: AsyncGenerator[GenerationEvent, None]
) -> AsyncGenerator[GenerationEvent, None]:
    """The same events; when the last was taken, the response is kept."""
    async with aclosing(events):
        async for event in events:
            yield event
    if encoder.final is not None and run.body.store is not False:
        kept.keep(run.ask.caller.id, encoder.final, run.items)


def _find(kept: KeptResponses, request: Request, response_id: str) -> Kept:
    found = kept.find(ask_of(request).caller.id, response_id)
    if found is None:
        raise NotKept(
            "There is no response {id!r} here.",
            hint="Responses are kept in memory for a while, unless store is false.",
            id=response_id[:100],
        )
    return found
