"""What an edge can ask for, whether the work is done in this process or by a running server.

``zhibei.local`` answers from an App in this process, ``zhibei.remote`` over HTTP; one suite tests both
(``tests/contract/service``). Only the Protocol lives here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from zhibei.models import Leftover, StoredModel
from zhibei.options import LoadOptions
from zhibei.plans import Resident

if TYPE_CHECKING:
    from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings
    from zhibei.events import CheckEvent, GenerationEvent, Loading, PullEvent
    from zhibei.judging.asking import FitQuestion
    from zhibei.judging.fit import Judgement
    from zhibei.judging.machine import Machine
    from zhibei.planner.recommend import Recommendation, Wish
    from zhibei.runtime.logbook import LogLine


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a model is to be loaded and kept. ``keep_alive`` (``5m``, ``0``, ``forever``) None: as the settings say."""

    load: LoadOptions = LoadOptions()
    keep_alive: str | None = None


@dataclass(frozen=True, slots=True)
class UpstreamSeen:
    """Another server whose models are used here. ``is_up``: it answered when it was last looked at."""

    name: str
    url: str
    num_models: int
    is_up: bool


@dataclass(frozen=True, slots=True)
class PoolState:
    """What runs now. ``num_waiting``: requests that wait for a model. Bytes are the machine's main memory."""

    residents: tuple[Resident, ...]
    num_waiting: int
    available_bytes: int | None
    total_bytes: int | None
    upstreams: tuple[UpstreamSeen, ...] = ()


class Service(Protocol):
    """Every verb raises errors of ``zhibei.errors``, the same ones locally and remotely."""

    async def version(self) -> str:
        """The version of the Zhibei that answers."""
        ...

    async def list_models(self) -> Sequence[StoredModel]:
        """All models in the store, broken ones included (``problem`` set), sorted by name."""
        ...

    async def show_model(self, name: str) -> StoredModel:
        """One model. Raises ModelNotFound."""
        ...

    def pull(self, ref: str, *, name: str | None = None, copy: bool = False) -> AsyncGenerator[PullEvent, None]:
        """Fetch or import a model, under ``name`` if given; ``copy`` copies a ``file:`` instead of using it in place."""
        ...

    async def leftovers(self, *, partial_only: bool = False) -> Sequence[Leftover]:
        """What ``prune`` would remove. ``partial_only``: downloads that were cut off, and those under way too."""
        ...

    async def prune(self) -> Sequence[Leftover]:
        """Remove what belongs to no model; returns what was removed."""
        ...

    def verify(self, names: Sequence[str] = ()) -> AsyncGenerator[CheckEvent, None]:
        """Read models again (all, if none is named) and compare them with their digests."""
        ...

    def repair(self, name: str) -> AsyncGenerator[PullEvent | CheckEvent, None]:
        """Read a model again, and fetch what is wrong of it."""
        ...

    def update(self, name: str) -> AsyncGenerator[PullEvent, None]:
        """Fetch a model's newer version from where it came, if there is one."""
        ...

    async def remove_model(self, name: str) -> None:
        """Remove a model; blobs that others use stay. Raises ModelNotFound."""
        ...

    async def copy_model(self, source: str, target: str) -> None:
        """Give a model a second name. Raises ModelNotFound."""
        ...

    async def residents(self) -> Sequence[Resident]:
        """The running models."""
        ...

    async def pool(self) -> PoolState:
        """The running models, the queue, and the machine's memory."""
        ...

    def logs(self, name: str, *, num_lines: int = 100, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        """The last lines that a model's engine wrote and, with ``follow``, each new one. Raises ModelNotFound."""
        ...

    async def machine(self) -> Machine:
        """The machine that the models run on."""
        ...

    async def fit(self, question: FitQuestion) -> Judgement:
        """Whether and how a model runs there. Raises what a look at the model raises."""
        ...

    async def recommend(self, wish: Wish, *, limit: int = 8) -> Sequence[Recommendation]:
        """The catalogue's models for a wish, the best first."""
        ...

    async def stop_model(self, name: str) -> None:
        """Unload a running model. Raises ModelNotFound if it is not running."""
        ...

    def chat(
        self, model: str, request: ChatRequest, options: RunOptions = RunOptions()
    ) -> AsyncGenerator[Loading | GenerationEvent, None]:
        """Continue a conversation, loading the model first where needed."""
        ...

    def complete(
        self, model: str, request: CompletionRequest, options: RunOptions = RunOptions()
    ) -> AsyncGenerator[Loading | GenerationEvent, None]:
        """Continue raw text."""
        ...

    async def embed(self, model: str, request: EmbeddingRequest, options: RunOptions = RunOptions()) -> Embeddings:
        """Vectors for texts."""
        ...

    async def tokenize(self, model: str, text: str, options: RunOptions = RunOptions()) -> tuple[int, ...]:
        """Token ids of a text."""
        ...

    async def detokenize(self, model: str, tokens: tuple[int, ...], options: RunOptions = RunOptions()) -> str:
        """Text of token ids."""
        ...

    async def close(self) -> None:
        """Let go of everything; models that were loaded in this process are unloaded."""
        ...
