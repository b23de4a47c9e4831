"""The contract of an engine. Owns the two protocols; knows no engine.

One contract suite (``tests/contract/engines``) runs each sentence below against every engine that can run here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from zhibei.chat import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Ranking,
    RerankRequest,
)
from zhibei.events import GenerationEvent
from zhibei.plans import Ability, EngineInfo, EngineSpec, Kernels

LogSink = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What a running engine says of itself. ``state`` is one of process.py's; ``memory_bytes`` as measured, or None.

    ``kernels``: those of ours that it computes with, or why it does not although they are there; None: it has none.
    """

    state: str
    pid: int | None
    memory_bytes: int | None
    kernels: Kernels | None = None


class Engine(Protocol):
    """A model that is loaded, or can be again.

    Up to ``num_slots`` generations run at once; more wait inside the engine or are refused, never mixed up.
    A call on an engine whose process has died starts it again (``ensure_ready``); a generation that is under way when
    it dies raises EngineDied and is not repeated. A call for something not in ``abilities`` raises Unsupported.
    """

    @property
    def spec(self) -> EngineSpec:
        """What it was started with."""
        ...

    @property
    def abilities(self) -> frozenset[Ability]:
        """What this model can do on this engine; may be larger after the first start."""
        ...

    @property
    def num_slots(self) -> int:
        """How many generations run at once."""
        ...

    def status(self) -> EngineStatus:
        """State, process and memory now. Never blocks, never raises."""
        ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue a conversation. Closing the iterator at any point frees the slot within one batch."""
        ...

    def complete(self, request: CompletionRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue raw text. Closing the iterator at any point frees the slot within one batch."""
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """One vector per input, in order."""
        ...

    async def rerank(self, request: RerankRequest) -> Ranking:
        """One score per document, in order."""
        ...

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> tuple[int, ...]:
        """Token ids of a text. ``parse_special`` lets ``<|im_end|>`` and its like become one token."""
        ...

    async def detokenize(self, tokens: tuple[int, ...]) -> str:
        """Text of token ids."""
        ...

    async def render(self, request: ChatRequest) -> str:
        """The prompt that ``chat`` would give the model."""
        ...

    async def close(self) -> None:
        """Stop and free everything. Idempotent; running generations raise EngineDied."""
        ...


class Backend(Protocol):
    """A kind of engine."""

    def probe(self) -> EngineInfo:
        """What it could do here. No heavy import, no network, under 200 ms; "not installed" is an answer, not an error."""
        ...

    async def start(self, spec: EngineSpec, log: LogSink) -> Engine:
        """Load a model and return the engine, ready. May take minutes; may be cancelled; on failure no process is left.

        ``log`` receives the engine's own lines, as they come.

        Raises:
            EngineMissing: not installed, or a system library is missing.
            EngineStartFailed: it did not come up; ``log_tail`` says what it said last.
        """
        ...
