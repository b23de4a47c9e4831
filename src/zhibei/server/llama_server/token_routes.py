"""Tokens of texts and texts of tokens, by the paths of llama-server, vLLM, Aphrodite, tabbyAPI and oobabooga's. HTTP only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from zhibei.app import App
from zhibei.engines.base import Engine
from zhibei.errors import BadRequest
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import ask_of
from zhibei.server.body import ignored_fields
from zhibei.server.llama_server import generate, messages, replies, schema
from zhibei.server.replying import WHOLE
from zhibei.server.reported import reported
from zhibei.server.streams import WholeAnswer
from zhibei.server.unnamed import meant_model

_ENCODE = ("/tokenize", "/v1/tokenize", "/v1/token/encode", "/v1/internal/encode", "/v1/internal/token-count")
_DECODE = ("/detokenize", "/v1/detokenize", "/v1/token/decode", "/v1/internal/decode")

ACCESS: AccessRules = {("POST", path): Access("chat") for path in (*_ENCODE, *_DECODE)}


def add(routes: APIRouter, app: App) -> None:
    """Add the routes."""

    async def encode(body: schema.TokenizeBody, request: Request) -> Response:
        """Tokens of a text."""
        if body.content is None and body.prompt is None and body.text is None and body.messages is None:
            raise BadRequest("The parameter {name} is missing.", param="content", name="content")
        return await _answer(app, body, request, lambda engine: _encoded(engine, body))

    async def decode(body: schema.DetokenizeBody, request: Request) -> Response:
        """The text of tokens."""

        async def work(engine: Engine) -> bytes:
            return orjson.dumps(replies.text_json(await generate.text_of(engine, tuple(body.tokens))))

        return await _answer(app, body, request, work)

    for path in _ENCODE:
        routes.add_api_route(path, encode, methods=["POST"], responses=WHOLE)
    for path in _DECODE:
        routes.add_api_route(path, decode, methods=["POST"], responses=WHOLE)


async def _answer(app: App, body: schema.ModelBody, request: Request, work: Callable[[Engine], Awaitable[bytes]]) -> Response:
    ask, model = ask_of(request), await meant_model(app, body.model)

    async def leased() -> bytes:
        async with generation.lease(app, ask, model) as engine:
            return await work(engine)

    return WholeAnswer(leased, reported(ignored_fields(body)))


async def _encoded(engine: Engine, body: schema.TokenizeBody) -> bytes:
    wants_pieces = bool(body.with_pieces or body.return_token_strs)
    tokens = await _tokens(engine, body)
    pieces = await generate.pieces_of(engine, tokens) if wants_pieces else None
    found = replies.tokens_json(tokens, engine.spec.ctx_size or None, pieces, with_pieces=bool(body.with_pieces))
    return orjson.dumps(found)


async def _tokens(engine: Engine, body: schema.TokenizeBody) -> tuple[int, ...]:
    """llama-server puts nothing before a text unless it is asked to; the others do unless they are asked not to."""
    parse_special = next((said for said in (body.parse_special, body.encode_special_tokens) if said is not None), True)
    if body.messages is not None:
        prompt = await engine.render(messages.chat_request(body.messages))
        return await engine.tokenize(prompt, add_special=bool(body.add_special_tokens), parse_special=True)
    text = next((said for said in (body.content, body.prompt, body.text) if said is not None), "")
    said = (body.add_special, body.add_special_tokens, body.add_bos_token)
    add_special = next((each for each in said if each is not None), body.content is None)
    mixed = text if isinstance(text, str) else tuple(text)
    return await generate.mixed_tokens(engine, mixed, add_special=add_special, parse_special=parse_special)
