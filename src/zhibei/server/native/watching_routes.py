"""What goes on in the server: pool, events, logs of engines; and loading a model by hand. HTTP only."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from zhibei.app import App
from zhibei.local import LocalService
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import Ask, ask_of
from zhibei.server.loading import keep_alive, load_options
from zhibei.server.native import schema
from zhibei.server.native.following import Feed, until_stopping
from zhibei.server.native.replying import LINES, WHOLE, answer
from zhibei.server.native.translate import Lines, body, happening
from zhibei.server.streams import EventStream, WholeAnswer
from zhibei.service import PoolState, RunOptions
from zhibei.wire import NATIVE_PREFIX, encode

ACCESS: AccessRules = {
    ("GET", f"{NATIVE_PREFIX}/pool"): Access("read"),
    ("GET", f"{NATIVE_PREFIX}/events"): Access("read"),
    ("GET", f"{NATIVE_PREFIX}/logs/{{name:path}}"): Access("read"),
    ("POST", f"{NATIVE_PREFIX}/load"): Access("chat"),
}
NumLines = Annotated[int, Query(ge=0, le=10_000)]


def add(routes: APIRouter, app: App, service: LocalService, feed: Feed) -> None:
    """Add the routes; ``feed`` carries what is told to all who follow."""
    app.pool.watch(lambda found: feed.tell(happening(found)))

    @routes.get("/pool", responses=WHOLE)
    async def pool() -> Response:
        """The running models, the queue, and the machine's memory."""
        return answer(await service.pool())

    @routes.get("/events", responses=LINES)
    async def events(request: Request) -> Response:
        """The state of the pool, and then what happens in it and to pulls, until the client leaves."""
        return EventStream(until_stopping(ask_of(request), _events(service, feed)), Lines())

    @routes.get("/logs/{name:path}", responses=LINES)
    async def logs(request: Request, name: str, lines: NumLines = 100, follow: bool = False) -> Response:
        """What a model's engine wrote: the last lines and, with follow, each new one."""
        known = service.log_name(name)
        found = service.logs(known, num_lines=lines, follow=follow)
        return EventStream(_log_lines(ask_of(request), found), Lines())

    @routes.post("/load", responses=WHOLE)
    async def load(request: Request, asked: schema.LoadModelBody) -> Response:
        """Load a model now, or keep it loaded for as long again."""
        options = RunOptions(load_options(asked.load), keep_alive(asked.keep_alive))

        async def work() -> bytes:
            async with generation.lease(app, ask_of(request), asked.model, options, asked.task) as engine:
                name = engine.spec.model_name
            return body([resident for resident in app.pool.residents() if resident.name == name])

        return WholeAnswer(work)


async def _events(service: LocalService, feed: Feed) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(feed.follow()) as lines:
        state: PoolState = await service.pool()
        yield {"event": "pool", **encode(state)}
        async for line in lines:
            yield line


async def _log_lines(ask: Ask, found: AsyncGenerator[Any, None]) -> AsyncGenerator[dict[str, Any] | None, None]:
    async with aclosing(until_stopping(ask, found)) as lines:
        async for line in lines:
            yield None if line is None else encode(line)
