"""The application: the route table and what stands before it. Nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import Response

from zhibei import __version__
from zhibei.app import App
from zhibei.server import anthropic, docs, kobold, llama_server, native, ollama, openai
from zhibei.server.ask import Watcher
from zhibei.server.auth import Keeper, revoked
from zhibei.server.crowd import Crowd
from zhibei.server.dialect import Dialect, Dialects
from zhibei.server.drain import Drain
from zhibei.server.errors import NoSuchRoute, WrongMethod, openai_envelope
from zhibei.server.guard import Guard, Receive, Scope, Send
from zhibei.server.json_route import JsonRoute, refuse
from zhibei.server.keys import KeyFile
from zhibei.server.listen import GRACE_S, listen
from zhibei.server.seen import Seen

DIALECTS = tuple(each.DIALECT for each in (openai, ollama, anthropic, kobold, llama_server, native))
REVOKED_EVERY_S = 1.0
Work = Callable[[], Coroutine[object, object, None]]
_PAGES = Dialect("pages", lambda app: docs.router(), docs.ACCESS, openai_envelope, ())

log = logging.getLogger("zhibei.server")


def create_app(
    app: App,
    *,
    drain: Drain | None = None,
    watchers: Sequence[Watcher] = (),
    seen: Seen | None = None,
    keeper: Keeper | None = None,
) -> Guard:
    """The ASGI application for ``app``. ``drain`` lets the caller end it gently; ``seen`` is the caller's to close."""
    server, seen = app.settings.server, seen or Seen(app)
    return Guard(
        create_routes(app, seen.dialect),
        server,
        keeper=keeper or create_keeper(app),
        drain=drain or Drain(),
        crowd=Crowd(lambda: app.pool.max_under_way),
        dialects=Dialects((*DIALECTS, _PAGES, seen.dialect)),
        watchers=(*seen.watchers, *watchers),
    )


async def serve(
    app: App,
    *,
    on_ready: Callable[[str], None],
    stop: asyncio.Event | None = None,
    grace_s: float = GRACE_S,
    write_log: Callable[[str], None] | None = None,
    at_start: Sequence[Work] = (),
) -> None:
    """Serve ``app`` where its settings say, until a signal comes or ``stop`` is set; see ``listen``. The App stays open.

    Args:
        at_start: is begun once the server answers, after the models that the settings want loaded; given up when it stops.
    """
    drain, keeper = Drain(), create_keeper(app)
    needs_key = keeper.needs_key()
    seen = Seen(app, write_log)
    guard = create_app(app, drain=drain, seen=seen, keeper=keeper)
    answers = asyncio.Event()

    def ready(address: str) -> None:
        on_ready(address)
        answers.set()

    starting = asyncio.ensure_future(_begin(answers, (app.pool.preload, *at_start)))
    beside = (
        starting,
        asyncio.ensure_future(_drain_pool(app, drain, starting, grace_s)),
        asyncio.ensure_future(_end_revoked(keeper, drain)),
    )
    try:
        with seen.program_log(), _silent_ends():
            try:
                await listen(guard, app.settings.server, drain, on_ready=ready, stop=stop, grace_s=grace_s, needs_key=needs_key)
            finally:
                await _end(beside)
    finally:
        await seen.close()


@contextmanager
def _silent_ends() -> Iterator[None]:
    """While the block lasts, uvicorn writes no stack of a request that a second signal ended: nothing was wrong."""
    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(_is_failure)
    try:
        yield
    finally:
        logger.removeFilter(_is_failure)


def _is_failure(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


async def _begin(answers: asyncio.Event, works: Sequence[Work]) -> None:
    await answers.wait()
    for work in works:
        await work()


async def _drain_pool(app: App, drain: Drain, starting: asyncio.Future[None], grace_s: float) -> None:
    """Once the server stops, nobody waits for a model any more: who did is told so at once."""
    await drain.begun()
    if drain.num_requests:
        log.warning(
            "stopping; requests that may finish, within %g s: %d. Ctrl-C once more ends them at once", grace_s, drain.num_requests
        )
    starting.cancel()
    await app.pool.drain()


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            log.error("work beside the requests failed", exc_info=ended)


def create_keeper(app: App) -> Keeper:
    """Who is let in: by the setting's key, and by those of the home's file."""
    return Keeper(app.settings.server.api_key, KeyFile(app.settings.home))


async def _end_revoked(keeper: Keeper, drain: Drain) -> None:
    """Now and then, end what runs for keys that no longer open anything. New requests are checked as they come."""
    while True:
        await asyncio.sleep(REVOKED_EVERY_S)
        for owner in drain.owners():
            if owner and not keeper.holds(owner):
                drain.cut_owner(owner, revoked())


class Routes(FastAPI):
    """All routes. Those with a body have paths without parameters, and are found without looking through the others."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._by_path: dict[tuple[str, str], JsonRoute] = {}

    def add(self, router: APIRouter) -> None:
        """Add a dialect's."""
        self.include_router(router)
        for route in router.routes:
            if isinstance(route, JsonRoute) and route.body_field is not None:
                for method in route.methods or ():
                    self._by_path.setdefault((method, route.path), route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the request's route answer it."""
        route = self._by_path.get((scope["method"], scope["path"]))
        if route is None:
            await super().__call__(scope, receive, send)
            return
        response = await route.answer(Request(scope, receive))
        await response(scope, receive, send)


def create_routes(app: App, *more: Dialect) -> Routes:
    """The routes alone, without the guard. Errors pass through: the guard answers them."""
    routes = Routes(
        title="Zhibei",
        version=__version__,
        openapi_url=None,
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
    for dialect in (*DIALECTS, _PAGES, *more):
        routes.add(dialect.router(app))
    return routes


async def _invalid(request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, RequestValidationError)
    refuse(error.errors())


async def _http(request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, StarletteHTTPException)
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
