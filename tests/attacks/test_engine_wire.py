"""An engine's process that ends in mid-answer, as clients of each dialect see it: an error, no mark of success (E-01)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from support.every_route import WRITING, Writing
from support.serving import MODEL, Serving, stored_model
from zhibei.engines.base import LogSink
from zhibei.engines.llama_cpp.engine import LlamaCppEngine
from zhibei.options import LoadOptions
from zhibei.plans import EngineInfo, EngineSpec
from zhibei.settings import ServerSettings, Settings

FAKE = Path(__file__).parents[1] / "support" / "fake_worker.py"
STREAMS = [each for each in WRITING if each.stream == {"stream": True} and "messages" in each.body]


class Processes:
    """Starts processes that speak as the engine's do, and write for ever if they are asked to."""

    def probe(self) -> EngineInfo:
        return EngineInfo("llama.cpp", True, "1", formats=("gguf",), tasks=("generate",))

    async def start(self, spec: EngineSpec, log: LogSink) -> LlamaCppEngine:
        engine = LlamaCppEngine(spec, log, command=(sys.executable, str(FAKE), "serve"))
        await engine.ready()
        return engine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = tmp_path_factory.mktemp("dying") / "home"
    stored_model(home)
    stored_model(home, "other")
    settings = replace(Settings(), home=home, engine="llama.cpp", load=LoadOptions(ctx_size=512), server=ServerSettings(port=0))
    running = Serving(settings, None, 5.0)
    running._backends = {"llama.cpp": Processes()}
    running.start()
    try:
        yield running
    finally:
        running.stop()


def body(each: Writing, text: str, model: str, *, stream: bool) -> dict[str, object]:
    return {**each.body, "model": model, "messages": [{"role": "user", "content": text}], "stream": stream}


def worker(server: Serving, name: str) -> psutil.Process:
    assert server.app is not None
    pid = next(resident.pid for resident in server.app.pool.residents() if resident.name == name)
    assert pid is not None
    return psutil.Process(pid)


@pytest.mark.parametrize("each", STREAMS, ids=lambda each: str(each.path))
def test_a_stream_ends_in_the_dialects_error_and_the_next_request_is_served(server: Serving, each: Writing) -> None:
    async def forgive() -> None:
        assert server.app is not None
        server.app.pool.forgive(MODEL)

    # Three deaths in a short time are another matter.
    server.run(forgive)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.post(each.path, json=body(each, "hello", "other", stream=False)).status_code == 200
        other = worker(server, "other:latest").pid
        with client.stream("POST", each.path, json=body(each, "for ever", MODEL, stream=True)) as reply:
            pieces = reply.iter_bytes()
            found = b"".join(next(pieces) for _ in range(3))
            killed = worker(server, MODEL)
            killed.kill()
            found += b"".join(pieces)
        assert each.done not in found and b"end_turn" not in found and b'finish_reason":"stop"' not in found
        assert b"error" in found and b"signal 9" in found
        server.until(lambda: not psutil.pid_exists(killed.pid))
        again = client.post(each.path, json=body(each, "hello", MODEL, stream=False))
        assert again.status_code == 200 and "hello" in again.text
        assert worker(server, "other:latest").pid == other
