"""Call an ASGI application without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from zhibei.server.guard import AsgiApp, Message


@dataclass
class Reply:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False
    pieces: list[bytes] = field(default_factory=list)

    @property
    def code(self) -> str:
        return str(orjson.loads(self.body)["error"]["code"])


class Client:
    """One request, whose body comes in ``pieces``; without any it never comes. Clear ``reading`` to have it read no more."""

    def __init__(self, pieces: Iterable[bytes] = ()) -> None:
        self.reply = Reply()
        self.gone = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self._pieces = list(pieces)
        self.num_received = 0

    def leave(self) -> None:
        self.gone.set()

    async def receive(self) -> Message:
        if self._pieces:
            self.num_received += 1
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reading.wait()
        if message["type"] == "http.response.start":
            self.reply.status = message["status"]
            self.reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.reply.body += message.get("body", b"")
            self.reply.pieces.append(message.get("body", b""))
            self.reply.complete = not message.get("more_body", False)


def http_scope(
    method: str, path: str, headers: Mapping[str, str] | list[tuple[str, str]], *, server: tuple[str, int] = ("127.0.0.1", 11435)
) -> dict[str, Any]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs],
        "server": server,
        "client": ("127.0.0.1", 50000),
    }


async def call(
    app: AsgiApp,
    method: str = "GET",
    path: str = "/v1/models",
    headers: Mapping[str, str] | None = None,
    *,
    body: bytes | list[bytes] | None = None,
    server: tuple[str, int] = ("127.0.0.1", 11435),
) -> Reply:
    """A whole exchange. A body of several pieces comes without a Content-Length."""
    found = {"host": "localhost", **(headers or {})}
    pieces = [b""]
    if isinstance(body, bytes):
        pieces = [body]
        found.setdefault("content-length", str(len(body)))
        found.setdefault("content-type", "application/json")
    elif body is not None:
        pieces = body
        found.setdefault("transfer-encoding", "chunked")
        found.setdefault("content-type", "application/json")
    client = Client(pieces)
    given = {key: value for key, value in found.items() if value != ""}
    await app(http_scope(method, path, given, server=server), client.receive, client.send)
    return client.reply
