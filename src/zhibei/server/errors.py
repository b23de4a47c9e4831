"""Errors as HTTP says them. Owns the one table of error class → status, type and code, and the envelope on the wire.

The envelope is OpenAI's. To a client that asks for detail, and on native routes, it also carries what is needed to raise
the same error again. An exception that nobody named becomes a 500 that shows a request id and nothing else.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from zhibei import errors as e
from zhibei.server.ask import ErrorReply, Headers
from zhibei.server.auth import WINDOW_S, KeyNeeded, TooManyWrongKeys
from zhibei.server.limits import RateLimited
from zhibei.wire import ERROR_DETAIL_KEY, encode_error

log = logging.getLogger("zhibei.server")


class NoSuchRoute(e.UserError):
    """There is nothing at this path."""


class WrongMethod(e.UserError):
    """The path exists, but not for this method."""


class BodyTooLarge(e.UserError):
    """The request is larger than the server takes."""


class BodyTooSlow(e.UserError):
    """The request did not arrive in time."""


class NotOffered(e.UserError):
    """Another server has this; here it is known, and not offered."""


class NotJson(e.UserError):
    """The request's body is not declared as JSON."""


class NotYet(e.UserError):
    """The path is known, but what belongs there is not built."""


class NotKept(e.UserError):
    """There is no such object, or it was not kept that long."""


class NotContinued(e.BadRequest):
    """The response to be continued is not kept."""


@dataclass(frozen=True, slots=True)
class Row:
    """How a class of errors looks. ``retry`` False tells OpenAI's clients that the same request would fail again."""

    status: int
    type: str
    code: str
    retry: bool = False


TABLE: Mapping[type[e.ZhibeiError], Row] = {
    e.ZhibeiError: Row(500, "server_error", "internal_error"),
    e.UserError: Row(400, "invalid_request_error", "bad_request"),
    e.BadReference: Row(400, "invalid_request_error", "bad_reference"),
    e.BadRequest: Row(400, "invalid_request_error", "invalid_value"),
    e.Unsupported: Row(400, "invalid_request_error", "unsupported_parameter"),
    e.ContextTooLong: Row(400, "invalid_request_error", "context_length_exceeded"),
    e.BadSetting: Row(500, "server_error", "bad_setting"),
    e.NotPermitted: Row(403, "permission_error", "not_permitted"),
    e.ModelNotFound: Row(404, "invalid_request_error", "model_not_found"),
    e.ModelFileError: Row(422, "invalid_request_error", "model_file_error"),
    e.TemplateUnusable: Row(422, "invalid_request_error", "template_unusable"),
    e.StoreError: Row(500, "server_error", "store_error"),
    e.ModelBroken: Row(500, "server_error", "model_broken"),
    e.DigestMismatch: Row(502, "server_error", "digest_mismatch"),
    e.DiskFull: Row(507, "server_error", "disk_full"),
    e.StoreBusy: Row(409, "server_error", "store_busy", retry=True),
    e.SourceError: Row(502, "server_error", "source_error", retry=True),
    e.Offline: Row(503, "server_error", "offline"),
    e.DoesNotFit: Row(507, "server_error", "does_not_fit"),
    e.EngineError: Row(500, "server_error", "engine_error"),
    e.EngineMissing: Row(501, "server_error", "engine_missing"),
    e.EngineStartFailed: Row(500, "server_error", "engine_start_failed"),
    e.EngineDied: Row(502, "server_error", "engine_died", retry=True),
    e.EngineStalled: Row(504, "server_error", "engine_stalled", retry=True),
    e.UpstreamDown: Row(502, "server_error", "upstream_down", retry=True),
    e.EngineRefused: Row(502, "server_error", "engine_refused"),
    e.Busy: Row(503, "server_error", "busy", retry=True),
    e.ShareFull: Row(429, "rate_limit_error", "too_many_waiting", retry=True),
    e.ModelUnstable: Row(503, "server_error", "model_unstable", retry=True),
    KeyNeeded: Row(401, "authentication_error", "invalid_api_key"),
    RateLimited: Row(429, "rate_limit_error", "rate_limit_exceeded", retry=True),
    TooManyWrongKeys: Row(429, "authentication_error", "too_many_wrong_keys"),
    NoSuchRoute: Row(404, "invalid_request_error", "unknown_url"),
    NotKept: Row(404, "invalid_request_error", "not_found"),
    NotContinued: Row(400, "invalid_request_error", "previous_response_not_found"),
    NotYet: Row(501, "server_error", "not_implemented"),
    WrongMethod: Row(405, "invalid_request_error", "method_not_allowed"),
    BodyTooLarge: Row(413, "invalid_request_error", "body_too_large"),
    BodyTooSlow: Row(408, "invalid_request_error", "body_too_slow"),
    NotOffered: Row(501, "not_supported_error", "not_offered"),
    NotJson: Row(415, "invalid_request_error", "unsupported_media_type"),
}


def row_of(error: e.ZhibeiError) -> Row:
    """The row of an error's class, or of the nearest class above it."""
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def envelope(error: e.ZhibeiError, *, detail: bool = False) -> bytes:
    """``{"error": {message, type, param, code}}``; with ``detail`` also what ``wire.decode_error`` reads."""
    row, hint = row_of(error), error.hint_text
    body: dict[str, object] = {
        "message": str(error) if hint is None else f"{error} {hint}",
        "type": row.type,
        "param": "model" if isinstance(error, e.ModelNotFound) else getattr(error, "param", None),
        "code": row.code,
    }
    if detail:
        body[ERROR_DETAIL_KEY] = encode_error(error)
    return orjson.dumps({"error": body})


def openai_envelope(error: e.ZhibeiError, request_id: str, detail: bool) -> ErrorReply:
    """An error as OpenAI says it."""
    return ErrorReply(row_of(error).status, envelope(error, detail=detail), headers_of(error))


def headers_of(error: e.ZhibeiError) -> Headers:
    """What goes with the envelope when it is the whole response."""
    row = row_of(error)
    headers = [(b"content-type", b"application/json")]
    if not row.retry and (row.status >= 500 or row.status in (408, 409, 429)):
        headers.append((b"x-should-retry", b"false"))
    if isinstance(error, e.Busy):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if isinstance(error, KeyNeeded):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, TooManyWrongKeys):
        headers.append((b"retry-after", str(int(WINDOW_S)).encode()))
    return headers


def unexpected(error: BaseException, request_id: str) -> e.ZhibeiError:
    """The error to show for one that nobody named. Logs where it happened; its text may hold a prompt and is not logged."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("request %s failed: %s\n%s", request_id, type(error).__name__, frames)
    return e.ZhibeiError(
        "Something went wrong inside the server.", hint="Its log has the place under the request id {id}.", id=request_id
    )
