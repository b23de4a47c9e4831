"""An HTTP server that serves one file properly, or with any fault a test asks for. Raw sockets, so that it can lie.

    async with HostileServer(content) as server:
        server.fault = cut_at(1000)          from now on; None: none
        ... server.url("model.gguf") ...
        assert server.requests[-1].range == "bytes=1000-"

A fault gets the request and the honest reply and returns the reply to send.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType


@dataclass(frozen=True)
class Request:
    """A request as it came; ``number`` counts the bodies asked for from 1 (looks at the header do not count)."""

    method: str
    path: str
    headers: dict[str, str]
    number: int

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def is_body(self) -> bool:
        """Whether the file itself is wanted, from some byte to its end."""
        return self.range is None or self.range.endswith("-")

    @property
    def first(self) -> int:
        match = re.match(r"bytes=(\d+)-", self.range or "")
        return int(match[1]) if match else 0


@dataclass(frozen=True)
class Reply:
    """What is sent. ``cut_after``: close after so many body bytes; ``hold_after``: wait there for ``hold``."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    cut_after: int | None = None
    hold_after: int | None = None
    hold: asyncio.Event | None = None
    piece_bytes: int = 65536
    on_piece: Callable[[], object] | None = None
    raw: bytes | None = None

    def with_headers(self, **headers: str | None) -> Reply:
        merged = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return replace(self, headers={name: value for name, value in merged.items() if value is not None})


Fault = Callable[[Request, Reply], "Reply | None"]


class HostileServer:
    """Serves ``content`` under every path, with ranges, ``If-Range`` and an ETag."""

    def __init__(self, content: bytes, *, etag: str | None = '"one"', host: str = "127.0.0.1") -> None:
        self.content = content
        self.etag = etag
        self.fault: Fault | None = None
        self.requests: list[Request] = []
        self.num_body_bytes = 0
        self._host = host
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> HostileServer:
        self._server = await asyncio.start_server(self._accept, self._host, 0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def url(self, path: str = "Tiny-Q4_0.gguf", host: str | None = None) -> str:
        return f"http://{host or self._host}:{self.port}/{path}"

    @property
    def bodies(self) -> list[Request]:
        """The requests for the file itself."""
        return [request for request in self.requests if request.is_body]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        request = Request(method, path, headers, len(self.bodies) + 1)
        self.requests.append(request)
        reply = self._honest(request)
        if self.fault is not None:
            reply = self.fault(request, reply) or reply
        return await self._send(reply, writer)

    def _honest(self, request: Request) -> Reply:
        size = len(self.content)
        headers = {"Content-Type": "application/octet-stream", **({"ETag": self.etag} if self.etag else {})}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
        if match is None or request.headers.get("if-range", self.etag) != self.etag:
            return Reply(200, headers, self.content)
        first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
        if first >= size:
            return Reply(416, {**headers, "Content-Range": f"bytes */{size}"})
        return Reply(206, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}, self.content[first : last + 1])

    async def _send(self, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        if reply.raw is not None:
            writer.write(reply.raw)
            await writer.drain()
            return False
        headers = dict(reply.headers)
        if reply.length != -1:
            headers["Content-Length"] = str(len(reply.body) if reply.length is None else reply.length)
        else:
            headers["Connection"] = "close"
        if reply.hold_after is not None and reply.hold_after < 0:
            await self._hold(reply)
        lines = [f"HTTP/1.1 {reply.status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        sent = 0
        stops = sorted({stop for stop in (reply.cut_after, reply.hold_after) if stop is not None and stop >= 0})
        while sent < len(reply.body):
            if sent == reply.hold_after:
                await self._hold(reply)
            if sent == reply.cut_after:
                await writer.drain()
                return False
            end = min([sent + reply.piece_bytes, len(reply.body), *(stop for stop in stops if stop > sent)])
            writer.write(reply.body[sent:end])
            await writer.drain()
            self.num_body_bytes += end - sent
            sent = end
            if reply.on_piece is not None:
                await asyncio.sleep(0)
                reply.on_piece()
        return reply.length != -1

    async def _hold(self, reply: Reply) -> None:
        await (reply.hold or asyncio.Event()).wait()


def cut_at(position: int, *, times: int = 1 << 30) -> Fault:
    """Close the connection at a byte of the file, so many times; looks at the header are let pass."""
    left = [times]

    def fault(request: Request, reply: Reply) -> Reply | None:
        if not request.is_body or reply.status not in (200, 206) or not left[0]:
            return None
        left[0] -= 1
        return replace(reply, cut_after=max(0, position - request.first))

    return fault


def bodies_only(fault: Fault) -> Fault:
    """A fault that strikes only requests for the file itself."""
    return lambda request, reply: fault(request, reply) if request.is_body else None
