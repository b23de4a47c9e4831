"""Images in requests: where they may come from, and what is looked at before an engine gets them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import images
from support.serving import MODEL, Serving, serving
from zhibei.chat import ImagePart
from zhibei.errors import BadRequest, Unsupported
from zhibei.server import image_fetch
from zhibei.server.image_fetch import fetch_images
from zhibei.store.options import FetchOptions, Retries


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[Serving]:
    with serving(tiny_home) as made:
        yield made


class Target:
    """Listens on a port of this machine, answers as it is told, and counts who came."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.num_visits = 0
        self.heads: list[bytes] = []
        self._thread = threading.Thread(target=self._run, name="target")
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            self.num_visits += 1
            with visitor:
                head = b""
                while b"\r\n\r\n" not in head and (piece := visitor.recv(65536)):
                    head += piece
                self.heads.append(head)
                visitor.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.fixture
def target() -> Iterator[Target]:
    with closing(Target(ok(images.png()))) as made:
        yield made


def ok(body: bytes, status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n".encode() + body


def through(target: Target) -> FetchOptions:
    """Options that take the target for the proxy to everything."""
    return FetchOptions(proxy_for=lambda url: f"http://127.0.0.1:{target.port}", retries=Retries(1, 1))


def bodies(url: str) -> list[tuple[str, dict[str, Any]]]:
    """The same image in each dialect that takes addresses."""
    chat = [{"type": "image_url", "image_url": {"url": url}}]
    item = [{"type": "input_image", "image_url": url}]
    block = [{"type": "image", "source": {"type": "url", "url": url}}]
    return [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": chat}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": item}]}),
        ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": block}]}),
    ]


PRIVATE = [
    "file:///etc/passwd",
    "ftp://127.0.0.1:{port}/a.png",
    "//127.0.0.1:{port}/a.png",
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://localhost.:{port}/",
    "http://0.0.0.0:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f.1:{port}/",
    "http://0x7f000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/",
    "http://good\\@127.0.0.1:{port}/",
    "http://good@127.0.0.1:{port}/",
    "http://user:password@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\t/",
    "http://127.0.0.1:0/",
    "http://",
    "http://[",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_no_request_reaches_a_private_address(server: Serving, target: Target, url: str) -> None:
    for path, body in bodies(url.format(port=target.port)):
        for stream in (False, True):
            answer = httpx.post(server.url + path, json={"model": MODEL, "stream": stream, **body}, timeout=30)
            assert answer.status_code == 400, answer.text
            assert "passwd" not in answer.text and "Errno" not in answer.text and "refused" not in answer.text.lower()
    assert target.num_visits == 0 and server.script.requests == []


@pytest.mark.parametrize("where", ["http://127.0.0.1:1/", "http://169.254.169.254/", "file:///etc/passwd", "http://127.1/"])
async def test_a_redirect_to_a_private_address_is_not_followed(where: str) -> None:
    with closing(Target(ok(b"", "302 Found", f"Location: {where}\r\n"))) as proxy:
        with pytest.raises(BadRequest):
            await fetch_images(["http://images.example/a.png"], through(proxy))
        assert proxy.num_visits == 1


@pytest.mark.parametrize("found", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::ffff:10.0.0.1"], []])
async def test_a_name_of_a_private_address_is_not_asked(target: Target, found: list[str]) -> None:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return found

    options = FetchOptions(proxy_for=lambda url: None, lookup=lookup)
    with pytest.raises(BadRequest) as caught:
        await fetch_images([f"http://images.example:{target.port}/a.png"], options)
    assert "public address" in str(caught.value.hint_text) and target.num_visits == 0


async def test_what_is_at_a_public_address_is_fetched_once(target: Target) -> None:
    url = "http://images.example/a.png"
    assert await fetch_images([url, url], through(target)) == {url: ImagePart(images.png(), "image/png")}
    assert target.num_visits == 1 and b"authorization" not in target.heads[0].lower() and b"cookie" not in target.heads[0].lower()


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"<html>no</html>"),
        ok(b"<svg xmlns='http://www.w3.org/2000/svg'/>", extra="Content-Type: image/svg+xml\r\n"),
        ok(images.png(), "404 Not Found"),
        ok(images.png(), "206 Partial Content"),
        ok(images.png()[:-20]),
        ok(b""),
        ok(images.png(declared=(60000, 60000))),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\nshort",
        b"nonsense",
    ],
)
async def test_what_is_no_usable_image_is_refused(answer: bytes) -> None:
    with closing(Target(answer)) as proxy:
        with pytest.raises(BadRequest):
            await fetch_images(["http://images.example/a.png"], through(proxy))
        assert proxy.num_visits == 1


async def test_what_is_too_large_or_too_many_or_too_slow_is_refused(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [f"http://images.example/{index}.png" for index in range(17)]
    with pytest.raises(BadRequest, match="At most 16"):
        await fetch_images(urls, through(target))
    assert target.num_visits == 0
    monkeypatch.setattr(image_fetch, "MAX_IMAGE_BYTES", 10)
    with pytest.raises(BadRequest, match="could not be fetched"):
        await fetch_images(urls[:1], through(target))
    monkeypatch.setattr(image_fetch, "TIMEOUT_S", 0.0)
    with pytest.raises(BadRequest, match="could not be fetched"):
        await fetch_images(urls[:2], through(target))
    assert len(asyncio.all_tasks()) == 1


async def test_nothing_is_fetched_when_offline(target: Target) -> None:
    options = FetchOptions(proxy_for=lambda url: f"http://127.0.0.1:{target.port}", is_offline=True)
    with pytest.raises(Unsupported, match="offline"):
        await fetch_images(["http://images.example/a.png"], options)
    assert target.num_visits == 0


BROKEN = [
    images.png(declared=(60_000, 60_000)),
    images.png(declared=(16_385, 1)),
    images.png(declared=(0, 5)),
    images.png()[:-5],
    images.jpeg()[:-2],
    images.jpeg()[:12],
    images.jpeg(60_000, 60_000),
    images.gif()[:-1],
    images.webp()[:-4],
    images.bmp()[:-1],
    b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\0" * 60,
    b"GIF89a",
    b"\x89PNG\r\n\x1a\n",
    b"MZ\x90",
]


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_or_huge_image_never_reaches_the_engine(server: Serving, data: bytes) -> None:
    server.script.requests.clear()
    words = set()
    for path, body in bodies(images.data_url(data))[:2]:
        answer = httpx.post(server.url + path, json={"model": MODEL, **body}, timeout=30)
        assert answer.status_code == 400 and answer.json()["error"]["param"]
        words.add(answer.json()["error"]["message"])
    assert words <= {
        "The image must be a whole PNG, JPEG, GIF, WebP or BMP file.",
        "The image has too many pixels: at most 16384 on a side and 50000000 in all.",
    }
    assert server.script.requests == []


def test_the_first_bytes_say_what_an_image_is(server: Serving) -> None:
    server.script.requests.clear()
    for data, kind in (
        (images.png(), "png"),
        (images.jpeg(), "jpeg"),
        (images.gif(), "gif"),
        (images.webp(), "webp"),
        (images.bmp(), "bmp"),
    ):
        (path, body), *_ = bodies(images.data_url(data, "image/png;charset=x"))
        assert httpx.post(server.url + path, json={"model": MODEL, **body}, timeout=30).status_code == 200
        request: Any = server.script.requests[-1]
        assert request.messages[0].parts == (ImagePart(data, f"image/{kind}"),)
