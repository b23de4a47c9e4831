"""A real server on a real port, on a thread of its own, with the scripted engine behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from support.models import model_bytes
from zhibei.app import App, build
from zhibei.engines.base import Backend
from zhibei.engines.echo import EchoBackend, EchoScript, Step, Wait
from zhibei.options import LoadOptions
from zhibei.refs import ModelRef
from zhibei.server.http import serve
from zhibei.settings import ServerSettings, Settings
from zhibei.store.library import Library

T = TypeVar("T")
MODEL = "tiny:latest"
WAIT_S = 20.0


def stored_model(home: Path, name: str = MODEL) -> None:
    """Put a tiny model into a store."""
    source = home.parent / "tiny.gguf"
    source.write_bytes(model_bytes(4))
    import_model(home, source, name)


def import_model(home: Path, source: Path, name: str) -> None:
    """Copy a model file into a store."""

    async def pull() -> None:
        async for _ in Library(home).pull(ModelRef.parse(str(source)), name=name, copy=True):
            pass

    asyncio.run(pull())


class Serving:
    """The server while it runs. ``script`` says what the engine does; ``url`` is its address."""

    def __init__(self, settings: Settings, script: EchoScript | None, grace_s: float) -> None:
        self.script = script or EchoScript()
        self.url = ""
        self.app: App | None = None
        self.settings = settings
        self._backends: dict[str, Backend] | None = None if script is None else {"echo": EchoBackend(self.script)}
        self._grace_s = grace_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        if self._loop is not None and self._task is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def interrupt(self) -> None:
        """Do what a first signal does."""
        assert self._loop is not None and self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a coroutine on the server's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(WAIT_S)

    def answers(self, *answers: Sequence[Step]) -> None:
        """What the engine says next."""
        self.script.answers.extend(tuple(answer) for answer in answers)

    def gate(self) -> Gate:
        """Something an engine can wait for, and that a test can open."""
        assert self._loop is not None
        return Gate(self._loop)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds, looking after everything that happens on the server's loop."""

        async def look() -> None:
            while not true():
                await asyncio.sleep(0.002)

        self.run(lambda: asyncio.wait_for(look(), WAIT_S))

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._stop = asyncio.Event()
        self.app = build(self.settings, backends=self._backends)

        def ready(url: str) -> None:
            self.url = url
            self._ready.set()

        try:
            await serve(self.app, on_ready=ready, stop=self._stop, grace_s=self._grace_s)
        finally:
            await self.app.close()


class Gate:
    """An event on the server's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.event = asyncio.Event()

    @property
    def step(self) -> Wait:
        return Wait(self.event)

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self.event.set)


@contextmanager
def serving(
    home: Path,
    *,
    script: EchoScript | None = None,
    engine: str = "echo",
    grace_s: float = 5.0,
    settings: Settings | None = None,
    **server: object,
) -> Iterator[Serving]:
    """A server for the models of ``home``; ``server`` are fields of ServerSettings, ``settings`` are all the others."""
    own = ServerSettings(port=0, **server)  # type: ignore[arg-type]
    # Of two threads one waits for the other, busily: where tests share the cores that takes minutes.
    usual = Settings() if engine == "echo" else Settings(load=LoadOptions(threads=1))
    settings = replace(settings or usual, home=home, engine=engine, server=own)
    running = Serving(settings, (script or EchoScript()) if engine == "echo" else None, grace_s)
    running.start()
    try:
        yield running
    finally:
        running.stop()
