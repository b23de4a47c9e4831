"""An engine whose calls are counted: how many, how many tokens, and when it died under them. Knows no pool."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings, Ranking, RerankRequest
from zhibei.engines.base import Engine
from zhibei.errors import EngineDied, EngineStartFailed, ZhibeiError
from zhibei.events import Finished, GenerationEvent, Usage
from zhibei.runtime.circuit import is_crash
from zhibei.runtime.wrapping import EngineAround


class CountedEngine(EngineAround):
    """See ``zhibei.engines.base.Engine``."""

    def __init__(self, engine: Engine, on_crash: Callable[[ZhibeiError], None]) -> None:
        """Args:
        on_crash: is told of every end of the engine once, however many calls it ended.
        """
        super().__init__(engine)
        self._on_crash = on_crash
        self._calls = itertools.count(1)
        self._last_crash = 0
        self._ended = Usage(0, 0, 0)
        self._num_shown = 0
        self.num_crashes = 0

    @property
    def usage(self) -> Usage:
        """The tokens so far; of what is under way, each piece of an answer counts as one until its end says how many."""
        return replace(self._ended, num_generated_tokens=self._ended.num_generated_tokens + self._num_shown)

    def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue a conversation."""
        return self._counted(self._engine.chat(request))

    def complete(self, request: CompletionRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue raw text."""
        return self._counted(self._engine.complete(request))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """One vector per input, in order."""
        with self._call():
            found = await self._engine.embed(request)
        self._add(Usage(found.num_tokens, 0))
        return found

    async def rerank(self, request: RerankRequest) -> Ranking:
        """One score per document, in order."""
        with self._call():
            found = await self._engine.rerank(request)
        self._add(Usage(found.num_tokens, 0))
        return found

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> tuple[int, ...]:
        """Token ids of a text."""
        with self._call():
            return await self._engine.tokenize(text, add_special=add_special, parse_special=parse_special)

    async def detokenize(self, tokens: tuple[int, ...]) -> str:
        """Text of token ids."""
        with self._call():
            return await self._engine.detokenize(tokens)

    async def render(self, request: ChatRequest) -> str:
        """The prompt that ``chat`` would give the model."""
        with self._call():
            return await self._engine.render(request)

    async def _counted(self, events: AsyncGenerator[GenerationEvent, None]) -> AsyncGenerator[GenerationEvent, None]:
        num_shown = 0
        with self._call():
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Finished):
                        self._num_shown -= num_shown
                        self._add(event.usage)
                    else:
                        num_shown += 1
                        self._num_shown += 1
                    yield event

    @contextmanager
    def _call(self) -> Iterator[None]:
        number = next(self._calls)
        try:
            yield
        except (EngineDied, EngineStartFailed) as error:
            # Calls that were under way when it died tell of the same end.
            if number > self._last_crash and (isinstance(error, EngineDied) or is_crash(error)):
                self._last_crash = next(self._calls)
                self.num_crashes += 1
                self._on_crash(error)
            raise

    def _add(self, usage: Usage) -> None:
        self._ended = Usage(
            self._ended.num_prompt_tokens + usage.num_prompt_tokens,
            self._ended.num_generated_tokens + usage.num_generated_tokens,
            self._ended.num_cached_tokens + usage.num_cached_tokens,
        )
