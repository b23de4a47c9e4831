"""A client that goes away: whatever state its request is in, its work ends and its place is free (E-07, E-17)."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from support.serving import MODEL, Serving
from zhibei.engines.echo import EchoScript
from zhibei.events import Finished, TextDelta, Usage

END = Finished(("stop",), Usage(1, 1))
PATHS = ("/v1/chat/completions", "/v1/completions")


@contextmanager
def request(server: Serving, path: str = PATHS[0], *, stream: bool, **fields: Any) -> Iterator[socket.socket]:
    """A request that is sent and not waited for; leaving the block hangs up."""
    prompt = {"prompt": "x"} if path == PATHS[1] else {"messages": [{"role": "user", "content": "x"}]}
    body = json.dumps({"model": MODEL, "stream": stream, **prompt, **fields}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    try:
        connection.sendall(head.encode() + body)
        yield connection
    finally:
        connection.close()


def num_leases(server: Serving) -> int:
    assert server.app is not None
    return sum(resident.num_leases for resident in server.app.pool.residents())


def works(server: Serving) -> bool:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "still here"}]}
    reply = httpx.post(server.url + PATHS[0], json=body, timeout=20)
    return bool(reply.json()["choices"][0]["message"]["content"] == "still here")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before", [(), (TextDelta("a"), TextDelta("b"))], ids=["prefill", "decode"])
def test_while_the_engine_works(server: Serving, path: str, stream: bool, before: tuple[TextDelta, ...]) -> None:
    server.answers((*before, server.gate().step, END))
    with request(server, path, stream=stream):
        server.until(lambda: server.script.num_running == 1)
    server.until(lambda: server.script.num_abandoned == 1 and num_leases(server) == 0)
    assert works(server)


@pytest.mark.parametrize("stream", [False, True])
def test_while_the_model_is_loading(start: Callable[..., Serving], stream: bool) -> None:
    script = EchoScript()
    server = start(script=script)
    gate = server.gate()
    script.load = gate.event
    assert server.app is not None
    pool = server.app.pool
    with request(server, stream=stream):
        server.until(lambda: pool.num_waiting == 1)
    server.until(lambda: pool.num_waiting == 0)
    gate.open()
    assert works(server)
    assert len(script.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_while_it_is_queued(server: Serving, stream: bool) -> None:
    gate = server.gate()
    server.answers((gate.step, TextDelta("first"), END))
    one_slot = {"load": {"parallel": 1}}
    assert server.app is not None
    pool = server.app.pool
    with request(server, stream=False, **one_slot) as first:
        server.until(lambda: server.script.num_running == 1)
        with request(server, stream=stream, **one_slot):
            server.until(lambda: pool.num_waiting == 1)
        server.until(lambda: pool.num_waiting == 0)
        gate.open()
        reply = b""
        while b"first" not in reply:
            piece = first.recv(65536)
            assert piece, reply
            reply += piece
    assert len(server.script.requests) == 1
    assert works(server)


def test_while_it_reads_nothing(server: Serving) -> None:
    server.answers([TextDelta("x" * 10_000)] * 2000 + [END])
    with request(server, stream=True):
        server.until(lambda: server.script.num_running == 1)
    server.until(lambda: server.script.num_abandoned == 1 and num_leases(server) == 0)
    assert works(server)


def test_one_after_the_other_leaves_nothing_behind(server: Serving) -> None:
    for number in range(50):
        server.answers((TextDelta("a"), server.gate().step, END))
        with request(server, stream=number % 2 == 0):
            server.until(lambda: server.script.num_running == 1)
        server.until(lambda: server.script.num_running == 0)
    server.until(lambda: server.script.num_abandoned == 50 and num_leases(server) == 0)
    assert works(server)


def test_an_embedding_that_nobody_waits_for(server: Serving) -> None:
    body = {"model": MODEL, "input": ["x"] * 2000}
    for _ in range(3):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(server.url + "/v1/embeddings", json=body, timeout=httpx.Timeout(10, read=1e-6))
    server.until(lambda: num_leases(server) == 0)
    assert works(server)
