"""A client that asks many small questions of a server, one after the other on one connection, at little cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, HTTPResponse
from typing import Any

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read to its end. ``headers`` finds names in any case."""

    status_code: int
    headers: Message
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


class PlainClient:
    """Sends what it is told and nothing of its own but Host and the length."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection

    def request(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Reply:
        with closing(self._send(method, target, headers, body)) as answer:
            return Reply(answer.status, answer.headers, answer.read())

    def refusal(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Reply:
        """An answer, read only if it is no success: some of those have no end."""
        with closing(self._send(method, target, headers, body)) as answer:
            if answer.status != 200:
                return Reply(answer.status, answer.headers, answer.read())
            self._connection.close()
            return Reply(answer.status, answer.headers, b"")

    def post(self, target: str, document: object) -> Reply:
        return self.request("POST", target, {"content-type": "application/json"}, json.dumps(document).encode())

    def _send(self, method: str, target: str, headers: Mapping[str, str] | None, body: bytes | None) -> HTTPResponse:
        self._connection.request(method, target, body, dict(headers or {}))
        return self._connection.getresponse()


@contextmanager
def plain_client(port: int) -> Iterator[PlainClient]:
    """A client of a server on this machine."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
        yield PlainClient(connection)
