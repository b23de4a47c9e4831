"""Keys: every route that exists, and those that do not (security.md §2.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from support.serving import MODEL, Serving, serving, stored_model
from zhibei.app import build
from zhibei.server.auth import PUBLIC
from zhibei.server.http import create_routes
from zhibei.settings import Settings

KEY = "a key of some length"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home: Path = tmp_path_factory.mktemp("auth") / "home"
    stored_model(home)
    with serving(home, api_key=KEY) as made:
        yield made


def flat(routes: list[BaseRoute]) -> list[Route]:
    found: list[Route] = []
    for route in routes:
        if isinstance(route, Route):
            found.append(route)
        else:
            # Newer versions of FastAPI keep an included router as it is, older ones copy its routes.
            found += flat(getattr(route, "original_router", route).routes)  # type: ignore[attr-defined]
    return found


def all_routes() -> list[tuple[str, str]]:
    routes = create_routes(build(Settings()))
    return sorted((method, route.path) for route in flat(list(routes.routes)) for method in route.methods or ())


def test_the_walk_finds_the_routes() -> None:
    found = all_routes()
    for wanted in (("POST", "/v1/chat/completions"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/health")):
        assert wanted in found
    assert ("POST", "/zhibei/v1/pull") in found and len(found) > 15


def test_every_route_refuses_a_request_without_the_key_but_the_public_ones(server: Serving) -> None:
    known = all_routes()
    others = [(method, path) for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "TRACE") for _, path in known]
    with httpx.Client(base_url=server.url) as client:
        for method, pattern in sorted({*known, *others, ("GET", "/"), ("GET", "/nowhere"), ("GET", "/metrics"), ("POST", "/v1")}):
            path = re.sub(r"{[^}]*}", "tiny", pattern)
            for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}, {"cookie": f"key={KEY}"}):
                reply = client.request(method, path, headers=headers, params={"api_key": KEY, "key": KEY})
                if (method, pattern) in PUBLIC:
                    assert reply.status_code in (200, 405)
                else:
                    assert reply.status_code == 401, (method, path, headers)
                    assert reply.headers["www-authenticate"] == "Bearer"
    assert server.script.requests == []


def test_only_health_is_public_and_says_nothing() -> None:
    assert {path for _, path in PUBLIC} == {"/health"}


def test_tricks_with_the_path_do_not_help(server: Serving) -> None:
    with httpx.Client(base_url=server.url) as client:
        for path in (
            "/health/../v1/models",
            "/health%2f..%2fv1/models",
            "//v1/models",
            "/health/",
            "/health;/v1/models",
            "/HEALTH",
        ):
            assert client.get(path).status_code == 401, path


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"X-Api-Key": KEY}])
def test_both_headers_open_everything_alike(server: Serving, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=server.url, headers=headers) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.get("/docs").status_code == 200
        assert client.post("/v1/completions", json={"model": MODEL, "prompt": "x"}).status_code == 200
        assert client.get("/zhibei/v1/ps").status_code == 200
        assert client.get("/nowhere").status_code == 404


def test_guessing_is_slowed_down(tmp_path: Path) -> None:
    stored_model(tmp_path / "home")
    with serving(tmp_path / "home", api_key=KEY) as made, httpx.Client(base_url=made.url) as client:
        statuses = [client.get("/v1/models", headers={"x-api-key": f"guess {number}"}).status_code for number in range(15)]
        assert statuses == [401] * 10 + [429] * 5
        reply = client.get("/v1/models", headers={"x-api-key": "another"})
        assert int(reply.headers["retry-after"]) > 0 and reply.json()["error"]["code"] == "too_many_wrong_keys"
        assert client.get("/health").status_code == 200


def test_routes_are_json_routes() -> None:
    """A route that is made in another way would read bodies that nobody has looked at."""
    from zhibei.server.json_route import JsonRoute

    for route in flat(list(create_routes(build(Settings())).routes)):
        if isinstance(route, APIRoute) and route.methods != {"GET"}:
            assert isinstance(route, JsonRoute), route.path
