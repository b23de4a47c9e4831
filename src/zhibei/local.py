"""``zhibei.service.Service`` from an App in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings
from zhibei.errors import ModelBroken, ModelNotFound
from zhibei.events import CheckEvent, GenerationEvent, Loading, PullEvent
from zhibei.plans import Resident
from zhibei.refs import ModelName, ModelRef
from zhibei.service import RunOptions
from zhibei.store.verbs import StoreVerbs

if TYPE_CHECKING:
    from zhibei.app import App


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

    async def residents(self) -> Sequence[Resident]:
        """The running models."""
        return self._app.pool.residents()

    async def stop_model(self, name: str) -> None:
        """Unload a running model."""
        try:
            known = self._app.library.resolve(name).name
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
