"""Bodies and descriptions that the native routes share."""

from __future__ import annotations

import orjson
from starlette.responses import Response

from zhibei.server.replying import WHOLE, Described
from zhibei.wire import encode

__all__ = ["LINES", "WHOLE", "answer"]

LINES: Described = {200: {"description": "Events, one a line.", "content": {"application/x-ndjson": {}}}}


def answer(value: object) -> Response:
    """A vocabulary value as JSON."""
    return Response(orjson.dumps(encode(value)), media_type="application/json")
