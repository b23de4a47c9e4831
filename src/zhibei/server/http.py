"""The application: the route table and what stands before it. Nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import Response

from zhibei import __version__
from zhibei.app import App
from zhibei.server import anthropic, docs, kobold, llama_server, native, ollama, openai
from zhibei.server.ask import Watcher
from zhibei.server.auth import Keeper
from zhibei.server.dialect import Dialect, Dialects
from zhibei.server.drain import Drain
from zhibei.server.errors import NoSuchRoute, WrongMethod, openai_envelope
from zhibei.server.guard import Guard, Receive, Scope, Send
from zhibei.server.json_route import BadBody, refuse
from zhibei.server.listen import GRACE_S, listen

DIALECTS = tuple(each.DIALECT for each in (openai, ollama, anthropic, kobold, llama_server, native))
_PAGES = Dialect("pages", lambda app: docs.router(), docs.ACCESS, openai_envelope, ())


def create_app(app: App, *, drain: Drain | None = None, watchers: Sequence[Watcher] = ()) -> Guard:
    """The ASGI application for ``app``. ``drain`` lets the caller end it gently."""
    server = app.settings.server
    return Guard(
        create_routes(app),
        server,
        keeper=Keeper(server.api_key),
        drain=drain or Drain(),
        dialects=Dialects((*DIALECTS, _PAGES)),
        watchers=watchers,
    )


async def serve(
    app: App, *, on_ready: Callable[[str], None], stop: asyncio.Event | None = None, grace_s: float = GRACE_S
) -> None:
    """Serve ``app`` where its settings say, until a signal comes or ``stop`` is set; see ``listen``. The App stays open."""
    drain = Drain()
    guard = create_app(app, drain=drain)
    await listen(guard, app.settings.server, drain, on_ready=on_ready, stop=stop, grace_s=grace_s)


def create_routes(app: App) -> FastAPI:
    """The routes alone, without the guard. Errors pass through: the guard answers them."""
    routes = FastAPI(
        title="Zhibei",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"default": {"description": "An error, in OpenAI's envelope.", "content": {"application/json": {}}}},
        exception_handlers={
            RequestValidationError: _invalid,
            StarletteHTTPException: _http,
            Exception: _unexpected,
        },
    )
    for dialect in (*DIALECTS, _PAGES):
        routes.include_router(dialect.router(app))
    return routes


async def _invalid(request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, RequestValidationError)
    refuse(error)


async def _http(request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, StarletteHTTPException)
    if isinstance(error, BadBody):
        raise error.error
    if error.status_code == 405:
        raise WrongMethod("{path} does not take {method}.", path=request.url.path[:200], method=request.method)
    if error.status_code == 404:
        raise NoSuchRoute("There is nothing at {path}.", hint="The routes are listed at /docs.", path=request.url.path[:200])
    raise error


class _Unanswered(Response):
    """Says nothing. Starlette wants a response before it lets an exception go on to the guard."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return None


async def _unexpected(request: Request, error: Exception) -> _Unanswered:
    return _Unanswered()
