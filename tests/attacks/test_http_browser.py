"""A web page and its reader's server (security.md §2.3): nothing is done for it, and nothing is shown to it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.every_route import sample
from support.plain_client import plain_client
from support.serving import MODEL, Serving, serving, stored_model

SAID = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Serving]]:
    home: Path = tmp_path_factory.mktemp("browser") / "home"
    stored_model(home)
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving(home, **options))


@pytest.fixture(scope="module")
def servers(start: Callable[..., Serving]) -> list[tuple[Serving, dict[str, str]]]:
    """Loopback and LAN, with and without a key; with the header that opens each."""
    key = {"authorization": "Bearer k"}
    return [
        (start(), {}),
        (start(api_key="k"), key),
        (start(host="0.0.0.0", api_key="k"), key),
        (start(host="0.0.0.0", allow_insecure_bind=True), {}),
    ]


def nothing_happened(server: Serving) -> bool:
    assert server.app is not None
    return server.script.requests == [] and server.script.started == [] and len(server.app.library.list()) == 1


def test_rebinding(servers: list[tuple[Serving, dict[str, str]]]) -> None:
    for server, key in servers:
        with httpx.Client(base_url=server.url, headers=key) as client:
            for host in (
                f"evil.example:{server.port}",
                "evil.example",
                "0.0.0.0",
                f"0.0.0.0:{server.port}",
                "box.local",
                "10.1.2.3",
            ):
                for method, path in (
                    ("GET", "/v1/models"),
                    ("POST", "/v1/chat/completions"),
                    ("GET", "/health"),
                    ("GET", "/docs"),
                ):
                    reply = client.request(method, path, headers={"host": host}, json=SAID if method == "POST" else None)
                    assert reply.status_code == 403, (host, path)
            for host in ("localhost", f"LOCALHOST:{server.port}", "localhost.", "127.0.0.1", f"[::1]:{server.port}"):
                assert client.get("/v1/models", headers={"host": host}).status_code == 200, host
        assert nothing_happened(server)


def test_the_machines_own_address_is_answered_when_it_was_asked_there(servers: list[tuple[Serving, dict[str, str]]]) -> None:
    address = next((found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)), "127.0.0.1")
    server, key = servers[2]
    assert httpx.get(f"http://{address}:{server.port}/v1/models", headers=key).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": EVIL},
        {"origin": "null"},
        {"origin": "http://localhost"},
        {"origin": "http://0.0.0.0:11435"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_requests_of_pages(servers: list[tuple[Serving, dict[str, str]]], headers: dict[str, str], content_type: str) -> None:
    for server, key in servers:
        sent = {**headers, **key, **({"content-type": content_type} if content_type else {})}
        with httpx.Client(base_url=server.url, headers=sent) as client:
            for method, path, body in (
                ("POST", "/v1/chat/completions", b'{"model":"tiny","messages":[{"role":"user","content":"x"}]}'),
                ("POST", "/v1/chat/completions", b""),
                ("POST", "/zhibei/v1/pull", b'{"ref":"smollm2:135m"}'),
                ("DELETE", "/zhibei/v1/models/tiny", b""),
                ("POST", "/zhibei/v1/models/copy", b'{"source":"tiny","target":"x"}'),
            ):
                assert client.request(method, path, content=body).status_code == 403
        assert nothing_happened(server)


def test_programs_send_neither_and_are_answered(start: Callable[..., Serving]) -> None:
    server = start()
    assert httpx.post(server.url + "/v1/chat/completions", json=SAID).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"]
)
def test_bodies_that_are_not_said_to_be_json(servers: list[tuple[Serving, dict[str, str]]], content_type: str) -> None:
    for server, key in servers:
        for path in ("/v1/chat/completions", "/v1/embeddings", "/zhibei/v1/pull", "/zhibei/v1/stop"):
            reply = httpx.post(server.url + path, content=b'{"model":"tiny"}', headers={"content-type": content_type, **key})
            assert reply.status_code == 415
        assert nothing_happened(server)


def test_looking_changes_nothing(servers: list[tuple[Serving, dict[str, str]]]) -> None:
    for server, key in (servers[0], servers[2]):
        headers = {**key, "origin": EVIL, "sec-fetch-site": "cross-site"}
        with plain_client(server.port) as client:
            paths = client.request("GET", "/openapi.json", headers).json()["paths"]
            for path in [*paths, "/docs"]:
                for method in ("GET", "HEAD", "OPTIONS"):
                    # Some answers have no end.
                    assert client.refusal(method, sample(path, "tiny"), headers).status_code
        assert nothing_happened(server)


def test_without_configured_origins_no_page_sees_an_answer(servers: list[tuple[Serving, dict[str, str]]]) -> None:
    for server, key in servers:
        with httpx.Client(base_url=server.url, headers=key) as client:
            for origin in (EVIL, "null", server.url, "http://localhost:3000"):
                for method, path in (("GET", "/v1/models"), ("OPTIONS", "/v1/chat/completions"), ("GET", "/nowhere")):
                    asked = {"origin": origin, "access-control-request-method": "POST"}
                    reply = client.request(method, path, headers=asked)
                    assert not any(name.startswith("access-control") for name in reply.headers)


def test_a_configured_origin_sees_answers_without_credentials(start: Callable[..., Serving]) -> None:
    own = "http://localhost:3000"
    server = start(origins=(own,), api_key="k")
    with httpx.Client(base_url=server.url, headers={"origin": own}) as client:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
        preflight = client.options("/v1/chat/completions", headers=asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, own)
        reply = client.post("/v1/chat/completions", json=SAID, headers={"authorization": "Bearer k"})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, own)
        refused = client.post("/v1/chat/completions", json=SAID)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, own)
        for found in (preflight, reply, refused):
            assert "access-control-allow-credentials" not in found.headers and "origin" in found.headers["vary"].lower()
    other = httpx.get(server.url + "/v1/models", headers={"origin": "http://localhost:3001", "authorization": "Bearer k"})
    assert "access-control-allow-origin" not in other.headers


def test_a_websocket_is_not_opened(servers: list[tuple[Serving, dict[str, str]]]) -> None:
    for server, key in servers:
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-key": "eA==", "sec-websocket-version": "13"}
        reply = httpx.get(server.url + "/v1/models", headers={**upgrade, **key, "origin": EVIL})
        assert reply.status_code != 101


def test_the_page_can_be_put_into_no_frame_and_loads_nothing(servers: list[tuple[Serving, dict[str, str]]]) -> None:
    server, key = servers[0]
    policy = httpx.get(server.url + "/docs", headers=key).headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
