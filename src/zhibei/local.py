"""``zhibei.service.Service`` from an App in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from zhibei import __version__
from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings
from zhibei.events import GenerationEvent, Loading, PullEvent
from zhibei.plans import Resident, StoredModel
from zhibei.refs import ModelName, ModelRef
from zhibei.service import RunOptions

if TYPE_CHECKING:
    from zhibei.app import App


class LocalService:
    """See the protocol."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def version(self) -> str:
        """This Zhibei's version."""
        return __version__

    async def list_models(self) -> Sequence[StoredModel]:
        """All models in the store."""
        return self._app.library.list()

    async def show_model(self, name: str) -> StoredModel:
        """One model."""
        return self._app.library.resolve(name)

    async def pull(self, ref: str, *, name: str | None = None, copy: bool = False) -> AsyncGenerator[PullEvent, None]:
        """Fetch or import a model."""
        async with aclosing(self._app.library.pull(ModelRef.parse(ref), name=name, copy=copy)) as events:
            async for event in events:
                yield event

    async def remove_model(self, name: str) -> None:
        """Remove a model."""
        self._app.library.remove(ModelName.parse(name))

    async def copy_model(self, source: str, target: str) -> None:
        """Give a model a second name."""
        self._app.library.copy(ModelName.parse(source), ModelName.parse(target))

    async def residents(self) -> Sequence[Resident]:
        """The running models."""
        return self._app.pool.residents()

    async def stop_model(self, name: str) -> None:
        """Unload a running model."""
        await self._app.pool.stop(self._app.library.resolve(name).name)

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
