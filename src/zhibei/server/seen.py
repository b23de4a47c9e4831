"""What is seen of a server from outside: numbers, a line for each request, traces. Puts them together for one App."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from fastapi import APIRouter
from starlette.responses import Response

from zhibei.app import App
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import Watcher
from zhibei.server.dialect import Dialect
from zhibei.server.errors import openai_envelope
from zhibei.server.metrics import MEDIA_TYPE, Metrics
from zhibei.server.request_log import RequestLog, program_log
from zhibei.server.tracing import Tracing, tracing_to
from zhibei.store.threads import in_thread

ACCESS: AccessRules = {("GET", "/metrics"): Access("read")}
_PAGE = {"description": "Series in Prometheus' text format.", "content": {"text/plain": {}}}


class Seen:
    """Watchers of requests and pool, and the route that shows what was counted."""

    def __init__(self, app: App, write_log: Callable[[str], None] | None = None) -> None:
        """``write_log``: where a line for each request goes; None: nowhere."""
        self._app = app
        self._write = write_log if app.settings.server.log_format != "off" else None
        self.metrics = Metrics(app)
        self._end_watch = app.pool.watch(self.metrics.happened)
        endpoint = app.settings.server.otlp_endpoint
        self._tracing: Tracing | None = tracing_to(endpoint) if endpoint is not None else None
        found: list[Watcher] = [self.metrics]
        if self._write is not None:
            found.append(RequestLog(self._write, app.settings.server.log_format))
        if self._tracing is not None:
            found.append(self._tracing)
        self.watchers = tuple(found)
        self.dialect = Dialect("metrics", lambda app: self._router(), ACCESS, openai_envelope, ())

    def program_log(self) -> AbstractContextManager[None]:
        """What the program has to say goes where the requests' lines go, while the block lasts."""
        return nullcontext() if self._write is None else program_log(self._write, self._app.settings.server.log_format)

    async def close(self) -> None:
        """Watch no more, and send what is left of the traces."""
        self._end_watch()
        if self._tracing is not None:
            await in_thread(self._tracing.close)

    def _router(self) -> APIRouter:
        routes = APIRouter(tags=["Zhibei"])

        @routes.get("/metrics", responses={200: _PAGE})
        async def metrics() -> Response:
            """What was counted, for Prometheus."""
            return Response(self.metrics.page(self._app.hardware()), media_type=MEDIA_TYPE)

        return routes
