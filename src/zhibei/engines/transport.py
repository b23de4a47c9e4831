"""How an engine's server is reached: one request and its answer, of which the body comes in pieces.

Two ways with one shape: ``SocketTransport`` to a worker of this machine, ``HttpTransport`` to any other server. One connection
per request: closing an answer closes its connection, which is how the other side learns that nobody listens any more.
Knows nothing of what is said.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit

import httptools

from zhibei.errors import Busy, ZhibeiError
from zhibei.i18n import Phrase

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 64 << 10
# A worker that speaks faster than it is listened to waits, once this much lies here.
MAX_WAITING_BYTES = 256 << 10


class ConnectionLost(ZhibeiError):
    """The connection broke, or could not be made. The caller knows what that means and raises an error of its own."""


class NonsenseAnswer(ConnectionLost):
    """What was answered breaks the protocol: no JSON, or not the JSON that was asked for, or without end."""

    def __init__(self, problem: str | Phrase) -> None:
        super().__init__("The engine's answer makes no sense: {problem}", problem=problem)


class Answer(Protocol):
    """An answer that has begun. ``close`` it, however it ended."""

    @property
    def status(self) -> int:
        """HTTP status."""
        ...

    async def read(self) -> bytes:
        """What came since; empty at the end.

        Raises:
            ConnectionLost: it broke off.
        """
        ...

    def close(self) -> None:
        """Listen no more."""
        ...


class Transport(Protocol):
    """A way to one server."""

    async def send(self, method: str, path: str, body: bytes | None) -> Answer:
        """Ask, and wait for the head of the answer.

        Raises:
            Busy: this process has too many open files.
            ConnectionLost: there is nobody, or it broke off.
        """
        ...

    async def close(self) -> None:
        """Close what is open. Idempotent."""
        ...


def transport_to(address: str, key: str | None) -> Transport:
    """The way to a base address: ``unix:///run/x.sock``, or ``http://...``, which may be anywhere."""
    parts = urlsplit(address)
    return SocketTransport(parts.path, key) if parts.scheme == "unix" else HttpTransport(address, key)


class SocketTransport:
    """HTTP/1.1 over a socket of the file system, as far as llama.cpp's server speaks it.

    Every token of every answer comes this way, so it does little: httptools finds the body, and nothing is kept but that.
    """

    def __init__(self, path: str, key: str | None) -> None:
        self._path = path
        self._head = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        if key is not None:
            self._head += f"Authorization: Bearer {key}\r\n"

    async def send(self, method: str, path: str, body: bytes | None) -> Answer:
        """See ``Transport.send``."""
        answer = _SocketAnswer()
        try:
            # A socket of the file system is connected to at once, or not at all.
            transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: answer, self._path)
        except OSError as error:
            raise _lost(error) from error
        try:
            data = body or b""
            head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(data)}\r\n\r\n"
            transport.write(head.encode("latin-1") + data)
            await answer.begun()
        except BaseException:
            answer.close()
            raise
        return answer

    async def close(self) -> None:
        """Nothing is kept open."""


class _SocketAnswer(asyncio.Protocol):
    """Collects the body as it comes; whoever reads is woken once for all that came together."""

    def __init__(self) -> None:
        self.status = 0
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self._num_waiting_bytes = 0
        self._num_head_bytes = 0
        self._is_framed = False
        self._is_complete = False
        self._is_paused = False
        self._lost: ZhibeiError | None = None
        self._woken: asyncio.Future[None] | None = None

    async def begun(self) -> None:
        """Return once its head has come."""
        while not self.status:
            if self._lost is not None:
                raise self._lost
            await self._news()

    async def read(self) -> bytes:
        """See ``Answer.read``."""
        while not self._pieces:
            if self._is_complete:
                return b""
            if self._lost is not None:
                raise self._lost
            await self._news()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._num_waiting_bytes = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    def close(self) -> None:
        """Listen no more."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: there is a connection."""
        # uvloop's are not of asyncio's class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        if not self.status:
            self._num_head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(NonsenseAnswer(str(error)))
        if not self.status and self._num_head_bytes > MAX_HEAD_BYTES:
            self._fail(NonsenseAnswer("its head has no end"))
        if self._num_waiting_bytes > MAX_WAITING_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio: the connection ended."""
        if self.status and not self._is_framed:
            # Without a length, the end of the connection is the end of the answer.
            self._is_complete = True
        if not self._is_complete:
            self._fail(_lost(error or ConnectionResetError("the answer ended too early")))
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header."""
        self._is_framed = self._is_framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """httptools: the head has ended."""
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of the body."""
        self._pieces.append(body)
        self._num_waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        """httptools: the whole answer is here."""
        self._is_complete = True

    def _fail(self, lost: ZhibeiError) -> None:
        # The first reason is the reason.
        self._lost = self._lost or lost

    async def _news(self) -> None:
        self._woken = asyncio.get_running_loop().create_future()
        try:
            await self._woken
        finally:
            self._woken = None

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


class HttpTransport:
    """Any server, near or far, by aiohttp."""

    def __init__(self, address: str, key: str | None) -> None:
        self._address = address
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None

    async def send(self, method: str, path: str, body: bytes | None) -> Answer:
        """See ``Transport.send``."""
        import aiohttp

        try:
            url = self._address + path
            return _HttpAnswer(await self._connected().request(method, url, data=body, allow_redirects=False))
        except (aiohttp.ClientError, OSError) as error:
            raise _lost(error) from error

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                headers=self._headers,
                # A connection that was kept may be closed by the other side at the moment it is used again.
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                trust_env=False,
                auto_decompress=False,
            )
        return self._session


class _HttpAnswer:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    async def read(self) -> bytes:
        import aiohttp

        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise _lost(error) from error

    def close(self) -> None:
        self._response.close()


def _lost(error: BaseException) -> ZhibeiError:
    """The error for a connection that broke. Too many open files are this side's trouble, and nobody has died of it."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Busy("This server has too many open files.", hint="Raise its limit: ulimit -n.", retry_after_s=1)
    return ConnectionLost("The connection was lost: {problem}", problem=str(error) or type(error).__name__)
