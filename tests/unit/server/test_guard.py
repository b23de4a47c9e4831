"""The rules before every route, against an application that only notes that it was reached."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter

from support.asgi import Client, call, http_scope
from zhibei.errors import Busy
from zhibei.server import guard as guard_module
from zhibei.server.access import SCOPES, Access, AccessRules, is_loopback
from zhibei.server.auth import Keeper
from zhibei.server.dialect import Dialect, Dialects
from zhibei.server.drain import Drain
from zhibei.server.errors import openai_envelope
from zhibei.server.guard import Guard, Message, Receive, Scope, Send
from zhibei.server.keys import KeyFile
from zhibei.settings import ServerSettings

ORIGIN = "http://localhost:3000"


@dataclass
class Inside:
    """Notes what reaches it, and answers 200."""

    bodies: list[bytes] = field(default_factory=list)
    error: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.error is not None:
            raise self.error
        body, more = b"", scope["method"] != "GET"
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@dataclass
class Case:
    inside: Inside
    guard: Guard
    drain: Drain


def make(rules: AccessRules | None = None, keys: KeyFile | None = None, **settings: Any) -> Case:
    inside, drain = Inside(), Drain()
    own = ServerSettings(**settings)
    dialects = Dialects((Dialect("test", lambda app: APIRouter(), rules or {}, openai_envelope, ()),))
    return Case(inside, Guard(inside, own, keeper=Keeper(own.api_key, keys), drain=drain, dialects=dialects), drain)


# Host (B-01)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost:80",
        "localhost.:11435",
        "127.0.0.1",
        "127.0.0.1:9",
        "[::1]",
        "[::1]:11435",
        "LocalHost.:1",
    ],
)
@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "192.168.1.5"])
async def test_loopback_names_are_answered_in_every_bind_mode(host: str, bound: str) -> None:
    assert (await call(make(host=bound).guard, headers={"host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:11435",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "0.0.0.0",
        "[::]",
        "192.168.1.6",
        "10.0.0.1:11435",
        "foo.local",
        "localhost..",
        "localhost:evil",
        "localhost@evil.example",
        "evil.example/localhost",
        "2130706433",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::1",
    ],
)
@pytest.mark.parametrize("settings", [{}, {"api_key": "k"}, {"host": "0.0.0.0"}, {"host": "192.168.1.5", "api_key": "k"}])
async def test_other_names_are_refused_before_anything_else(host: str, settings: dict[str, str]) -> None:
    case = make(**settings)
    reply = await call(case.guard, headers={"host": host, "authorization": "Bearer k"})
    assert (reply.status, reply.code, case.inside.bodies) == (403, "not_permitted", [])


async def test_configured_names_and_the_address_that_was_connected_to_are_answered() -> None:
    case = make(host="0.0.0.0", allowed_hosts=("Box.Example", "fd00::1"))
    for host in ("box.example", "BOX.example.:99", "[fd00::1]:1"):
        assert (await call(case.guard, headers={"host": host})).status == 200
    for local, host in (("192.168.1.5", "192.168.1.5:11435"), ("::ffff:192.168.1.5", "192.168.1.5"), ("fe80::1", "[fe80::1]")):
        assert (await call(case.guard, headers={"host": host}, server=(local, 11435))).status == 200
    assert (await call(make(host="192.168.1.5").guard, headers={"host": "192.168.1.5"})).status == 200


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"], [""]])
async def test_there_must_be_one_host(hosts: list[str]) -> None:
    client = Client()
    case = make()
    await case.guard(http_scope("GET", "/", [("host", host) for host in hosts]), client.receive, client.send)
    assert client.reply.status in (400, 403)
    assert case.inside.bodies == []


# Origin (B-02, B-03, B-06, B-10)


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://0.0.0.0:11435"},
        {"origin": "http://localhost:3000"},
        {"origin": "https://localhost:11435", "host": "localhost:11435"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
async def test_pages_of_other_sites_change_nothing(method: str, headers: dict[str, str], content_type: str) -> None:
    case = make()
    for body in (b"{}", None):
        reply = await call(case.guard, method, headers={**headers, "content-type": content_type}, body=body)
        assert reply.status == 403
    assert case.inside.bodies == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://localhost:11435", "host": "localhost:11435"},
        {"origin": "HTTP://LOCALHOST", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin"},
        {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
    ],
)
async def test_programs_own_pages_and_configured_origins_may(headers: dict[str, str]) -> None:
    assert (await call(make(origins=(ORIGIN + "/",)).guard, "POST", headers=headers, body=b"{}")).status == 200


async def test_without_configured_origins_no_page_may_read_an_answer() -> None:
    for origin in ("https://evil.example", "null", "http://localhost"):
        for method in ("GET", "POST", "OPTIONS"):
            headers = {"origin": origin, "access-control-request-method": "POST"}
            reply = await call(make().guard, method, headers=headers)
            assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_a_configured_origin_may_read_answers_and_errors_and_no_other_may() -> None:
    case = make(origins=(ORIGIN,), api_key="k")
    for key, status in (("k", 200), ("wrong", 401)):
        reply = await call(case.guard, headers={"origin": ORIGIN, "authorization": f"Bearer {key}"})
        assert (reply.status, reply.headers["access-control-allow-origin"], reply.headers["vary"]) == (status, ORIGIN, "Origin")
        assert "access-control-allow-credentials" not in reply.headers
    other = await call(case.guard, headers={"origin": "http://localhost:3001", "authorization": "Bearer k"})
    assert "access-control-allow-origin" not in other.headers and other.headers["vary"] == "Origin"


async def test_a_preflight_is_answered_for_configured_origins_without_a_key() -> None:
    case = make(origins=(ORIGIN,), api_key="k")
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    private = {"access-control-request-private-network": "true"}
    reply = await call(case.guard, "OPTIONS", headers={"origin": ORIGIN, **asked, **private})
    assert (reply.status, reply.headers["access-control-allow-headers"]) == (204, "authorization,content-type")
    assert reply.headers["access-control-allow-private-network"] == "true"
    assert (await call(case.guard, "OPTIONS", headers={"origin": "https://evil.example", **asked})).status == 403
    assert case.inside.bodies == []


# Key


async def test_the_key_is_asked_for_before_the_body_is_read() -> None:
    case = make(api_key="k")
    client = Client([b"{}"])
    headers = {"host": "localhost", "content-type": "application/json", "content-length": "2"}
    await case.guard(http_scope("POST", "/v1/chat/completions", headers), client.receive, client.send)
    assert (client.reply.status, client.reply.headers["www-authenticate"], client.num_received) == (401, "Bearer", 0)


SCOPED: AccessRules = {
    ("GET", "/open"): Access(None),
    ("POST", "/write"): Access("chat"),
    ("GET", "/look/{name:path}"): Access("read"),
    ("POST", "/change"): Access("admin"),
}


async def test_a_key_opens_the_routes_of_its_scopes_and_an_administrators_all(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    keys = {scope: file.create(scope, (scope,))[1] for scope in SCOPES}
    case = make(SCOPED, file)
    opened = {
        scope: [
            path
            for method, path in (
                ("GET", "/open"),
                ("POST", "/write"),
                ("HEAD", "/look/a/b"),
                ("POST", "/change"),
                ("GET", "/write"),
            )
            if (await call(case.guard, method, path=path, headers={"x-api-key": key})).status == 200
        ]
        for scope, key in keys.items()
    }
    assert opened["chat"] == ["/open", "/write"] and opened["read"] == ["/open", "/look/a/b"]
    assert opened["admin"] == ["/open", "/write", "/look/a/b", "/change", "/write"], "what has no rule is an administrator's too"
    for path, status in (("/open", 200), ("/look/a", 401), ("/nowhere", 401)):
        assert (await call(case.guard, path=path)).status == status


# Media type and size (B-04, H-01, H-02)


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "text/json", "multipart/form-data", "application/jsonx", "application/x-ndjson"]
)
async def test_a_body_must_say_that_it_is_json(content_type: str) -> None:
    case = make()
    for body in (b"{}", [b"{", b"}"]):
        reply = await call(case.guard, "POST", headers={"content-type": content_type}, body=body)
        assert (reply.status, case.inside.bodies) == (415, [])


UNTYPED: AccessRules = {("POST", "/"): Access("chat", may_be_untyped=True), ("POST", "/file"): Access("admin", "file")}
CURL = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("content_type", ["", CURL, "application/json"])
async def test_where_it_is_allowed_a_program_need_not_say_that_it_sends_json(content_type: str) -> None:
    assert (await call(make(UNTYPED).guard, "POST", path="/", headers={"content-type": content_type}, body=b"{}")).status == 200
    assert (await call(make(UNTYPED).guard, "POST", path="/x", headers={"content-type": CURL}, body=b"{}")).status == 415


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x", CURL + "; charset=UTF-8", "text/json"])
async def test_what_only_a_page_would_say_is_not_taken_there_either(content_type: str) -> None:
    assert (await call(make(UNTYPED).guard, "POST", path="/", headers={"content-type": content_type}, body=b"{}")).status == 415


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost:11435", "host": "localhost:11435"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin"},
        {"referer": "https://evil.example/"},
    ],
)
@pytest.mark.parametrize("content_type", ["", CURL])
async def test_a_page_must_always_say_it(headers: dict[str, str], content_type: str) -> None:
    case = make(UNTYPED)
    reply = await call(case.guard, "POST", path="/", headers={**headers, "content-type": content_type}, body=b"{}")
    assert (reply.status, case.inside.bodies) == (415, [])


async def test_a_file_is_of_any_type_and_read_by_its_route_whatever_its_size() -> None:
    case = make(UNTYPED, max_body_bytes=10)
    for content_type in ("", "application/octet-stream", "application/json"):
        reply = await call(case.guard, "POST", path="/file", headers={"content-type": content_type}, body=[b"x" * 8] * 8)
        assert (reply.status, case.inside.bodies.pop()) == (200, b"x" * 64)
    for headers, status in (({"origin": "https://evil.example"}, 403), ({"host": "evil.example"}, 403)):
        assert (await call(case.guard, "POST", path="/file", headers=headers, body=b"x")).status == status
    assert case.inside.bodies == []


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", " application/json "])
async def test_json_may_be_said_in_several_ways(content_type: str) -> None:
    assert (await call(make().guard, "POST", headers={"content-type": content_type}, body=b"{}")).status == 200


async def test_requests_without_a_body_need_no_type() -> None:
    for method in ("POST", "DELETE"):
        case = make()
        client = Client([b""])
        await case.guard(http_scope(method, "/", {"host": "localhost"}), client.receive, client.send)
        assert client.reply.status == 200


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    client = Client([b"x" * 101])
    case = make(max_body_bytes=100)
    headers = {"host": "localhost", "content-type": "application/json", "content-length": "101"}
    await case.guard(http_scope("POST", "/", headers), client.receive, client.send)
    assert (client.reply.status, client.reply.headers["connection"], client.num_received) == (413, "close", 0)


async def test_a_body_that_turns_out_too_large_is_read_one_piece_too_far() -> None:
    client = Client([b"x" * 40] * 100)
    case = make(max_body_bytes=100)
    headers = {"host": "localhost", "content-type": "application/json", "transfer-encoding": "chunked"}
    await case.guard(http_scope("POST", "/", headers), client.receive, client.send)
    assert (client.reply.status, client.num_received, case.inside.bodies) == (413, 3, [])


async def test_a_body_is_handed_on_whole() -> None:
    case = make(max_body_bytes=6)
    assert (await call(case.guard, "POST", body=[b"ab", b"", b"cd", b"ef"])).status == 200
    assert case.inside.bodies == [b"abcdef"]


async def test_a_body_that_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "BODY_TIMEOUT_S", 0.01)
    client = Client()
    headers = {"host": "localhost", "content-type": "application/json", "content-length": "10"}
    await make().guard(http_scope("POST", "/", headers), client.receive, client.send)
    assert client.reply.status == 408


async def test_a_client_that_leaves_while_it_sends_gets_no_answer() -> None:
    client = Client()
    client.leave()
    case = make()
    headers = {"host": "localhost", "content-type": "application/json", "content-length": "10"}
    await case.guard(http_scope("POST", "/", headers), client.receive, client.send)
    assert (client.reply.status, case.inside.bodies) == (0, [])


async def test_headers_are_bounded_in_number_and_size() -> None:
    many = {f"x-{number}": "1" for number in range(101)}
    assert (await call(make().guard, headers=many)).status == 400
    assert (await call(make().guard, headers={"x-large": "1" * (64 * 1024)})).status == 400


# Errors, headers, draining


async def test_every_answer_has_the_security_headers_and_an_id() -> None:
    for headers in ({}, {"host": "evil.example"}):
        reply = await call(make().guard, headers=headers)
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["cache-control"] == "no-store"
        assert len(reply.headers["x-request-id"]) == 16


async def test_an_unnamed_error_is_a_500_with_the_id_alone() -> None:
    case = make()
    case.inside.error = RuntimeError("the prompt")
    reply = await call(case.guard)
    assert reply.status == 500
    assert reply.headers["x-request-id"].encode() in reply.body and b"prompt" not in reply.body


async def test_a_named_error_has_its_own_status() -> None:
    case = make()
    case.inside.error = Busy("Full.", retry_after_s=3)
    reply = await call(case.guard)
    assert (reply.status, reply.headers["retry-after"], reply.code) == (503, "3", "busy")


async def test_a_draining_server_takes_nothing_new_and_says_when_to_come_back() -> None:
    case = make()
    case.drain.begin()
    for path in ("/v1/models", "/health"):
        reply = await call(case.guard, path=path)
        assert (reply.status, int(reply.headers["retry-after"]) > 0) == (503, True)
    assert case.inside.bodies == []


async def test_requests_are_counted_while_they_last() -> None:
    case = make()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await leave.wait()

    guard = Guard(slow, ServerSettings(), keeper=Keeper(None), drain=case.drain)
    task = asyncio.ensure_future(call(guard))
    await entered.wait()
    assert case.drain.num_requests == 1
    leave.set()
    await task
    assert case.drain.num_requests == 0


async def test_what_is_not_http_is_not_answered() -> None:
    async def nothing() -> Message:
        raise AssertionError

    async def no_answer(message: Message) -> None:
        raise AssertionError

    await make().guard({"type": "websocket"}, nothing, no_answer)


LOOPBACK = ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST.")
REACHABLE = ("0.0.0.0", "::", "192.168.1.5", "box.example", "")


def test_what_is_loopback() -> None:
    assert [host for host in (*LOOPBACK, *REACHABLE) if is_loopback(host)] == list(LOOPBACK)
