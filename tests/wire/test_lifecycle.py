"""The beginning and the end of a server (A-03, E-12)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from support.serving import MODEL, Serving
from zhibei.errors import BadSetting
from zhibei.events import Finished, TextDelta, Usage

END = Finished(("stop",), Usage(1, 1))
TESTS = Path(__file__).parent.parent

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
    script = EchoScript([(TextDelta("word "), wait)] * 8)
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
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(home), str(grace_s)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
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
def streaming(url: str) -> Iterator[Iterator[str]]:
    """A stream whose first word has come."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True}
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
def test_beyond_loopback_a_server_needs_a_key_or_an_explicit_word(start: Callable[..., Serving], host: str) -> None:
    if host == "::" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with pytest.raises(BadSetting, match="no API key"):
        start(host=host)
    for allowed in ({"api_key": "k"}, {"allow_insecure_bind": True}):
        server = start(host=host, **allowed)
        assert httpx.get(server.url + "/health").json() == {"status": "ok"}


def test_many_requests_at_once_are_answered_or_refused(start: Callable[..., Serving]) -> None:
    server = start(max_queue=4)
    gate = server.gate()
    server.answers(*[(gate.step, TextDelta("x"), END)] * 5)
    statuses: list[tuple[int, bool]] = []

    def ask() -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "load": {"parallel": 1}}
        reply = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=30)
        statuses.append((reply.status_code, "retry-after" in reply.headers))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    server.until(lambda: len(statuses) == 15)
    gate.open()
    for thread in threads:
        thread.join(30)
    assert sorted(statuses) == [(200, False)] * 5 + [(503, True)] * 15
