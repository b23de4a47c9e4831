"""The beginning and the end of a server (A-03, E-12)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from support.certificates import make_certificate
from support.serving import MODEL, Serving, serving, stored_model
from zhibei import __version__
from zhibei.engines.echo import EchoScript
from zhibei.errors import BadSetting
from zhibei.events import Finished, TextDelta, Usage
from zhibei.remote import RemoteService
from zhibei.server.keys import KeyFile
from zhibei.settings import ModelSettings, Settings

END = Finished(("stop",), Usage(1, 1))
TEN = {"parallel": 10}

# A server whose engine says one word and then waits for ever, or until it is closed.
CHILD = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from zhibei.app import build
from zhibei.engines.echo import EchoBackend, EchoScript, Wait
from zhibei.events import TextDelta
from zhibei.server.http import serve
from zhibei.settings import ServerSettings, Settings

async def main():
    wait = Wait(asyncio.Event())
    script = EchoScript([(TextDelta("word "), wait)] * 16)
    settings = replace(Settings(), home=Path(sys.argv[1]), engine="echo", server=ServerSettings(port=0))
    app = build(settings, backends={"echo": EchoBackend(script)})
    try:
        await serve(app, on_ready=lambda url: print(url, flush=True), grace_s=float(sys.argv[2]))
    finally:
        await app.close()
        print("closed", flush=True)

try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit(130)
"""


class Child:
    """A server in a process of its own."""

    def __init__(self, home: Path, grace_s: float) -> None:
        self.errors = home.parent / "stderr.txt"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(home), str(grace_s)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=dict(os.environ),
            )
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self.url = self.output.readline().strip()


@contextmanager
def child(home: Path, grace_s: float = 20) -> Iterator[Child]:
    made = Child(home, grace_s)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        made.output.close()


@contextmanager
def streaming(url: str, **fields: object) -> Iterator[Iterator[str]]:
    """A stream whose first word has come."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True, **fields}
    with httpx.Client(timeout=30) as client, client.stream("POST", url + "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert any("word" in line for line in lines)
        yield lines


def test_a_server_that_stops_lets_answers_finish_and_takes_no_new_ones(start: Callable[..., Serving]) -> None:
    server = start(grace_s=20)
    gate = server.gate()
    server.answers((TextDelta("word "), gate.step, TextDelta("end"), END))
    with streaming(server.url) as lines, httpx.Client(base_url=server.url) as other:
        other.get("/health")
        server.interrupt()
        while other.get("/health").status_code != 503:
            pass
        refused = other.post("/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": "x"}]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy") and int(refused.headers["retry-after"]) > 0
        gate.open()
        rest = "".join(lines)
    assert '"end"' in rest and rest.endswith("data: [DONE]")


def test_answers_that_take_too_long_are_cut_with_an_error(start: Callable[..., Serving]) -> None:
    server = start(grace_s=0.05)
    server.answers((TextDelta("word "), server.gate().step, END))
    with streaming(server.url) as lines:
        server.interrupt()
        rest = "".join(lines)
    assert '"code":"busy"' in rest and "[DONE]" not in rest
    server.until(lambda: server.script.num_abandoned == 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_with_0(tiny_home: Path, number: int) -> None:
    with child(tiny_home) as server:
        server.process.send_signal(number)
        assert server.process.wait(20) == 0
        assert server.output.read() == "closed\n"


def test_the_first_signal_waits_and_the_second_does_not(tiny_home: Path) -> None:
    with child(tiny_home, grace_s=60) as server, streaming(server.url) as lines:
        server.process.send_signal(signal.SIGINT)
        with httpx.Client() as client:
            while client.get(server.url + "/health").status_code != 503:
                pass
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 130
        assert server.output.read() == "closed\n"
        with pytest.raises(httpx.HTTPError):
            "".join(lines)
        told = server.errors.read_text()
    assert "stopping; requests that may finish, within 60 s: 1. Ctrl-C once more" in told and "Traceback" not in told


def test_a_signal_cuts_after_the_grace_and_still_ends_with_0(tiny_home: Path) -> None:
    with child(tiny_home, grace_s=0.1) as server, streaming(server.url) as lines:
        server.process.send_signal(signal.SIGTERM)
        rest = "".join(lines)
        assert server.process.wait(20) == 0
    assert '"code":"busy"' in rest and "[DONE]" not in rest


def test_signal_handlers_are_given_back(tiny_home: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    code = CHILD.replace(
        "asyncio.run(main())", "asyncio.run(main()); import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tiny_home), "1"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        output.readline()
        process.send_signal(signal.SIGTERM)
        assert output.read() == "closed\nTrue\n"
    process.wait(20)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_port_that_is_taken_says_by_whom(start: Callable[..., Serving]) -> None:
    first = start()
    second = Serving(replace(first.settings, server=replace(first.settings.server, port=first.port)), first.script, 1)
    with pytest.raises(BadSetting, match=f"{first.port}.*process {os.getpid()}"):
        second.start()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_loopback_a_server_needs_a_key_or_an_explicit_word(tmp_path: Path, host: str) -> None:
    if host == "::" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    home = tmp_path / "home"
    stored_model(home)
    with pytest.raises(BadSetting, match="no API key"), serving(home, host=host):
        pass
    for allowed in ({"api_key": "k"}, {"allow_insecure_bind": True}):
        with serving(home, host=host, **allowed) as server:
            assert httpx.get(server.url + "/health").json() == {"status": "ok"}
    key, text = KeyFile(home).create("", ("read",))
    with serving(home, host=host) as server:
        assert httpx.get(server.url + "/v1/models", headers={"x-api-key": text}).status_code == 200
        KeyFile(home).revoke(key.id)
        for headers in ({}, {"x-api-key": text}):
            assert httpx.get(server.url + "/v1/models", headers=headers).status_code == 401


def test_with_a_certificate_it_speaks_https_and_nothing_else(start: Callable[..., Serving], tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    server = start(tls_cert=files.path, tls_key=files.key)
    assert server.url == f"https://127.0.0.1:{server.port}"
    trusting = ssl.create_default_context(cafile=str(files.path))
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with httpx.Client(base_url=f"https://localhost:{server.port}", verify=trusting) as client:
        said = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
        assert client.post("/v1/chat/completions", json=said).status_code == 200
        own = f"https://localhost:{server.port}"
        assert client.post("/v1/chat/completions", json=said, headers={"origin": own}).status_code == 200
        assert client.post("/v1/chat/completions", json=said, headers={"origin": own.replace("https", "http")}).status_code == 403
        assert client.get("/health", headers={"host": "evil.example"}).status_code == 403
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/health")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{server.port}/health")

    async def ask() -> str:
        service = RemoteService(server.url, certificate=files.path)
        try:
            return await service.version()
        finally:
            await service.close()

    assert asyncio.run(ask()) == __version__


def test_a_certificate_that_cannot_be_used_is_said_before_anything_listens(start: Callable[..., Serving], tmp_path: Path) -> None:
    files, other = make_certificate(tmp_path), make_certificate(tmp_path, "other")
    with pytest.raises(BadSetting, match="does not belong"):
        start(tls_cert=files.path, tls_key=other.key)


def test_ten_streams_are_cut_with_an_error_when_the_time_is_over(tiny_home: Path) -> None:
    with child(tiny_home, grace_s=0.5) as server, ExitStack() as stack:
        streams = [stack.enter_context(streaming(server.url, load=TEN)) for _ in range(10)]
        server.process.send_signal(signal.SIGTERM)
        for lines in streams:
            rest = "".join(lines)
            assert '"code":"busy"' in rest and "[DONE]" not in rest
        assert server.process.wait(20) == 0
        assert server.output.read() == "closed\n"


def test_ten_streams_may_finish_in_that_time(start: Callable[..., Serving]) -> None:
    server = start(grace_s=20)
    gate = server.gate()
    server.answers(*[(TextDelta("word "), gate.step, TextDelta("end"), END)] * 10)
    with ExitStack() as stack, httpx.Client(base_url=server.url) as other:
        streams = [stack.enter_context(streaming(server.url, load=TEN)) for _ in range(10)]
        other.get("/health")
        server.interrupt()
        while other.get("/health").status_code != 503:
            pass
        gate.open()
        for lines in streams:
            rest = "".join(lines)
            assert '"end"' in rest and rest.endswith("data: [DONE]")


def test_who_waits_for_a_model_is_refused_when_the_server_stops_and_who_has_one_is_not(start: Callable[..., Serving]) -> None:
    server = start(grace_s=20)
    gate = server.gate()
    server.answers((TextDelta("word "), gate.step, TextDelta("end"), END))
    assert server.app is not None
    pool, one_slot = server.app.pool, {"load": {"parallel": 1}}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], **one_slot}
    with streaming(server.url, **one_slot) as lines, ThreadPoolExecutor(2) as threads:
        whole = threads.submit(httpx.post, server.url + "/v1/chat/completions", json=body, timeout=20)
        stream = threads.submit(httpx.post, server.url + "/v1/chat/completions", json={**body, "stream": True}, timeout=20)
        server.until(lambda: pool.num_waiting == 2)
        server.interrupt()
        for refused in (whole.result(), stream.result()):
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0 and "stopping" in refused.text
        gate.open()
        rest = "".join(lines)
    assert '"end"' in rest and rest.endswith("data: [DONE]")
    assert len(server.script.requests) == 1


def test_who_waits_while_a_model_loads_is_refused_when_the_server_stops(start: Callable[..., Serving]) -> None:
    script = EchoScript()
    server = start(script=script, grace_s=20)
    script.load = server.gate().event
    assert server.app is not None
    pool = server.app.pool
    with ThreadPoolExecutor(1) as threads:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
        waiting = threads.submit(httpx.post, server.url + "/v1/chat/completions", json=body, timeout=20)
        server.until(lambda: pool.num_waiting == 1)
        server.interrupt()
        assert waiting.result().status_code == 503
    assert script.started == []


def test_who_only_looks_on_is_not_waited_for(tiny_home: Path) -> None:
    """Not even for as long as answers may take."""
    with child(tiny_home, grace_s=600) as server, ExitStack() as stack:
        for path in ("/zhibei/v1/events", "/models/sse"):
            reply = stack.enter_context(httpx.stream("GET", server.url + path, timeout=20))
            assert reply.status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_models_that_should_be_there_from_the_start_are_loaded_however_it_is_served(start: Callable[..., Serving]) -> None:
    wanted = {MODEL: ModelSettings(preload=True), "nothing:latest": ModelSettings(preload=True)}
    server = start(settings=replace(Settings(), models=wanted))
    server.until(lambda: len(server.script.started) == 1)
    reply = httpx.get(server.url + "/zhibei/v1/ps").json()
    assert [each["name"] for each in reply] == [MODEL]


def test_loading_from_the_start_ends_with_the_server(start: Callable[..., Serving]) -> None:
    script = EchoScript()
    script.load = asyncio.Event()
    server = start(script=script, grace_s=20, settings=replace(Settings(), models={MODEL: ModelSettings(preload=True)}))
    assert server.app is not None
    pool = server.app.pool
    server.until(lambda: pool.num_waiting == 1)
    server.interrupt()
    server.stop()
    assert pool.num_waiting == 0 and script.started == []


@dataclass
class Answers:
    """How many requests ended how. ``others``: what they got instead of an answer or a refusal that says when to come back."""

    ok: int = 0
    refused: int = 0
    others: list[bytes] = field(default_factory=list)

    def count(self, reply: bytes) -> None:
        if reply.startswith(b"HTTP/1.1 200 ") and reply.endswith(b"}"):
            self.ok += 1
        elif reply.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: " in reply and reply.endswith(b"}"):
            self.refused += 1
        else:
            self.others.append(reply[:200])


def test_a_thousand_requests_at_once_are_answered_or_refused(start: Callable[..., Serving]) -> None:
    """What there is no room for is refused while the others still wait (E-09)."""
    server = start(max_queue=128)
    num_requests, queue, slots = 1000, 128, 4
    gate = server.gate()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "load": {"parallel": slots}}
    # While a model loads all wait; only then are there places beside the queue.
    assert httpx.post(server.url + "/v1/chat/completions", json=body).status_code == 200
    server.answers(*[(gate.step, TextDelta("x"), END)] * (queue + slots))
    answers, data = Answers(), json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

    async def ask(sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(sent)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def count() -> None:
        answers.count(await ask(request))

    async def flood() -> None:
        asking = [asyncio.ensure_future(count()) for _ in range(num_requests)]
        while answers.refused + len(answers.others) < num_requests - queue - slots:
            await asyncio.wait([task for task in asking if not task.done()], return_when=asyncio.FIRST_COMPLETED)
        assert answers.ok == 0
        assert (await ask(health)).startswith(b"HTTP/1.1 200 ")
        gate.open()
        await asyncio.gather(*asking)

    asyncio.run(asyncio.wait_for(flood(), 120))
    assert answers == Answers(queue + slots, num_requests - queue - slots)
    server.until(lambda: server.script.num_running == 0)
