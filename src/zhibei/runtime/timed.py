"""An engine whose generations are timed: what it measured of each is told to somebody, and in which circumstances.

Knows no pool and keeps nothing but counts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings, Ranking, RerankRequest, TextPart
from zhibei.engines.base import Engine, EngineStatus
from zhibei.events import Finished, GenerationEvent, Timings
from zhibei.plans import Ability, EngineSpec
from zhibei.runtime.measurements import Circumstances


@dataclass(slots=True, eq=False)
class _Generation:
    """One that is under way."""

    has_media: bool = False
    most_at_once: int = 1


class TimedEngine:
    """See ``zhibei.engines.base.Engine``."""

    def __init__(self, engine: Engine, on_finished: Callable[[Timings, Circumstances], None]) -> None:
        self._engine = engine
        self._on_finished = on_finished
        self._running: list[_Generation] = []
        self._num_finished = 0

    @property
    def spec(self) -> EngineSpec:
        """What it was started with."""
        return self._engine.spec

    @property
    def abilities(self) -> frozenset[Ability]:
        """What this model can do on this engine."""
        return self._engine.abilities

    @property
    def num_slots(self) -> int:
        """How many generations run at once."""
        return self._engine.num_slots

    def status(self) -> EngineStatus:
        """State, process and memory now."""
        return self._engine.status()

    def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue a conversation."""
        has_media = any(not isinstance(part, TextPart) for message in request.messages for part in message.parts)
        return self._timed(self._engine.chat(request), _Generation(has_media))

    def complete(self, request: CompletionRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue raw text."""
        return self._timed(self._engine.complete(request), _Generation())

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """One vector per input, in order."""
        return await self._engine.embed(request)

    async def rerank(self, request: RerankRequest) -> Ranking:
        """One score per document, in order."""
        return await self._engine.rerank(request)

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> tuple[int, ...]:
        """Token ids of a text."""
        return await self._engine.tokenize(text, add_special=add_special, parse_special=parse_special)

    async def detokenize(self, tokens: tuple[int, ...]) -> str:
        """Text of token ids."""
        return await self._engine.detokenize(tokens)

    async def render(self, request: ChatRequest) -> str:
        """The prompt that ``chat`` would give the model."""
        return await self._engine.render(request)

    async def close(self) -> None:
        """Stop and free everything."""
        await self._engine.close()

    async def _timed(
        self, events: AsyncGenerator[GenerationEvent, None], generation: _Generation
    ) -> AsyncGenerator[GenerationEvent, None]:
        self._running.append(generation)
        for each in self._running:
            each.most_at_once = max(each.most_at_once, len(self._running))
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Finished) and event.timings is not None:
                        told = Circumstances(generation.most_at_once, self._num_finished, generation.has_media)
                        self._num_finished += 1
                        self._on_finished(event.timings, told)
                    yield event
        finally:
            self._running.remove(generation)
