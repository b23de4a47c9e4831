"""How errors are said to clients of Anthropic's API: its types, its statuses, and the request's id in body and header."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from zhibei.errors import Busy, ContextTooLong, ModelNotFound, ZhibeiError
from zhibei.server.ask import ErrorReply
from zhibei.server.errors import headers_of, row_of
from zhibei.wire import ERROR_DETAIL_KEY, encode_error

OVERLOADED = 529
BUSY = 503
_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}


def envelope(error: ZhibeiError, request_id: str, detail: bool) -> ErrorReply:
    """``{"type": "error", "error": {type, message}, "request_id"}``."""
    status = row_of(error).status
    if isinstance(error, Busy) and status == BUSY:
        status = OVERLOADED
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    body: dict[str, object] = {
        "type": "error",
        "error": {"type": kind, "message": _words(error), "details": None},
        "request_id": public_id(request_id),
    }
    if detail:
        body[ERROR_DETAIL_KEY] = encode_error(error)
    headers = [*headers_of(error), (b"request-id", public_id(request_id).encode())]
    return ErrorReply(status, orjson.dumps(body), headers)


def public_id(request_id: str) -> str:
    """A request's id as Anthropic writes them."""
    return "req_" + request_id


def _words(error: ZhibeiError) -> str:
    if isinstance(error, ContextTooLong):
        # Clients look for these words and make room.
        return f"prompt is too long: {error.num_prompt_tokens} tokens > {error.ctx_size} maximum"
    if isinstance(error, ModelNotFound) and "name" in error.values:
        return f"model: {error.values['name']}"
    param, hint = getattr(error, "param", None), error.hint_text
    text = str(error) if hint is None else f"{error} {hint}"
    return text if param is None or text.startswith(str(param)) else f"{param}: {text}"
