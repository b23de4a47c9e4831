"""Bodies that are read past the HTTP library: every byte in order, and the connection whole again; on both event loops."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pytest
import trustme

from zhibei.store.options import Timers
from zhibei.store.receiving import BLOCK_BYTES, receive

CONTENT = bytes(range(256)) * 20_000 + b"the end"
Run = Callable[[Coroutine[Any, Any, None]], None]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _uvloop(work: Coroutine[Any, Any, None]) -> None:
    uvloop = pytest.importorskip("uvloop")
    uvloop.run(work)


@pytest.fixture(params=[asyncio.run, _uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


class Server:
    """Answers every request with ``CONTENT``; ``speak`` writes the body in its own way."""

    def __init__(self, speak: Callable[[asyncio.StreamWriter], Awaitable[None]], head: str = "") -> None:
        self.num_connections = 0
        self._speak = speak
        self._head = head or f"Content-Length: {len(CONTENT)}\r\n"

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(f"HTTP/1.1 200 OK\r\n{self._head}\r\n".encode())
                await self._speak(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"{'https' if context else 'http'}://127.0.0.1:{port}/"


async def whole(writer: asyncio.StreamWriter) -> None:
    writer.write(CONTENT)


async def body_of(response: aiohttp.ClientResponse, timers: Timers = Timers()) -> list[bytes]:
    received = receive(response, timers)
    assert received is not None
    async with aclosing(received) as blocks:
        return [bytes(block) async for block in blocks]


def test_the_body_comes_whole_in_blocks_and_the_connection_serves_again(run: Run) -> None:
    async def work() -> None:
        server = Server(whole)
        async with listening(server) as url, aiohttp.ClientSession() as session:
            for _ in range(4):
                async with session.get(url) as response:
                    blocks = await body_of(response)
                    assert b"".join(blocks) == CONTENT
                    assert max(map(len, blocks)) <= BLOCK_BYTES
            assert server.num_connections == 1

    run(work())


def test_a_body_that_came_with_its_head_is_no_different(run: Run) -> None:
    async def short(writer: asyncio.StreamWriter) -> None:
        writer.write(b"short")

    async def work() -> None:
        server = Server(short, "Content-Length: 5\r\n")
        async with listening(server) as url, aiohttp.ClientSession() as session:
            for _ in range(3):
                async with session.get(url) as response:
                    await asyncio.sleep(0)
                    received = receive(response, Timers())
                    body = await response.read() if received is None else b"".join([bytes(b) async for b in received])
                    assert body == b"short"
            assert server.num_connections == 1

    run(work())


def test_pieces_of_any_size_are_put_together_in_order(run: Run) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        position = 0
        for length in (1, 65_536, 3, 1_000_000, 7, 300_000, len(CONTENT)):
            writer.write(CONTENT[position : position + length])
            position += length
            await writer.drain()
            await asyncio.sleep(0)

    async def work() -> None:
        async with listening(Server(trickle)) as url, aiohttp.ClientSession() as session, session.get(url) as response:
            assert b"".join(await body_of(response)) == CONTENT

    run(work())


def test_what_came_before_a_cut_is_handed_over_first(run: Run) -> None:
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(CONTENT[: 3 * BLOCK_BYTES // 2])
        await writer.drain()
        raise ConnectionError

    async def work() -> None:
        async with listening(Server(cut)) as url, aiohttp.ClientSession() as session, session.get(url) as response:
            received = receive(response, Timers())
            assert received is not None
            got = bytearray()
            async with aclosing(received) as blocks:
                async for block in blocks:
                    got += block
            assert got == CONTENT[: 3 * BLOCK_BYTES // 2]

    run(work())


def test_a_body_that_stalls_ends_in_a_timeout_after_what_came(run: Run) -> None:
    async def stall(writer: asyncio.StreamWriter) -> None:
        writer.write(CONTENT[:5000])
        await writer.drain()
        await asyncio.sleep(60)

    async def work() -> None:
        async with listening(Server(stall)) as url, aiohttp.ClientSession() as session, session.get(url) as response:
            received = receive(response, Timers(stall_s=0.05))
            assert received is not None
            got = bytearray()
            with pytest.raises(asyncio.TimeoutError):
                async with aclosing(received) as blocks:
                    async for block in blocks:
                        got += block
            assert got == CONTENT[:5000]
            response.close()

    run(work())


def test_leaving_early_closes_the_connection_and_spoils_no_other(run: Run) -> None:
    async def work() -> None:
        server = Server(whole)
        async with listening(server) as url, aiohttp.ClientSession() as session:
            async with session.get(url) as response:
                received = receive(response, Timers())
                assert received is not None
                async with aclosing(received) as blocks:
                    async for _ in blocks:
                        break
                response.close()
            async with session.get(url) as response:
                assert b"".join(await body_of(response)) == CONTENT
            assert server.num_connections == 2

    run(work())


def test_a_body_of_unknown_length_is_left_to_the_library(run: Run) -> None:
    async def chunked(writer: asyncio.StreamWriter) -> None:
        writer.write(b"5\r\nhello\r\n0\r\n\r\n")

    async def work() -> None:
        head = "Transfer-Encoding: chunked\r\n"
        async with listening(Server(chunked, head)) as url, aiohttp.ClientSession() as session, session.get(url) as response:
            assert receive(response, Timers()) is None
            assert await response.read() == b"hello"

    run(work())


def test_over_tls_it_is_the_same(run: Run) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def work() -> None:
        server = Server(whole)
        connector = aiohttp.TCPConnector(ssl=trusting)
        async with listening(server, context) as url, aiohttp.ClientSession(connector=connector) as session:
            for _ in range(3):
                async with session.get(url) as response:
                    assert b"".join(await body_of(response)) == CONTENT
            assert server.num_connections == 1

    run(work())
