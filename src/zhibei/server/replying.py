"""Plain JSON replies, and how the page of routes describes what comes back. The same in every dialect."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

Described = dict[int | str, dict[str, Any]]
WHOLE: Described = {200: {"description": "The answer.", "content": {"application/json": {}}}}


def streamed(what: str) -> Described:
    """``what`` as one body or, where the request wants that, as server-sent events."""
    content: dict[str, Any] = {"application/json": {}, "text/event-stream": {}}
    return {200: {"description": f"{what}; with stream, server-sent events.", "content": content}}


def as_json(value: object) -> Response:
    """What JSON has, as a response."""
    return Response(orjson.dumps(value), media_type="application/json")
