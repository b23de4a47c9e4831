"""How errors are said to clients of KoboldCpp: its own ``detail``, and beside it what other front ends read."""

from __future__ import annotations

import orjson

from zhibei.errors import Busy, ZhibeiError
from zhibei.server.ask import ErrorReply
from zhibei.server.auth import KeyNeeded
from zhibei.server.errors import envelope as openai_body
from zhibei.server.errors import headers_of, row_of

_TYPES = {400: "bad_input", 401: "unauthorized", 403: "forbidden", 404: "not_found", 501: "not_implemented"}


def envelope(error: ZhibeiError, request_id: str, detail: bool) -> ErrorReply:
    """``{"detail": {"msg", "type"}, "error": {message, type, param, code}}``."""
    row = row_of(error)
    body = orjson.loads(openai_body(error, detail=detail))
    said = {"msg": body["error"]["message"], "type": _type(error, row.status)}
    if isinstance(error, KeyNeeded):
        said["error"] = "Unauthorized"
    return ErrorReply(row.status, orjson.dumps({"detail": said} | body), headers_of(error))


def _type(error: ZhibeiError, status: int) -> str:
    if isinstance(error, Busy) or status == 503:
        return "service_unavailable"
    return _TYPES.get(status, "bad_input" if status < 500 else "server_error")
