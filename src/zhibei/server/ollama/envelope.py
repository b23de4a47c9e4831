"""How errors are said in this dialect: ``{"error": "…"}``, and those that clients act on in Ollama's own words."""

from __future__ import annotations

import orjson

from zhibei.errors import ModelNotFound, Unsupported, ZhibeiError
from zhibei.server.ask import ErrorReply
from zhibei.server.errors import headers_of, row_of
from zhibei.wire import ERROR_DETAIL_KEY, encode_error


def envelope(error: ZhibeiError, request_id: str, detail: bool) -> ErrorReply:
    """An error as Ollama says it."""
    body: dict[str, object] = {"error": _words(error)}
    if detail:
        body[ERROR_DETAIL_KEY] = encode_error(error)
    return ErrorReply(row_of(error).status, orjson.dumps(body), headers_of(error))


def _words(error: ZhibeiError) -> str:
    name = error.values.get("name")
    if isinstance(error, ModelNotFound) and name is not None:
        # Clients look for these words and pull the model.
        return f"model '{name}' not found"
    if isinstance(error, Unsupported) and error.values.get("ability") == "tools":
        # By these words they ask again without tools.
        return f"this model does not support tools. {error.hint_text or ''}".rstrip()
    hint = error.hint_text
    return str(error) if hint is None else f"{error} {hint}"
