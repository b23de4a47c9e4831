"""Requests that mean harm, on the wire of a real server (security.md §2.1). After each, a good request still works."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from support.plain_client import plain_client
from support.serving import MODEL, Serving, serving, stored_model
from zhibei.engines.echo import EchoEngine

LIMIT = 256 * 1024
SAID = [{"role": "user", "content": "x"}]
CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
GENERATE = ((CHAT, {"messages": SAID}), (COMPLETION, {"prompt": "x"}))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home: Path = tmp_path_factory.mktemp("surface") / "home"
    stored_model(home)
    with serving(home, max_body_bytes=LIMIT) as made:
        yield made


@pytest.fixture(scope="module")
def shared(server: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as made:
        yield made


@pytest.fixture
def client(server: Serving, shared: httpx.Client) -> Iterator[httpx.Client]:
    yield shared
    assert shared.post(CHAT, json={"model": MODEL, "messages": SAID}).status_code == 200
    assert server.script.num_running == 0


def post(client: httpx.Client, path: str, body: bytes) -> httpx.Response:
    return client.post(path, content=body, headers={"content-type": "application/json"})


def refused(reply: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def talk(server: Serving, data: bytes) -> bytes:
    """Send bytes, and read until the server has answered or hung up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
                if b"\r\n\r\n" in found:
                    break
        except OSError:
            pass
        return found


# H-01


def test_a_body_over_the_limit(client: httpx.Client) -> None:
    refused(post(client, CHAT, b'{"model":"' + b"x" * LIMIT + b'"}'), 413)


def test_a_body_over_the_limit_in_chunks_is_read_one_chunk_too_far(server: Serving, client: httpx.Client) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = 0
    before = psutil.Process().memory_info().rss
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode())
        reply = b""
        connection.settimeout(0.001)
        while not reply and sent < 200 * LIMIT:
            try:
                connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                sent += 0x10000
                reply = connection.recv(65536)
            except TimeoutError:
                pass
            except OSError:
                break
    assert b"413" in reply[:20]
    assert sent < 50 * LIMIT
    assert psutil.Process().memory_info().rss - before < 64 << 20


# H-02


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"x-%d: 1\r\n" % number for number in range(150)),
        b"x-large: " + b"a" * 70_000 + b"\r\n",
        b"x-large: " + b"a" * 5_000_000 + b"\r\n",
        b"".join(b"x-%d: %s\r\n" % (number, b"a" * 1000) for number in range(5000)),
        b"a" * 1_000_000,
    ],
)
def test_headers_beyond_measure(server: Serving, client: httpx.Client, headers: bytes) -> None:
    before = psutil.Process().memory_info().rss
    reply = talk(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n")
    assert reply[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"")
    assert psutil.Process().memory_info().rss - before < 64 << 20


def test_a_target_beyond_measure(server: Serving, client: httpx.Client) -> None:
    reply = talk(server, b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert reply[:12] in (b"HTTP/1.1 400", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxxx",
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 1000,
    ],
)
def test_what_is_no_proper_http(server: Serving, client: httpx.Client, data: bytes) -> None:
    assert talk(server, data + b"\r\n\r\n")[:10] in (b"HTTP/1.1 4", b"")


# H-03


@pytest.mark.parametrize("path", [CHAT, COMPLETION, EMBEDDING, "/zhibei/v1/pull", "/zhibei/v1/tokenize"])
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
        b'{"n":' + b"9" * 5000 + b"}",
        b'{"n":' + b"9" * 4000 + b"}",
        b'{"temperature":NaN}',
        b'{"temperature":1e999}',
        b'{"model":"\\ud800"}',
        b'{"model":"\xff"}',
        b'{"model":"tiny","model":"tiny"}',
        b'{"metadata":{"a":' + b"[" * 300 + b"]" * 300 + b"}}",
        b"null",
        b'"x"',
        b"[]",
        b"1",
        b"{",
        b" ",
    ],
)
def test_json_that_is_none_or_is_not_sane(client: httpx.Client, path: str, body: bytes) -> None:
    reply = post(client, path, body)
    assert reply.status_code == 400 and reply.json()["error"]["type"] == "invalid_request_error"


def test_a_request_without_a_body(client: httpx.Client) -> None:
    for path in (CHAT, COMPLETION, EMBEDDING):
        refused(client.post(path))


# H-04

NUMBERS = (-(2**31), -1, 0, 2**31, 2**63, 10**30, 1e308, -1e308, "5", None, [], {}, True)
FIELDS = ("n", "best_of", "max_tokens", "max_completion_tokens", "top_k", "logprobs", "top_logprobs", "seed", "keep_alive")


@pytest.mark.parametrize("field", [*FIELDS, "temperature", "num_ctx", "num_predict", "num_batch", "n_discard", "n_predict"])
def test_numbers_beyond_measure(client: httpx.Client, field: str) -> None:
    for path, body in GENERATE:
        for value in NUMBERS:
            reply = client.post(path, json={"model": MODEL, **body, field: value})
            assert reply.status_code in (200, 400), (path, field, value, reply.text)
            if reply.status_code == 400:
                refused(reply)


@pytest.mark.parametrize(
    "field", ["ctx_size", "parallel", "threads", "batch_size", "ubatch_size", "gpu_layers", "rope_freq_base"]
)
def test_loading_beyond_measure(client: httpx.Client, field: str) -> None:
    for value in NUMBERS:
        reply = client.post(CHAT, json={"model": MODEL, "messages": SAID, "load": {field: value}})
        if value is None or (field, value) in (("gpu_layers", 0), ("rope_freq_base", 2**31)):
            assert reply.status_code == 200
        else:
            refused(reply)


def test_a_context_that_no_machine_has_is_a_refusal_too(client: httpx.Client) -> None:
    body = {"model": MODEL, "messages": SAID, "load": {"ctx_size": 2**31 - 1, "parallel": 1024}}
    assert client.post(CHAT, json=body).status_code in (200, 400, 507)


# H-05, H-06


def test_parameters_of_llama_cpp_are_reported_and_go_nowhere(server: Serving, client: httpx.Client) -> None:
    unknown = {"n_discard": -1, "cache_prompt": True, "id_slot": 3, "samplers": ["x"], "lora": [{"id": 0}], "n_probs": 10**9}
    for path, body in GENERATE:
        reply = client.post(path, json={"model": MODEL, **body, **unknown})
        assert reply.status_code == 200
        assert set(reply.headers["x-zhibei-ignored"].split(",")) == set(unknown)
        assert not any(name in repr(server.script.requests[-1]) for name in unknown)


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template": "{{ messages }}"},
        {"chat_template_kwargs": {"tokenize": True}},
        {"chat_template_kwargs": {"chat_template": "x"}},
        {"load": {"chat_template": "{{ x }}"}},
        {"load": {"lora": [["/etc/passwd", 1]]}},
        {"load": {"mmproj": "/etc/passwd"}},
    ],
)
def test_templates_and_files_of_a_request(client: httpx.Client, fields: dict[str, Any]) -> None:
    refused(client.post(CHAT, json={"model": MODEL, "messages": SAID, **fields}))


# H-08


def test_a_grammar_is_refused_whatever_is_in_it(client: httpx.Client) -> None:
    for path, body in GENERATE:
        assert (
            refused(client.post(path, json={"model": MODEL, **body, "grammar": "root ::= " + "(" * 60_000}))["param"] == "grammar"
        )


# H-07, H-09


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


BAD_SCHEMAS: dict[str, Any] = {
    "bad regex": {"type": "string", "pattern": "^(unclosed$"},
    "cycle": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "deep": nested(120),
    "many values": {"enum": [f"v{number}" for number in range(20_000)]},
    "minItems": {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
    "elsewhere": {"$ref": "http://127.0.0.1:1/schema.json"},
}


@pytest.mark.parametrize("kind", BAD_SCHEMAS)
def test_schemas_beyond_measure(client: httpx.Client, kind: str) -> None:
    schema = BAD_SCHEMAS[kind]
    asked = {"model": MODEL, "messages": SAID}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    refused(client.post(CHAT, json={**asked, "response_format": wanted}))
    refused(client.post(CHAT, json={**asked, "json_schema": schema}))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": schema}}}}
    refused(client.post(CHAT, json={**asked, "tools": [tool]}))


# H-16


def test_an_error_inside_shows_an_id_and_no_more(
    server: Serving, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    private = "/srv/" + "private"

    def fail(engine: EchoEngine, request: Any) -> None:
        raise RuntimeError(request.messages[0].text + private)

    monkeypatch.setattr(EchoEngine, "chat", fail)
    with caplog.at_level(logging.DEBUG):
        reply = client.post(CHAT, json={"model": MODEL, "messages": [{"role": "user", "content": "my secret"}]})
    monkeypatch.undo()
    error = refused(reply, 500)
    assert reply.headers["x-request-id"] in error["message"] and reply.headers["x-request-id"] in caplog.text
    assert "RuntimeError" in caplog.text and "generation.py" in caplog.text
    for text in (reply.text, caplog.text):
        assert "secret" not in text and private not in text and "Traceback" not in reply.text


def test_prompts_and_keys_are_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored_model(tmp_path / "home")
    with caplog.at_level(logging.DEBUG), serving(tmp_path / "home", api_key="key-secret") as made:
        with httpx.Client(base_url=made.url, headers={"Authorization": "Bearer key-secret"}) as client:
            for stream in (False, True):
                said = [{"role": "user", "content": "prompt-secret"}]
                assert client.post(CHAT, json={"model": MODEL, "messages": said, "stream": stream, "odd": 1}).status_code == 200
            assert client.post(CHAT, json={"model": "prompt-secret", "messages": []}).status_code == 400
        with httpx.Client(base_url=made.url) as client:
            assert client.get("/v1/models", headers={"x-api-key": "wrong-secret"}).status_code == 401
    assert "secret" not in caplog.text


# H-14, in small


def test_random_bodies_never_break_anything(server: Serving, client: httpx.Client) -> None:
    """Every field of every request with values of every kind: an answer or a refusal, never an error of the server."""
    values = [None, True, 0, -1, 2**40, 0.5, "", "x", "é" * 100, [], ["x"], [1], [[]], {}, {"type": "text"}, {"a": {"b": []}}]
    api = client.get("/openapi.json").json()
    schemas = api["components"]["schemas"]
    base: dict[str, Any] = {"model": MODEL, "messages": SAID, "prompt": "x", "input": "x", "text": "x", "tokens": [1]}
    with plain_client(server.port) as plain:
        for path, methods in api["paths"].items():
            # The others are asked by what is made from the page.
            if path not in (CHAT, COMPLETION, EMBEDDING, "/zhibei/v1/tokenize", "/zhibei/v1/detokenize"):
                continue
            reference = methods["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            fields = schemas[reference.rpartition("/")[2]]["properties"]
            good = {name: value for name, value in base.items() if name in fields}
            for name in fields:
                for value in values:
                    reply = plain.post(path, {**good, name: value})
                    assert reply.status_code in (200, 400, 404), (path, name, value, reply.status_code, reply.text)
                    assert reply.status_code == 200 or json.loads(reply.text)["error"]["message"]
