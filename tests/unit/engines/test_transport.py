"""The way to a worker's socket: what is read from it, whatever the worker does."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from zhibei.engines import transport
from zhibei.engines.transport import Answer, ConnectionLost, NonsenseAnswer, SocketTransport
from zhibei.errors import Busy

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sockets of the file system")
Serve = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def worker(tmp_path: Path, serve: Serve) -> AsyncIterator[SocketTransport]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        except OSError:
            return
        finally:
            writer.close()

    path = str(tmp_path / "engine.sock")
    server = await asyncio.start_unix_server(handle, path)
    try:
        yield SocketTransport(path, "secret")
    finally:
        server.close()


def saying(*pieces: bytes) -> Serve:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return serve


async def rest(answer: Answer) -> bytes:
    found = b""
    try:
        while piece := await answer.read():
            found += piece
    finally:
        answer.close()
    return found


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD + b"Content-Length: 5\r\n\r\nhello",),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r", b"\nhe\r\n3\r\nl", b"lo\r\n0", b"\r\n\r\n"),
        (HEAD + b"Connection: close\r\n\r\nhel", b"lo"),
    ],
)
async def test_a_body_is_whole_however_it_is_framed_and_cut(tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    async with worker(tmp_path, saying(*pieces)) as way:
        answer = await way.send("GET", "/props", None)
        assert (answer.status, await rest(answer)) == (200, b"hello")


async def test_what_is_asked_arrives_with_the_key(tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend((head, await reader.readexactly(4)))
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with worker(tmp_path, serve) as way:
        answer = await way.send("POST", "/completion", b"body")
        assert (answer.status, await rest(answer)) == (503, b"")
    assert heard[0].startswith(b"POST /completion HTTP/1.1\r\n") and b"Authorization: Bearer secret\r\n" in heard[0]
    assert heard[1] == b"body"


@pytest.mark.parametrize("said", [b"Content-Length: 9\r\n\r\nhel", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe"])
async def test_an_end_before_the_end_is_a_loss_after_what_came(tmp_path: Path, said: bytes) -> None:
    async with worker(tmp_path, saying(HEAD + said)) as way:
        answer = await way.send("GET", "/props", None)
        assert said.endswith(await answer.read())
        with pytest.raises(ConnectionLost):
            await answer.read()
        answer.close()


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((b"",), ConnectionLost),
        ((HEAD + b"X: y\r\n",), ConnectionLost),
        ((b"SSH-2.0-x\r\n\r\n",), NonsenseAnswer),
        ((HEAD, *[b"X: " + b"y" * 8192 + b"\r\n"] * 12), NonsenseAnswer),
    ],
)
async def test_no_head_is_no_answer(tmp_path: Path, pieces: tuple[bytes, ...], expected: type[Exception]) -> None:
    async with worker(tmp_path, saying(*pieces)) as way:
        with pytest.raises(expected):
            await way.send("GET", "/props", None)


async def test_a_worker_that_is_not_listened_to_waits(tmp_path: Path) -> None:
    sent = 0

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        while sent < 16 << 20:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with worker(tmp_path, serve) as way:
        answer = await way.send("GET", "/props", None)
        before = -1
        while before != sent or not sent:
            before = sent
            await asyncio.sleep(0.05)
        assert 0 < sent < 4 << 20
        assert len(await rest(answer)) == 16 << 20


async def test_nobody_there_and_too_many_files_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionLost):
        await SocketTransport(str(tmp_path / "none.sock"), None).send("GET", "/", None)
    assert isinstance(transport._lost(OSError(errno.EMFILE, "so it is")), Busy)
