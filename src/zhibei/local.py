"""``zhibei.service.Service`` from an App in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings
from zhibei.errors import ModelBroken, ModelNotFound
from zhibei.events import CheckEvent, GenerationEvent, Loading, PullEvent
from zhibei.models import StoredModel
from zhibei.plans import Resident
from zhibei.refs import ModelName, ModelRef
from zhibei.service import PoolState, RunOptions, UpstreamSeen
from zhibei.store.verbs import StoreVerbs

if TYPE_CHECKING:
    from zhibei.app import App
    from zhibei.judging.asking import FitQuestion
    from zhibei.judging.fit import Judgement
    from zhibei.judging.machine import Machine
    from zhibei.planner.recommend import Recommendation, Wish
    from zhibei.runtime.logbook import LogLine


class LocalService(StoreVerbs):
    """See the protocol."""

    def __init__(self, app: App) -> None:
        super().__init__(app.library)
        self._app = app

    async def pull(self, ref: str, *, name: str | None = None, copy: bool = False) -> AsyncGenerator[PullEvent, None]:
        """Fetch or import a model."""
        async with aclosing(self._app.library.pull(ModelRef.parse(ref), name=name, copy=copy)) as events:
            async for event in events:
                yield event

    def verify(self, names: Sequence[str] = ()) -> AsyncGenerator[CheckEvent, None]:
        """Read models again."""
        return self._app.library.verify([ModelName.parse(name) for name in names])

    def repair(self, name: str) -> AsyncGenerator[PullEvent | CheckEvent, None]:
        """Fetch what is wrong of a model."""
        return self._app.library.repair(ModelName.parse(name))

    def update(self, name: str) -> AsyncGenerator[PullEvent, None]:
        """Fetch a model's newer version."""
        return self._app.library.update(ModelName.parse(name))

    async def list_models(self) -> Sequence[StoredModel]:
        """All models, those of other servers too."""
        return await self._app.all_models()

    async def show_model(self, name: str) -> StoredModel:
        """One model."""
        return self._app.resolve(name)

    async def residents(self) -> Sequence[Resident]:
        """The running models."""
        return self._app.pool.residents()

    async def pool(self) -> PoolState:
        """The running models, the queue and the memory."""
        hardware = await asyncio.to_thread(self._app.hardware)
        pool, states = self._app.pool, await self._app.upstreams.states()
        upstreams = tuple(UpstreamSeen(each.name, each.url, len(each.models), each.problem is None) for each in states)
        residents = tuple(pool.residents())
        return PoolState(residents, pool.num_waiting, hardware.available_bytes, hardware.total_bytes, upstreams)

    async def logs(self, name: str, *, num_lines: int = 100, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        """What a model's engine wrote."""
        book, known = self._app.pool.logs, self.log_name(name)
        if not follow:
            for line in book.lines(known, num_lines):
                yield line
            return
        async with aclosing(book.follow(known, num_lines)) as lines:
            async for line in lines:
                yield line

    def log_name(self, name: str) -> str:
        """The model whose engine's lines are meant. Raises ModelNotFound if it is not here and has written nothing."""
        try:
            return self._app.resolve(name).name
        except (ModelNotFound, ModelBroken):
            known = str(ModelRef.parse(name))
            if known not in self._app.pool.logs.names():
                raise
            return known

    async def machine(self) -> Machine:
        """This machine."""
        from zhibei.judging.machine import machine

        return await asyncio.to_thread(machine, self._app.settings.home)

    async def fit(self, question: FitQuestion) -> Judgement:
        """Whether and how a model runs here."""
        from zhibei.judging.asking import fit

        return await fit(self._app, question)

    async def recommend(self, wish: Wish, *, limit: int = 8) -> Sequence[Recommendation]:
        """The catalogue's models for a wish."""
        from zhibei.judging.asking import recommended

        return await recommended(self._app, wish, limit=limit)

    async def stop_model(self, name: str) -> None:
        """Unload a running model."""
        try:
            known = self._app.resolve(name).name
        except (ModelNotFound, ModelBroken):
            # It may have been removed from the store since it was loaded.
            known = str(ModelRef.parse(name))
        await self._app.pool.stop(known)

    async def chat(
        self, model: str, request: ChatRequest, options: RunOptions = RunOptions()
    ) -> AsyncGenerator[Loading | GenerationEvent, None]:
        """Continue a conversation."""
        if not self._app.pool.is_loaded(model, "generate", options.load):
            yield Loading(model)
        async with (
            self._app.pool.lease(model, "generate", options.load, options.keep_alive) as engine,
            aclosing(engine.chat(request)) as events,
        ):
            async for event in events:
                yield event

    async def complete(
        self, model: str, request: CompletionRequest, options: RunOptions = RunOptions()
    ) -> AsyncGenerator[Loading | GenerationEvent, None]:
        """Continue raw text."""
        if not self._app.pool.is_loaded(model, "generate", options.load):
            yield Loading(model)
        async with (
            self._app.pool.lease(model, "generate", options.load, options.keep_alive) as engine,
            aclosing(engine.complete(request)) as events,
        ):
            async for event in events:
                yield event

    async def embed(self, model: str, request: EmbeddingRequest, options: RunOptions = RunOptions()) -> Embeddings:
        """Vectors for texts."""
        async with self._app.pool.lease(model, "embed", options.load, options.keep_alive) as engine:
            return await engine.embed(request)

    async def tokenize(self, model: str, text: str, options: RunOptions = RunOptions()) -> tuple[int, ...]:
        """Token ids of a text."""
        async with self._app.pool.lease(model, "generate", options.load, options.keep_alive) as engine:
            return await engine.tokenize(text)

    async def detokenize(self, model: str, tokens: tuple[int, ...], options: RunOptions = RunOptions()) -> str:
        """Text of token ids."""
        async with self._app.pool.lease(model, "generate", options.load, options.keep_alive) as engine:
            return await engine.detokenize(tokens)

    async def close(self) -> None:
        """Unload everything."""
        await self._app.close()
