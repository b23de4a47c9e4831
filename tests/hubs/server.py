"""The hub itself: two servers on this machine, the hub and another host beside it, that answer and keep a log.

    async with Hub(sample_content()) as hub:
        hub.strike("cut_50", paths="*.gguf")
        ... hub.url ...
        assert hub.num_bytes_sent("Tiny-Q4_K_M.gguf") < 10_000

All three protocols are spoken at once, at the same address. ``python -m hubs.server --root DIR --port N`` serves
the repositories that lie as ``DIR/owner/name``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote

from aiohttp import web

from hubs import huggingface, modelscope, ollama
from hubs.answers import Answer, Question, Site, answer_cdn, ranged
from hubs.content import Blob, Content, read_root, sample_content
from hubs.delivery import break_off, send
from hubs.faults import FAULTS, Fault, Strike, Strikes

TOKEN = "hf_opens_all"
POOR_TOKEN = "hf_opens_nothing"
_PROTOCOLS = (answer_cdn, huggingface.answer, modelscope.answer, ollama.answer)
_ELSEWHERE = (answer_cdn, ollama.answer_token, huggingface.answer, modelscope.answer, ollama.answer)


@dataclass
class Entry:
    """A request in the log. ``file``: whose bytes, or whose redirect; ``fault``: what struck it; ``bytes_sent``: of the body."""

    origin: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    kind: str = ""
    status: int = 0
    file: str | None = None
    fault: str | None = None
    bytes_sent: int = 0

    @property
    def has_credentials(self) -> bool:
        return "authorization" in self.headers or "cookie" in self.headers


@dataclass
class Hub:
    """``cdn_elsewhere``, ``realm_elsewhere``: large files, or Ollama's tokens, are had from the other host.

    ``access``: what each token opens. ``content`` may be replaced at any time. Two hubs with one content are mirrors.
    """

    content: Content = field(default_factory=sample_content)
    cdn_elsewhere: bool = False
    realm_elsewhere: bool = False
    needs_token: bool = False
    page_size: int = 1000
    access: Mapping[str, frozenset[str]] = field(default_factory=lambda: {TOKEN: frozenset("*"), POOR_TOKEN: frozenset()})
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        self.log: list[Entry] = []
        self.strikes = Strikes()
        self._released = asyncio.Event()
        self._servers: list[tuple[asyncio.Server, web.Server]] = []

    async def __aenter__(self) -> Hub:
        await self._listen("hub", self.port)
        await self._listen("other", 0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for listening, server in self._servers:
            listening.close()
            await server.shutdown(0.01)
        self._servers.clear()

    @property
    def url(self) -> str:
        return self._url(0)

    @property
    def other_url(self) -> str:
        return self._url(1)

    def strike(self, fault: str | Fault, **changes: object) -> Strike:
        """Put a fault in place: one of the table, with other ``first``, ``times`` or ``paths`` if wanted."""
        chosen = FAULTS[fault] if isinstance(fault, str) else fault
        strike = Strike(replace(chosen, **changes))  # type: ignore[arg-type]
        self.strikes.placed.append(strike)
        return strike

    def heal(self) -> None:
        """No more faults; what was stalled goes on."""
        self.strikes.placed.clear()
        self.release()

    def release(self) -> None:
        """Let what is stalled now go on."""
        self._released.set()
        self._released = asyncio.Event()

    def files(self, file: str | None = None) -> list[Entry]:
        """The requests that a file's bytes were sent for; looks (HEAD) do not count."""
        sent = [entry for entry in self.log if entry.kind == "file" and entry.method == "GET"]
        return [entry for entry in sent if file in (None, entry.file)]

    def num_bytes_sent(self, file: str | None = None) -> int:
        """How many bytes of a file have gone out, over all requests; None: of all files."""
        return sum(entry.bytes_sent for entry in self.files(file))

    def _url(self, index: int) -> str:
        return f"http://{self.host}:{self._servers[index][0].sockets[0].getsockname()[1]}"

    async def _listen(self, origin: str, port: int) -> None:
        server: web.Server = web.Server(partial(self._handle, origin), handler_cancellation=True, access_log=None)
        listening = await asyncio.get_running_loop().create_server(
            partial(self._accept, origin, server), self.host, port, family=socket.AF_INET
        )
        self._servers.append((listening, server))

    def _accept(self, origin: str, server: web.Server) -> asyncio.BaseProtocol:
        if origin == "hub" and self.strikes.refuses_connection():
            return _Refusing()
        return server()

    def _site(self) -> Site:
        return Site(
            content=self.content,
            url=self.url,
            other_url=self.other_url,
            cdn_url=self.other_url if self.cdn_elsewhere else self.url,
            realm_url=self.other_url if self.realm_elsewhere else self.url,
            access=self.access,
            page_size=self.page_size,
            needs_token=self.needs_token,
            listed=self.strikes.listed,
        )

    async def _handle(self, origin: str, request: web.BaseRequest) -> web.StreamResponse:
        question = _question(origin, request)
        entry = Entry(origin, question.method, question.path, question.query, question.headers)
        self.log.append(entry)
        answer, entry.fault = self._answer(question)
        entry.kind, entry.status, entry.file = answer.kind, answer.status, answer.file

        def count(num_bytes: int) -> None:
            entry.bytes_sent += num_bytes

        return await send(request, answer, lambda: asyncio.ensure_future(self._hold()), count)

    async def _hold(self) -> None:
        await self._released.wait()

    def _answer(self, question: Question) -> tuple[Answer, str | None]:
        site = self._site()
        if question.method not in ("GET", "HEAD"):
            return Answer("error", 405, {"Allow": "GET, HEAD"}, Blob(b"")), None
        for protocol in _PROTOCOLS if question.origin == "hub" else _ELSEWHERE:
            answer = protocol(question, site)
            if answer is not None:
                break
        else:
            answer = Answer("error", 404, {"Content-Type": "text/plain"}, Blob(b"Not Found"))
        if answer.kind == "file":
            answer = ranged(question, answer)
        return self.strikes.answered(question, answer, site)


class _Refusing(asyncio.Protocol):
    """Breaks a connection off as soon as it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        break_off(transport)


def _question(origin: str, request: web.BaseRequest) -> Question:
    raw = request.rel_url.raw_path
    segments = tuple(unquote(segment) for segment in raw.lstrip("/").split("/"))
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Question(request.method, segments, request.raw_path, dict(request.rel_url.query), headers, origin)


async def serve(root: Path, port: int) -> None:
    """Serve a directory's repositories until stopped. Their digests are reckoned beforehand."""
    content = read_root(root)
    for repository in content.repositories:
        for path, blob in repository.files(repository.default).items():
            print(f"{repository.id}/{path} {blob.size} {blob.sha256}", flush=True)
    async with Hub(content, port=port) as hub:
        print(f"Listening on {hub.url}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve DIR/owner/name as a hub.")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.root, options.port))


if __name__ == "__main__":
    main()
