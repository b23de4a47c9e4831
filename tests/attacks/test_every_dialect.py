"""The same harm in every dialect (H-03, H-04, H-06, H-16, E-07): what one refuses, no other lets through."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.every_route import Writing, all_routes, dialects, sample, writing
from support.serving import Serving, serving, stored_model
from zhibei.engines.echo import EchoEngine
from zhibei.events import Finished, TextDelta, Usage
from zhibei.settings import DEFAULT_MODEL

# Not a literal of the line that raises: a trace shows its lines.
HIDDEN = "a secret of the prompt"
END = Finished(("stop",), Usage(1, 1))
NUMBERS: tuple[Any, ...] = (-(2**31), 2**31, 2**63, 10**30, 1e308, -1e308, [], {}, True)
EVERY = pytest.mark.parametrize("each", writing(), ids=lambda each: str(each.path))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home: Path = tmp_path_factory.mktemp("dialects") / "home"
    stored_model(home)
    stored_model(home, DEFAULT_MODEL)
    with serving(home) as made:
        yield made


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as made:
        yield made


def with_field(each: Writing, body: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    return {**body, each.options: {name: value}} if each.options else {**body, name: value}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"n":' + b"9" * 5000 + b"}",
        b'{"a":NaN}',
        b'{"model":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":1,"a":2}',
        b"{",
    ],
    ids=["deep", "long number", "nan", "surrogate", "no utf-8", "twice", "cut"],
)
def test_json_that_is_not_sane(client: httpx.Client, body: bytes) -> None:
    for each in writing():
        reply = client.post(each.path, content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 400, (each.path, reply.status_code, reply.text[:200])


def test_no_route_reads_what_is_not_said_to_be_json(client: httpx.Client) -> None:
    for method, pattern in all_routes():
        rule = dialects().rule(method, sample(pattern))
        assert rule is not None
        if method in ("POST", "PUT", "DELETE", "PATCH") and rule.access.body == "json":
            # What command lines send of themselves is let through where a dialect's own documents do without a type.
            untyped = ("application/x-www-form-urlencoded",) if rule.access.may_be_untyped else ()
            for kind in {"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"}.difference(
                untyped
            ):
                reply = client.request(method, sample(pattern), content=b"{}", headers={"content-type": kind})
                assert reply.status_code == 415, (method, pattern, kind)


@EVERY
def test_numbers_beyond_measure(client: httpx.Client, each: Writing) -> None:
    for name in (each.max_tokens, each.temperature, "seed", "top_k"):
        for value in NUMBERS:
            reply = client.post(each.path, json=with_field(each, each.bodies[0], name, value))
            assert reply.status_code in (200, 400), (name, value, reply.status_code, reply.text[:200])


@EVERY
def test_parameters_of_the_engine_go_nowhere(server: Serving, client: httpx.Client, each: Writing) -> None:
    odd = {"n_discard": -1, "lora_scaled": "x", "slot_save_path": "/tmp/x", "rpc_servers": "h"}
    reply = client.post(each.path, json={**each.bodies[0], **odd})
    assert reply.status_code in (200, 400)
    if reply.status_code == 200:
        assert not any(name in repr(server.script.requests[-1]) for name in odd)


@EVERY
def test_a_template_of_the_request_is_not_used(server: Serving, client: httpx.Client, each: Writing) -> None:
    for name in ("chat_template", "template"):
        reply = client.post(each.path, json={**each.bodies[0], name: "{{ 'mark' * 3 }}"})
        assert reply.status_code in (200, 400), reply.text[:200]
        assert "markmark" not in reply.text and "mark' * 3" not in reply.text


@EVERY
def test_an_error_inside_shows_an_id_and_no_more(
    client: httpx.Client, each: Writing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(engine: EchoEngine, request: Any) -> None:
        raise RuntimeError(HIDDEN)

    monkeypatch.setattr(EchoEngine, "chat", fail)
    monkeypatch.setattr(EchoEngine, "complete", fail)
    with caplog.at_level(logging.DEBUG):
        reply = client.post(each.path, json=each.bodies[0])
    assert reply.headers["x-request-id"] in reply.text and reply.headers["x-request-id"] in caplog.text
    assert HIDDEN not in reply.text + caplog.text and "Traceback" not in reply.text


@EVERY
def test_a_client_that_leaves_ends_the_work(server: Serving, each: Writing) -> None:
    for body in each.bodies:
        before = server.script.num_abandoned
        server.answers((TextDelta("word "), server.gate().step, END))
        data = json.dumps(body).encode()
        lines = (
            f"POST {each.path} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
        )
        head = "\r\n".join(lines) + "\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(head.encode() + data)
            server.until(lambda: server.script.num_running == 1)
        server.until(lambda before=before: server.script.num_abandoned == before + 1)  # type: ignore[misc]
