"""A pool with scripted engines, models of any size and a machine whose memory a test may change; and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from zhibei.engines.base import Engine
from zhibei.engines.echo import EchoBackend, EchoScript
from zhibei.errors import ModelBroken, ModelNotFound, ZhibeiError
from zhibei.models import ModelInfo, StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.plans import Hardware
from zhibei.runtime.pool import Pool
from zhibei.settings import Settings

MIB = 1 << 20
INFO = ModelInfo("gguf", "llama", context_length=2048, embedding_length=64, feed_forward_length=64, vocabulary_size=1000)
TIMEOUT_S = 10.0


class House:
    """A pool with models ``a``, ``b`` … of ``weights`` bytes each, on a machine whose memory a test may change."""

    def __init__(self, *, backend: EchoBackend | None = None, **settings: Any) -> None:
        self.script = EchoScript() if backend is None else backend.script
        self.models: dict[str, StoredModel] = {}
        self.machine = Hardware("test", 4, 8, 64 << 30, 48 << 30)
        self.settings = Settings(**{"engine": "echo", "load": LoadOptions(parallel=1), **settings})
        self.pool = Pool(self.settings, self.resolve, lambda: self.machine, {"echo": backend or EchoBackend(self.script)})

    def resolve(self, name: str) -> StoredModel:
        if name == "broken":
            raise ModelBroken("It is broken.")
        if name.startswith("no"):
            raise ModelNotFound("Model {name} is not on this machine.", name=name)
        return self.models.setdefault(name, self.make(name))

    def make(self, name: str, weights: int = 100 * MIB) -> StoredModel:
        file = StoredFile("model", Path(f"/models/{name}.gguf"), weights)
        return StoredModel(f"{name}:latest", (file,), INFO, "test", datetime.now(timezone.utc))

    def states(self) -> dict[str, str]:
        return {resident.name.partition(":")[0]: resident.state for resident in self.pool.residents()}

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a change of the pool that makes ``condition`` true."""

        async def wait() -> None:
            while not condition():
                await self.pool._next_change()

        await asyncio.wait_for(wait(), TIMEOUT_S)

    async def until_waiting(self, count: int) -> None:
        await self.until(lambda: self.pool.num_waiting == count)

    @asynccontextmanager
    async def loaded(self, *names: str, **how: Any) -> AsyncIterator[None]:
        """Models that were used and are idle."""
        for name in names:
            async with self.pool.lease(name, **how):
                pass
        yield


@dataclass
class Client:
    """A request under way: it holds its lease until ``leave``."""

    task: asyncio.Task[None]
    entered: asyncio.Event
    may_leave: asyncio.Event
    engine: Engine | None = None

    async def is_served(self) -> Engine:
        await asyncio.wait_for(self.entered.wait(), TIMEOUT_S)
        assert self.engine is not None
        return self.engine

    async def leave(self) -> None:
        self.may_leave.set()
        await asyncio.wait_for(self.task, TIMEOUT_S)

    async def fails(self) -> ZhibeiError:
        with pytest.raises(ZhibeiError) as caught:
            await asyncio.wait_for(self.task, TIMEOUT_S)
        return caught.value

    async def cancel(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(self.task, TIMEOUT_S)


def client(house: House, name: str = "a", **how: Any) -> Client:
    async def run() -> None:
        async with house.pool.lease(name, **how) as engine:
            new.engine = engine
            new.entered.set()
            await new.may_leave.wait()

    new = Client(asyncio.ensure_future(run()), asyncio.Event(), asyncio.Event())
    return new
