"""Routes whose bodies are JSON although nothing says so: the guard has seen to it that no page sent them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from zhibei.server.json_route import JsonRoute

_TYPE = b"content-type"


class UntypedRoute(JsonRoute):
    """As JsonRoute, for bodies that have no type."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, given a request that says what it is."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            headers = [(name, value) for name, value in request.scope["headers"] if name != _TYPE]
            scope = {**request.scope, "headers": [*headers, (_TYPE, b"application/json")]}
            return await handler(Request(scope, request.receive))

        return handle
