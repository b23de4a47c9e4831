"""What a request must pass before any route sees it. Owns the rules on Host, Origin, key, media type and size; and CORS.

Everything here looks at headers once and reads the body once; what a route then sends passes through a plain function call.
The rules hold whatever address the server listens on: a web page must not be able to use a server on its reader's machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from zhibei import errors as e
from zhibei.server.access import Rule
from zhibei.server.ask import ASK_KEY, NOBODY, Ask, ErrorReply, Headers, Watcher
from zhibei.server.auth import Keeper
from zhibei.server.crowd import Crowd
from zhibei.server.dialect import Dialects
from zhibei.server.drain import Drain
from zhibei.server.errors import BodyTooLarge, BodyTooSlow, NotJson, unexpected
from zhibei.server.limits import Limiter, TokenCount
from zhibei.settings import ServerSettings
from zhibei.wire import ERROR_DETAIL_HEADER, NATIVE_PREFIX

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 100
BODY_TIMEOUT_S = 30.0

_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_SECURITY_HEADERS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_API_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_EXPOSED = b", ".join(
    (
        b"x-request-id, x-zhibei-ignored, x-zhibei-unenforced, retry-after",
        b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests",
        b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
    )
)


class Guard:
    """The outermost ASGI application of the server."""

    def __init__(
        self,
        app: AsgiApp,
        settings: ServerSettings,
        *,
        keeper: Keeper,
        drain: Drain,
        dialects: Dialects | None = None,
        watchers: Sequence[Watcher] = (),
        limiter: Limiter | None = None,
        crowd: Crowd | None = None,
    ) -> None:
        self._app = app
        self._dialects = dialects or Dialects()
        self._limiter = limiter or Limiter()
        self._watchers = (TokenCount(self._limiter), *watchers)
        self._keeper = keeper
        self._crowd = crowd
        self._drain = drain
        self._max_body_bytes = settings.max_body_bytes
        self._hosts = LOOPBACK_NAMES | {_host_name(name) for name in (*settings.allowed_hosts, *_bound_name(settings.host))}
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then hand on; whatever goes wrong inside becomes a response."""
        if scope["type"] != "http":
            return
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        found = {name: value for name, value in headers if name in _WANTED}
        detail = ERROR_DETAIL_HEADER.encode() in found or scope["path"].startswith(NATIVE_PREFIX + "/")
        rule = self._dialects.rule(scope["method"], scope["path"])
        reply = _Reply(send, self._cors(found.get(b"origin")), self._ask(scope["path"], detail=detail))
        began_s = time.monotonic()
        try:
            await self._answer(scope, receive, headers, found, rule, reply)
        finally:
            took_s = time.monotonic() - began_s
            for watcher in self._watchers:
                watcher.answered(reply.ask, scope["method"], rule.pattern if rule is not None else "", reply.status, took_s)

    def _ask(self, path: str, *, detail: bool) -> Ask:
        request_id, say = secrets.token_hex(8), self._dialects.envelope(path)
        return Ask(request_id, detail, self._drain, lambda error: say(error, request_id, detail), NOBODY, self._watchers)

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        headers: Sequence[tuple[bytes, bytes]],
        found: dict[bytes, bytes],
        rule: Rule | None,
        reply: _Reply,
    ) -> None:
        takes_json = rule is None or rule.access.body == "json"
        try:
            self._check_head(scope, headers, found, rule)
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in found:
                await self._preflight(found, reply)
                return
            # What nobody has written down is an administrator's to see, and be it that there is nothing.
            caller, limits = self._keeper.admit("admin" if rule is None else rule.access.scope, headers, _client(scope))
            scope[ASK_KEY] = reply.ask = replace(reply.ask, caller=caller)
            self._drain.check()
            with self._limiter.request(caller.id, limits) as left, self._place(rule):
                reply.extra += left
                if takes_json and _has_body(found):
                    receive = await self._read_body(found, receive)
                if self._crowd is not None and _wants_model(rule):
                    await self._crowd.turn()
                with self._drain.request():
                    await self._app(scope, receive, reply.send)
        except _Gone:
            return
        except e.ZhibeiError as error:
            await reply.fail(error)
        except Exception as error:  # noqa: BLE001  the request edge
            await reply.fail(unexpected(error, reply.ask.id))

    def _place(self, rule: Rule | None) -> AbstractContextManager[None]:
        """A place among those who use models."""
        return self._crowd.request() if self._crowd is not None and _wants_model(rule) else nullcontext()

    def _check_head(
        self, scope: Scope, headers: Sequence[tuple[bytes, bytes]], found: dict[bytes, bytes], rule: Rule | None
    ) -> None:
        if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            raise e.BadRequest("The request has too many headers, or too large ones.")
        self._check_host(scope, headers)
        if scope["method"] not in _SAFE_METHODS:
            self._check_origin(scope, found)
            if (rule is None or rule.access.body == "json") and _has_body(found) and not _is_typed(found, rule):
                raise NotJson("The body must be JSON.", hint="Send the header Content-Type: application/json.")

    def _check_host(self, scope: Scope, headers: Sequence[tuple[bytes, bytes]]) -> None:
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            raise e.BadRequest("The request must have one Host header.")
        name = _host_name(hosts[0].decode("latin-1"))
        if name in self._hosts or name == _local_address(scope):
            return
        raise e.NotPermitted(
            "This server does not answer to the host name {name!r}.",
            hint="If it should, add it to server.allowed_hosts (ZHIBEI_ALLOWED_HOSTS).",
            name=name[:100],
        )

    def _check_origin(self, scope: Scope, found: dict[bytes, bytes]) -> None:
        origin = found.get(b"origin")
        if origin is not None:
            text = origin.decode("latin-1").lower()
            own = f"{scope['scheme']}://{found.get(b'host', b'').decode('latin-1').lower()}"
            if text != own and text not in self._origins:
                raise e.NotPermitted(
                    "Pages of {origin} may not use this server.",
                    hint="If they should, add the origin to server.origins (ZHIBEI_ORIGINS).",
                    origin=text[:200],
                )
        elif found.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise e.NotPermitted("Pages of other sites may not use this server.")

    def _cors(self, origin: bytes | None) -> Headers:
        if not self._origins:
            return []
        vary = (b"vary", b"Origin")
        if origin is None or origin.decode("latin-1").lower() not in self._origins:
            return [vary]
        return [vary, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]

    async def _preflight(self, found: dict[bytes, bytes], reply: _Reply) -> None:
        if found.get(b"origin", b"").decode("latin-1").lower() not in self._origins:
            raise e.NotPermitted("Pages of this origin may not use this server.")
        headers = [
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"access-control-allow-headers", found.get(b"access-control-request-headers", b"content-type")),
            (b"access-control-max-age", b"600"),
            (b"content-length", b"0"),
        ]
        if found.get(b"access-control-request-private-network") == b"true":
            headers.append((b"access-control-allow-private-network", b"true"))
        await reply.send({"type": "http.response.start", "status": 204, "headers": headers})
        await reply.send({"type": "http.response.body", "body": b""})

    async def _read_body(self, found: dict[bytes, bytes], receive: Receive) -> Receive:
        """The whole body, read within limits of size and time; as a ``receive`` that gives it in one piece."""
        length = found.get(b"content-length", b"0")
        if not length.isdigit():
            raise e.BadRequest("The Content-Length is not a number.")
        if int(length) > self._max_body_bytes:
            raise self._too_large()
        try:
            body = await asyncio.wait_for(self._collect(receive), BODY_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise BodyTooSlow("The request's body did not arrive within {seconds} s.", seconds=int(BODY_TIMEOUT_S)) from None
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    async def _collect(self, receive: Receive) -> bytes:
        pieces: list[bytes] = []
        num_bytes = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            piece: bytes = message.get("body", b"")
            num_bytes += len(piece)
            if num_bytes > self._max_body_bytes:
                raise self._too_large()
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge("The request is larger than {limit} bytes.", limit=self._max_body_bytes)


class _Gone(Exception):
    """The client left before its request was complete; nobody is there to be answered."""


class _Reply:
    """The way out: adds the guard's headers to the first message and lets the others pass."""

    def __init__(self, send: Send, extra: Headers, ask: Ask) -> None:
        self._send = send
        self.extra = list(extra)
        self.ask = ask
        self._started = False
        self.status = 0

    def send(self, message: Message) -> Awaitable[None]:
        if not self._started:
            self._started = True
            self.status = message["status"]
            headers: Headers = list(message["headers"])
            names = {name for name, _ in headers}
            if b"content-security-policy" not in names:
                headers.append(_API_POLICY)
            if b"cache-control" not in names:
                headers.append((b"cache-control", b"no-store"))
            headers += _SECURITY_HEADERS
            headers += self.extra
            headers.append((b"x-request-id", self.ask.id.encode()))
            message = {**message, "headers": headers}
        return self._send(message)

    async def fail(self, error: e.ZhibeiError) -> None:
        """The error as the whole response; nothing if a response is already under way, which then stays incomplete."""
        if self._started:
            return
        said: ErrorReply = self.ask.say(error)
        headers = [*said.headers, (b"content-length", str(len(said.body)).encode())]
        if isinstance(error, (BodyTooLarge, BodyTooSlow)):
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": said.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": said.body})


_WANTED = frozenset(
    (
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"referer",
        b"content-type",
        b"content-length",
        b"transfer-encoding",
        b"access-control-request-method",
        b"access-control-request-headers",
        b"access-control-request-private-network",
        ERROR_DETAIL_HEADER.encode(),
    )
)


def _wants_model(rule: Rule | None) -> bool:
    return rule is not None and rule.access.scope == "chat"


def _host_name(host: str) -> str:
    """A Host header without port and trailing dot, in lower case; IPv6 keeps its brackets."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[: text.find("]") + 1]
    if text.count(":") > 1:
        return f"[{text}]"
    name, _, port = text.partition(":")
    return (name[:-1] if name.endswith(".") else name) if not port or port.isdigit() else text


def _bound_name(host: str) -> tuple[str, ...]:
    """The configured address as a name to answer to; the wildcard addresses are nobody's name."""
    try:
        return () if ipaddress.ip_address(host).is_unspecified else (host,)
    except ValueError:
        return (host,)


def _local_address(scope: Scope) -> str | None:
    """The address on this machine that the client connected to, as a host name. A page cannot forge it by its DNS."""
    server = scope.get("server")
    return _host_name(str(server[0]).removeprefix("::ffff:")) if server else None


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _has_body(found: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in found or found.get(b"content-length", b"0") != b"0"


def _is_typed(found: dict[bytes, bytes], rule: Rule | None) -> bool:
    """Whether a body says that it is JSON. Ollama's programs, curl among them, need not; a page always does."""
    content_type = found.get(b"content-type", b"")
    is_page = not _MARKS_OF_PAGES.isdisjoint(found)
    if rule is not None and rule.access.may_be_untyped and not is_page and content_type in _UNTYPED:
        return True
    return _is_json(content_type)


# A form cannot write JSON under these types, and a script that can always sends its origin; the others are for safety.
_MARKS_OF_PAGES = frozenset((b"origin", b"sec-fetch-site", b"referer"))
# What curl says of a body of which nothing was said, and what others do not say.
_UNTYPED = (b"", b"application/x-www-form-urlencoded")


def _is_json(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == b"application/json"
