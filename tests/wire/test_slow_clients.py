"""A client that stops reading (E-08): little is kept for it, its work ends, its connection too, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest

from support.every_route import Writing, writing
from support.serving import MODEL, Serving, serving, stored_model
from zhibei.engines.echo import EchoScript
from zhibei.events import Finished, TextDelta, Usage
from zhibei.options import LoadOptions
from zhibei.server.protocol import BoundedProtocol
from zhibei.settings import Settings

STALL_S = 0.2
MAX_KEPT_BYTES = 1 << 20
# Far more than the machine itself keeps for a connection.
PIECE, NUM_PIECES = "x" * 4096, 16_000
ENDLESS = (*(TextDelta(PIECE),) * NUM_PIECES, Finished(("stop",), Usage(1, 1)))
STREAMS = [each for each in writing() if each.stream is not None and each.path != "/infill"]


class Connections:
    """The server's ends of all connections, and the most that waited in any of them."""

    def __init__(self) -> None:
        self.open: set[asyncio.Transport] = set()
        self.most_bytes = 0
        self.paused: set[BoundedProtocol] = set()

    def note(self) -> None:
        self.most_bytes = max((self.most_bytes, *(each.get_write_buffer_size() for each in self.open)))

    @property
    def num_paused(self) -> int:
        return sum(each.flow.write_paused for each in self.paused)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Connections:
    found = Connections()
    made, lost, paused = BoundedProtocol.connection_made, BoundedProtocol.connection_lost, BoundedProtocol.pause_writing

    def connection_made(self: BoundedProtocol, transport: asyncio.Transport) -> None:
        found.open.add(transport)
        made(self, transport)

    def connection_lost(self: BoundedProtocol, error: Exception | None) -> None:
        found.open.discard(self.transport)
        found.paused.discard(self)
        lost(self, error)

    def pause_writing(self: BoundedProtocol) -> None:
        found.note()
        found.paused.add(self)
        paused(self)

    for method in (connection_made, connection_lost, pause_writing):
        monkeypatch.setattr(BoundedProtocol, method.__name__, method)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = tmp_path_factory.mktemp("slow") / "home"
    stored_model(home)
    settings = Settings(model=MODEL, load=LoadOptions(parallel=len(STREAMS) + 1))
    with serving(home, script=EchoScript(), settings=settings) as running:
        yield running


def unread(server: Serving, path: str, body: dict[str, Any]) -> socket.socket:
    """A request whose answer nobody reads."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(head.encode() + data)
    return connection


def num_leases(server: Serving) -> int:
    assert server.app is not None
    return sum(resident.num_leases for resident in server.app.pool.residents())


def read_to_the_end(connection: socket.socket, until: bytes = b"") -> bytes:
    """What had come; a connection that was cut may end with a reset."""
    found = bytearray()
    with suppress(ConnectionResetError):
        while not (until and until in found[-100:]) and (piece := connection.recv(65536)):
            found += piece
    return bytes(found)


def test_while_many_are_not_read_little_is_kept_and_others_are_served(server: Serving, connections: Connections) -> None:
    abandoned = server.script.num_abandoned
    server.answers(*(ENDLESS,) * len(STREAMS))
    with ExitStack() as stack:
        for each in STREAMS:
            stack.enter_context(unread(server, each.path, {**each.body, **(each.stream or {})}))
        server.until(lambda: connections.num_paused == len(STREAMS))
        for each in STREAMS:
            other = httpx.post(server.url + each.path, json={**each.body, **(each.stream or {})}, timeout=20)
            assert other.status_code == 200 and each.done in other.content
        assert server.script.num_running == connections.num_paused == len(STREAMS)
    server.until(lambda: server.script.num_abandoned == abandoned + len(STREAMS) and num_leases(server) == 0)
    assert connections.most_bytes < MAX_KEPT_BYTES


@pytest.mark.parametrize("each", STREAMS, ids=lambda each: str(each.path))
def test_a_stream_that_nobody_reads_is_cut(
    server: Serving, connections: Connections, monkeypatch: pytest.MonkeyPatch, each: Writing
) -> None:
    monkeypatch.setattr("zhibei.server.streams.STALL_S", STALL_S)
    monkeypatch.setattr("zhibei.server.protocol.UNREAD_S", STALL_S)
    abandoned = server.script.num_abandoned
    server.answers(ENDLESS)
    with unread(server, each.path, {**each.body, **(each.stream or {})}) as connection:
        server.until(lambda: server.script.num_abandoned == abandoned + 1 and num_leases(server) == 0)
        server.until(lambda: not connections.open)
        found = read_to_the_end(connection)
    assert found and each.done not in found
    assert connections.most_bytes < MAX_KEPT_BYTES


def test_an_answer_in_one_piece_that_nobody_reads_is_not_kept(
    server: Serving, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhibei.server.protocol.UNREAD_S", STALL_S)
    server.answers(ENDLESS)
    with unread(server, "/v1/completions", {"model": MODEL, "prompt": "x", "stream": False}):
        server.until(lambda: connections.num_paused == 1)
        server.until(lambda: not connections.open)


def test_a_client_that_reads_slowly_gets_all(server: Serving, connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhibei.server.protocol.UNREAD_S", STALL_S)
    server.answers((*(TextDelta(PIECE),) * 2000, Finished(("stop",), Usage(1, 1))))
    with unread(server, "/v1/completions", {"model": MODEL, "prompt": "x", "stream": True}) as connection:
        server.until(lambda: connections.num_paused == 1)
        found = read_to_the_end(connection, until=b"[DONE]")
    assert found.count(PIECE.encode()) == 2000
