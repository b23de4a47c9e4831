"""A server whose engines are processes that misbehave on demand (``fake_worker.py``), and what of them a test looks at."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from support.every_route import WRITING, Writing
from support.gguf_writer import u32
from support.models import model_bytes
from support.serving import MODEL, Serving, import_model
from zhibei.engines.base import LogSink
from zhibei.engines.liveness import STALL_S
from zhibei.engines.llama_cpp.backend import started
from zhibei.engines.llama_cpp.engine import LlamaCppEngine
from zhibei.options import LoadOptions
from zhibei.plans import EngineInfo, EngineSpec
from zhibei.settings import ServerSettings, Settings

FAKE = Path(__file__).parent / "fake_worker.py"
OTHER = "other:latest"
STREAMS = [each for each in WRITING if each.stream == {"stream": True} and "messages" in each.body]


class Processes:
    """Starts processes that speak as the engine's do. ``words``: what is wrong with those that start from now on."""

    def __init__(self, stall_s: float = STALL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.words: tuple[str, ...] = ()
        self.tried: list[EngineSpec] = []
        self._stall_s = stall_s
        self._clock = clock

    def probe(self) -> EngineInfo:
        return EngineInfo("llama.cpp", True, "1", formats=("gguf",), tasks=("generate",))

    async def start(self, spec: EngineSpec, log: LogSink) -> LlamaCppEngine:
        self.tried.append(spec)
        command = (sys.executable, str(FAKE), "serve", *self.words)
        engine = LlamaCppEngine(spec, log, command=command, stall_s=self._stall_s, clock=self._clock)
        return await started(engine)


@contextmanager
def serving_processes(directory: Path, processes: Processes, load: LoadOptions = LoadOptions(ctx_size=512)) -> Iterator[Serving]:
    """A server with two models."""
    home = directory / "home"
    source = directory / "tiny.gguf"
    source.write_bytes(model_bytes(4, **{"llama.context_length": u32(4096)}))
    for name in (MODEL, OTHER):
        import_model(home, source, name)
    settings = replace(Settings(), home=home, engine="llama.cpp", load=load, server=ServerSettings(port=0))
    running = Serving(settings, None, 5.0)
    running._backends = {"llama.cpp": processes}
    running.start()
    try:
        yield running
    finally:
        running.stop()


def body(each: Writing, text: str, model: str, *, stream: bool) -> dict[str, object]:
    """A request that says something to a model."""
    return {**each.body, "model": model, "messages": [{"role": "user", "content": text}], "stream": stream}


def worker(server: Serving, name: str) -> psutil.Process:
    """The process of a model that runs."""
    assert server.app is not None
    pid = next(resident.pid for resident in server.app.pool.residents() if resident.name == name)
    assert pid is not None
    return psutil.Process(pid)


def forgive(server: Serving, name: str) -> None:
    """Forget how often a model's engine died."""

    async def work() -> None:
        assert server.app is not None
        server.app.pool.forgive(name)

    server.run(work)
