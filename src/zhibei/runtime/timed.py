"""An engine whose generations are timed: what it measured of each is told to somebody, and in which circumstances.

Knows no pool and keeps nothing but counts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from zhibei.chat import ChatRequest, CompletionRequest, TextPart
from zhibei.engines.base import Engine
from zhibei.events import Finished, GenerationEvent, Timings
from zhibei.runtime.measurements import Circumstances
from zhibei.runtime.wrapping import EngineAround


@dataclass(slots=True, eq=False)
class _Generation:
    """One that is under way."""

    has_media: bool = False
    most_at_once: int = 1


class TimedEngine(EngineAround):
    """See ``zhibei.engines.base.Engine``."""

    def __init__(self, engine: Engine, on_finished: Callable[[Timings, Circumstances], None]) -> None:
        super().__init__(engine)
        self._on_finished = on_finished
        self._running: list[_Generation] = []
        self._num_finished = 0

    def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue a conversation."""
        has_media = any(not isinstance(part, TextPart) for message in request.messages for part in message.parts)
        return self._timed(self._engine.chat(request), _Generation(has_media))

    def complete(self, request: CompletionRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue raw text."""
        return self._timed(self._engine.complete(request), _Generation())

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
