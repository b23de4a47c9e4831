"""Keys: every route that exists, and those that do not (A-01, A-02, A-05, A-06, A-07, A-08)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from fastapi.routing import APIRoute

from support.every_route import METHODS, Writing, all_routes, dialects, endpoint, routes, sample, writing
from support.plain_client import Reply, plain_client
from support.serving import MODEL, Serving, serving, stored_model
from zhibei.events import Finished, TextDelta, Usage
from zhibei.server.access import SCOPES, Scope
from zhibei.server.http import DIALECTS
from zhibei.server.json_route import JsonRoute
from zhibei.server.keys import KeyFile, KeyLimits
from zhibei.settings import DEFAULT_MODEL

KEY = "a key of some length"
# What is there for everybody. To add to it is a decision; nothing else may become public by an oversight.
PUBLIC = {("GET", "/health"), ("GET", "/v1/health"), ("GET", "/")}
# Questions that are asked with POST, because they need a body.
LOOKING = {("POST", path) for path in ("/api/show", *(f"/zhibei/v1/{name}" for name in ("fit", "plan", "recommend", "advise")))}
END = Finished(("stop",), Usage(2, 3))


def home_with_models(home: Path) -> Path:
    stored_model(home)
    stored_model(home, DEFAULT_MODEL)
    return home


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(home_with_models(tmp_path_factory.mktemp("auth") / "home"), api_key=KEY) as made:
        yield made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    home = home_with_models(tmp_path / "home")
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving(home, **options))


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, dict[Scope, str]]]:
    """A server and, for each scope, a key that has no other."""
    home = home_with_models(tmp_path_factory.mktemp("keyed") / "home")
    with serving(home) as made:
        yield made, {scope: KeyFile(home).create(scope, (scope,))[1] for scope in SCOPES}


def said(reply: httpx.Response | Reply) -> str:
    """The message of an error, in whichever dialect."""
    document = json.loads(reply.text)
    error = document.get("error", document.get("detail"))
    message = error if isinstance(error, str) else error.get("message", error.get("msg"))
    assert isinstance(message, str) and message
    return message


# Every route is written down


def test_the_walk_finds_the_routes() -> None:
    found = all_routes()
    for wanted in (("POST", "/v1/chat/completions"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/health")):
        assert wanted in found
    assert ("POST", "/zhibei/v1/pull") in found and ("GET", "/metrics") in found


def test_every_route_has_a_rule_and_every_rule_has_a_route() -> None:
    there = {("GET" if method == "HEAD" else method, pattern) for method, pattern in all_routes()}
    written = {key for dialect in DIALECTS for key in dialect.access}
    without = [key for key in sorted(there) if dialects().rule(key[0], sample(key[1])) is None]
    assert without == []
    assert sorted(written - there) == []


def test_a_request_falls_under_the_rule_of_the_route_that_it_reaches() -> None:
    """Where patterns overlap, table and router must agree on the first that fits, or a request could borrow another's rule."""
    for _, pattern in all_routes():
        for value in ("nothing", "a/b", "copy"):
            path = sample(pattern, value)
            for method in ("GET", "POST", "DELETE"):
                reached = endpoint(method, path)
                rule = dialects().rule(method, path)
                if reached is not None:
                    assert rule is not None and rule.pattern == reached, (method, path)


def test_what_is_public_is_on_the_list() -> None:
    public = {(method, pattern) for method, pattern in all_routes() if _scope(method, pattern) is None}
    assert public <= PUBLIC | {("HEAD", path) for _, path in PUBLIC}


def test_what_changes_anything_is_not_for_those_who_may_only_look() -> None:
    for method, pattern in all_routes():
        if method not in ("GET", "HEAD") and _scope(method, pattern) == "read":
            assert (method, pattern) in LOOKING


def test_routes_are_json_routes() -> None:
    """A route that is made in another way would read bodies that nobody has looked at."""
    for route in routes():
        if isinstance(route, APIRoute) and not route.methods <= {"GET", "HEAD"}:
            method = next(iter(route.methods))
            rule = dialects().rule(method, sample(route.path))
            assert isinstance(route, JsonRoute) or (rule is not None and rule.access.body == "file"), route.path


def _scope(method: str, pattern: str) -> Scope | None:
    rule = dialects().rule(method, sample(pattern))
    assert rule is not None
    return rule.access.scope


# With one key


def test_every_route_refuses_a_request_without_the_key_but_the_public_ones(server: Serving) -> None:
    known = all_routes()
    others = [(method, path) for method in METHODS for _, path in known]
    with plain_client(server.port) as client:
        for method, pattern in sorted({*known, *others, ("GET", "/nowhere"), ("POST", "/v1"), ("GET", "/v2/models")}):
            path = f"{sample(pattern)}?{urlencode({'api_key': KEY, 'key': KEY, 'token': KEY})}"
            public = ("GET" if method == "HEAD" else method, pattern) in PUBLIC
            for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}, {"cookie": f"key={KEY}"}):
                reply = client.request(method, path, headers)
                if public:
                    assert reply.status_code in (200, 405)
                else:
                    assert reply.status_code == 401, (method, path, headers)
                    assert reply.headers["www-authenticate"] == "Bearer"
                    assert method == "HEAD" or said(reply)
    assert server.script.requests == []


def test_tricks_with_the_path_do_not_help(server: Serving) -> None:
    with httpx.Client(base_url=server.url) as client:
        for path in (
            "/health/../v1/models",
            "/health%2f..%2fv1/models",
            "//v1/models",
            "/health/",
            "/health;/v1/models",
            "/HEALTH",
            "/%2e",
            "//",
            "/?/v1/models/../",
        ):
            reply = client.get(path)
            assert reply.status_code == 401 or reply.url.path == "/", path


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"X-Api-Key": KEY},
        {"Api-Key": KEY},
        {"X-Goog-Api-Key": KEY},
    ],
)
def test_all_headers_open_everything_alike(server: Serving, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=server.url, headers=headers) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.get("/docs").status_code == 200
        assert client.get("/zhibei/v1/ps").status_code == 200
        assert client.get("/nowhere").status_code == 404
        for each in writing():
            assert client.post(each.path, json=each.bodies[0]).status_code == 200, each.path


def test_guessing_is_slowed_down_whatever_address_is_claimed(start: Callable[..., Serving]) -> None:
    made = start(api_key=KEY)
    with httpx.Client(base_url=made.url) as client:

        def guess(number: int) -> int:
            claimed = f"10.0.0.{number}"
            headers = {
                "x-api-key": f"guess {number}",
                "x-forwarded-for": claimed,
                "forwarded": f"for={claimed}",
                "x-real-ip": claimed,
            }
            return client.get("/v1/models", headers=headers).status_code

        assert [guess(number) for number in range(15)] == [401] * 10 + [429] * 5
        reply = client.get("/v1/models", headers={"x-api-key": "another"})
        assert int(reply.headers["retry-after"]) > 0 and reply.json()["error"]["code"] == "too_many_wrong_keys"
        assert client.get("/health").status_code == 200


def test_headers_of_proxies_are_not_believed(server: Serving) -> None:
    claims = {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https",
        "x-forwarded-prefix": "//evil.example",
        "x-original-url": "/health",
        "x-rewrite-url": "/health",
        "x-http-method-override": "DELETE",
    }
    with httpx.Client(base_url=server.url, headers=claims) as client:
        for path in ("/v1/models", "/v1/models/", "/docs", "/docs/"):
            for headers in ({}, {"x-api-key": KEY}):
                reply = client.get(path, headers=headers)
                assert "location" not in reply.headers and "evil" not in str(reply.headers)
                assert reply.status_code == 401 or headers


# With several keys, each for something else


def test_a_key_opens_what_it_is_for_and_nothing_else_in_every_dialect(keyed: tuple[Serving, dict[Scope, str]]) -> None:
    server, keys = keyed
    with plain_client(server.port) as client:
        for method, pattern in all_routes():
            needed = _scope(method, pattern)
            for scope, key in keys.items():
                for name, value in (("authorization", f"Bearer {key}"), ("x-api-key", key), ("x-goog-api-key", key)):
                    # No route does anything with this body; those that take none are asked about nothing that exists.
                    headers = {name: value, "content-type": "application/json"}
                    body = b"[" if method not in ("GET", "HEAD") else b""
                    # Some answers have no end, so only errors are read.
                    reply = client.refusal(method, sample(pattern), headers, body)
                    text = reply.text
                    at = (method, pattern, scope, name, reply.status_code)
                    if needed in (None, scope) or scope == "admin":
                        assert reply.status_code != 401 and "lacks the scope" not in text, at
                    else:
                        assert reply.status_code == 403, at
                        assert method == "HEAD" or f"scope {needed}" in text


def test_where_nothing_is_written_down_only_an_administrator_learns_that_nothing_is_there(
    keyed: tuple[Serving, dict[Scope, str]],
) -> None:
    server, keys = keyed
    for method, path in (("GET", "/nowhere"), ("POST", "/v1/nothing"), ("DELETE", "/v1/models"), ("GET", "/api/nothing")):
        statuses = [httpx.request(method, server.url + path, headers={"x-api-key": keys[scope]}).status_code for scope in SCOPES]
        assert statuses[:2] == [403, 403] and statuses[2] in (404, 405), path


def test_a_key_is_taken_from_no_query_and_no_cookie(keyed: tuple[Serving, dict[Scope, str]]) -> None:
    server, keys = keyed
    for name in ("key", "api_key", "api-key", "token", "access_token", "x-api-key", "authorization"):
        reply = httpx.get(server.url + "/v1/models", params={name: keys["admin"]}, cookies={name: keys["admin"]})
        assert reply.status_code == 401
    basic = httpx.get(server.url + "/v1/models", auth=("user", keys["admin"]))
    assert basic.status_code == 401


# Revoking


@pytest.mark.parametrize("each", writing(), ids=lambda each: str(each.path))
def test_an_answer_ends_when_its_key_is_revoked(start: Callable[..., Serving], each: Writing) -> None:
    server = start()
    file = KeyFile(server.settings.home)
    gone, gone_text = file.create("", ("chat", "read"))
    _, kept_text = file.create("", ("chat", "read"))
    server.answers((TextDelta("word "), server.gate().step, END))
    with httpx.Client(base_url=server.url, timeout=20) as client, ThreadPoolExecutor(1) as threads:
        pending = threads.submit(client.post, each.path, json=each.bodies[-1], headers={"x-api-key": gone_text})
        server.until(lambda: server.script.num_running == 1)
        file.revoke(gone.id)
        assert client.get("/v1/models", headers={"x-api-key": gone_text}).status_code == 401
        reply = pending.result()
        assert reply.status_code == (401 if each.stream is None else 200)
        assert b"revoked" in reply.content and (each.done == b"" or each.done not in reply.content)
        server.until(lambda: server.script.num_running == 0)
        file.create("", ("admin",))
        assert client.get("/v1/models", headers={"x-api-key": kept_text}).status_code == 200
        file.path.unlink()
        assert client.get("/v1/models").status_code == 401


# Limits (E-10)


def test_a_key_that_floods_is_told_to_wait_and_the_others_are_served(start: Callable[..., Serving]) -> None:
    server = start()
    file = KeyFile(server.settings.home)
    _, flood = file.create("flood", ("chat", "read"), KeyLimits(requests_per_minute=20))
    _, other = file.create("other", ("chat",))
    with httpx.Client(base_url=server.url, timeout=20) as client:
        replies = [client.get("/v1/models", headers={"x-api-key": flood}) for _ in range(100)]
        statuses = [reply.status_code for reply in replies]
        assert statuses[:20] == [200] * 20 and statuses.count(429) > 70
        assert replies[0].headers["x-ratelimit-limit-requests"] == "20"
        assert replies[0].headers["x-ratelimit-remaining-requests"] == "19"
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert int(refused.headers["retry-after"]) > 0 and refused.json()["error"]["code"] == "rate_limit_exceeded"
        for each in writing():
            assert client.post(each.path, json=each.bodies[0], headers={"x-api-key": flood}).status_code == 429
            assert client.post(each.path, json=each.bodies[0], headers={"x-api-key": other}).status_code == 200


@pytest.mark.parametrize("each", writing(), ids=lambda each: str(each.path))
def test_tokens_are_counted_in_every_dialect(start: Callable[..., Serving], each: Writing) -> None:
    server = start()
    _, text = KeyFile(server.settings.home).create("", ("chat",), KeyLimits(tokens_per_minute=50))
    headers = {"x-api-key": text}
    server.answers((TextDelta("x"), Finished(("stop",), Usage(100, 5000))))
    with httpx.Client(base_url=server.url, timeout=20) as client:
        first = client.post(each.path, json=each.bodies[-1], headers=headers)
        assert (first.status_code, first.headers["x-ratelimit-limit-tokens"]) == (200, "50")
        refused = client.post(each.path, json=each.bodies[-1], headers=headers)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 60
        assert "tokens a minute" in said(refused)


def test_so_many_requests_at_once_for_a_key(start: Callable[..., Serving]) -> None:
    server = start()
    file = KeyFile(server.settings.home)
    _, text = file.create("", ("chat",), KeyLimits(concurrent=1))
    gate = server.gate()
    server.answers((TextDelta("word "), gate.step, END))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    with httpx.Client(base_url=server.url, headers={"x-api-key": text}, timeout=20) as client:
        with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as reply:
            server.until(lambda: server.script.num_running == 1)
            assert client.post("/v1/chat/completions", json=body).status_code == 429
            gate.open()
            assert b"[DONE]" in reply.read()
        server.until(lambda: server.script.num_running == 0)
        assert client.post("/v1/chat/completions", json=body).status_code == 200
