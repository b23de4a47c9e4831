"""An engine around another: what every engine that adds something to a generation has in common."""

from __future__ import annotations

from zhibei.chat import ChatRequest, EmbeddingRequest, Embeddings, Ranking, RerankRequest
from zhibei.engines.base import Engine, EngineStatus
from zhibei.plans import Ability, EngineSpec


class EngineAround:
    """See ``zhibei.engines.base.Engine``; all but the generations is the inner engine's own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
