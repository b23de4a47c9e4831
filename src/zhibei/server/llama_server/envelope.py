"""How errors are said in this dialect: as llama-server says them."""

from __future__ import annotations

import orjson

from zhibei.errors import ContextTooLong, ZhibeiError
from zhibei.server.ask import ErrorReply
from zhibei.server.errors import envelope as openai_body
from zhibei.server.errors import headers_of, row_of
from zhibei.wire import ERROR_DETAIL_KEY

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


def envelope(error: ZhibeiError, request_id: str, detail: bool) -> ErrorReply:
    """``{"error": {"code": status, "message", "type"}}``; a prompt that is too long comes with both numbers."""
    status = row_of(error).status
    plain = orjson.loads(openai_body(error, detail=detail))["error"]
    said: dict[str, object] = {
        "code": status,
        "message": plain["message"],
        "type": _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
    }
    if isinstance(error, ContextTooLong):
        said |= {
            "type": "exceed_context_size_error",
            "n_prompt_tokens": error.num_prompt_tokens,
            "n_ctx": error.ctx_size,
        }
    if ERROR_DETAIL_KEY in plain:
        said[ERROR_DETAIL_KEY] = plain[ERROR_DETAIL_KEY]
    return ErrorReply(status, orjson.dumps({"error": said}), headers_of(error))
