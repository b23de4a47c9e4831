"""Anthropic's dialect. HTTP only."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from zhibei.app import App, pull_options
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.anthropic import replies, schema, translate
from zhibei.server.anthropic.envelope import public_id
from zhibei.server.ask import Ask, ask_of
from zhibei.server.errors import NotYet
from zhibei.server.image_fetch import fetch_images
from zhibei.server.json_route import JsonRoute
from zhibei.server.replying import WHOLE, streamed
from zhibei.server.reported import reported, unenforced_conditions
from zhibei.server.streams import EventStream, WholeAnswer

ACCESS: AccessRules = {
    ("POST", "/v1/messages"): Access("chat"),
    ("POST", "/v1/messages/count_tokens"): Access("chat"),
    ("POST", "/v1/messages/batches"): Access("chat", body="file"),
    ("GET", "/v1/messages/batches"): Access("chat"),
}
_STREAMED = streamed("The message")


def router(app: App) -> APIRouter:
    """The routes, for one App."""
    routes = APIRouter(route_class=JsonRoute, tags=["Anthropic"])

    @routes.post("/v1/messages", responses=_STREAMED)
    async def messages(body: schema.MessagesBody, request: Request) -> Response:
        """Continue a conversation."""
        ask = ask_of(request)
        images = await fetch_images(translate.image_urls(body), pull_options(app.settings).fetch, param="messages")
        wanted = translate.messages_request(body, images)
        headers = _headers(ask, body, request) | reported((), unenforced_conditions(wanted.response_format))
        encoder = replies.MessageEvents(_head(body))
        events = generation.chat(app, ask, body.model, wanted, translate.run_options(body))
        if body.stream:
            return EventStream(events, encoder, headers)
        return WholeAnswer(lambda: encoder.whole(events), headers)

    @routes.post("/v1/messages/count_tokens", responses=WHOLE)
    async def count_tokens(body: schema.CountBody, request: Request) -> Response:
        """How many tokens a message would begin with."""
        ask = ask_of(request)
        images = await fetch_images(translate.image_urls(body), pull_options(app.settings).fetch, param="messages")
        wanted = translate.counted_request(body, images)

        async def work() -> bytes:
            async with generation.lease(app, ask, body.model, translate.run_options(body)) as engine:
                tokens = await engine.tokenize(await engine.render(wanted), parse_special=True)
            return orjson.dumps({"input_tokens": len(tokens)})

        return WholeAnswer(work, _headers(ask, body, request))

    for method in ("POST", "GET"):
        routes.add_api_route("/v1/messages/batches", _later, methods=[method], responses=WHOLE)
    return routes


async def _later(request: Request) -> Response:
    """Reserved: batches are not built yet."""
    raise NotYet("Message batches do not work yet.", hint="Send the messages one by one; many at once are taken.")


def _head(body: schema.MessagesBody) -> replies.Head:
    thinking = body.thinking
    hides = thinking is not None and thinking.display == "omitted"
    return replies.Head(body.model, body.max_tokens, translate.shows_thinking(body), hides)


def _headers(ask: Ask, body: schema.CountBody, request: Request) -> dict[str, str]:
    found = reported(translate.ignored(body, request.headers.get("anthropic-beta")))
    return {"request-id": public_id(ask.id), **found}
