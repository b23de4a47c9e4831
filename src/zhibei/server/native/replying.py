"""Bodies and descriptions that the native routes share."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from zhibei.wire import encode

Described = dict[int | str, dict[str, Any]]
WHOLE: Described = {200: {"description": "The answer.", "content": {"application/json": {}}}}
LINES: Described = {200: {"description": "Events, one a line.", "content": {"application/x-ndjson": {}}}}


def answer(value: object) -> Response:
    """A vocabulary value as JSON."""
    return Response(orjson.dumps(encode(value)), media_type="application/json")
