"""The scripted engine: answers without a model, in this process. It drives the tests and shows what an engine must do.

Unscripted, it gives the last user message back word by word. An ``EchoScript`` can say anything else, wait, or fail.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings, Ranking, RerankRequest, TokenLogprob
from zhibei.engines import demands
from zhibei.engines.base import EngineStatus, LogSink
from zhibei.errors import EngineDied, EngineRefused, ZhibeiError
from zhibei.events import Finished, FinishReason, GenerationEvent, TextDelta, Timings, Usage
from zhibei.options import Limits
from zhibei.plans import Ability, EngineInfo, EngineSpec
from zhibei.text.stops import StopMatcher

_ABILITIES: dict[str, frozenset[Ability]] = {
    "generate": frozenset(("chat", "complete", "infill", "tokenize", "tools", "reasoning", "logprobs", "vision")),
    "embed": frozenset(("embed", "tokenize")),
    "rerank": frozenset(("rerank", "tokenize")),
}
_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Wait:
    """A step that waits until the test sets the event."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Fail:
    """A step that fails. EngineDied also makes the engine's state ``failed`` until the next call."""

    error: ZhibeiError


Step = GenerationEvent | Wait | Fail


class EchoScript:
    """What the engines of one backend will do, and a record of what they did.

    ``answers`` are used up in order; when none is left the engine echoes. ``load`` is waited for by every start.
    """

    def __init__(
        self, answers: Sequence[Sequence[Step]] = (), *, load: asyncio.Event | None = None, start_error: ZhibeiError | None = None
    ) -> None:
        self.answers = deque(tuple(answer) for answer in answers)
        self.load = load
        self.start_error = start_error
        self.requests: list[ChatRequest | CompletionRequest] = []
        self.started: list[EngineSpec] = []
        self.num_closed = 0
        self.num_running = 0
        self.num_abandoned = 0


class EchoBackend:
    """Starts echo engines that share one script."""

    def __init__(self, script: EchoScript | None = None) -> None:
        self.script = script or EchoScript()

    def probe(self) -> EngineInfo:
        """Always installed."""
        return EngineInfo("echo", True, "1", formats=("gguf", "safetensors", "unknown"), tasks=("generate", "embed", "rerank"))

    async def start(self, spec: EngineSpec, log: LogSink) -> EchoEngine:
        """Ready at once, unless the script says otherwise."""
        if self.script.load is not None:
            await self.script.load.wait()
        if self.script.start_error is not None:
            raise self.script.start_error
        self.script.started.append(spec)
        log("echo: ready")
        return EchoEngine(spec, self.script)


class EchoEngine:
    """See ``zhibei.engines.base.Engine``."""

    def __init__(self, spec: EngineSpec, script: EchoScript) -> None:
        self._spec = spec
        self._script = script
        self._slots = asyncio.Semaphore(spec.num_slots)
        self._state = "ready"
        self._closed = asyncio.Event()

    @property
    def spec(self) -> EngineSpec:
        """What it was started with."""
        return self._spec

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it can do, by the task it was loaded for."""
        return _ABILITIES[self._spec.task]

    @property
    def num_slots(self) -> int:
        """How many generations run at once."""
        return self._spec.num_slots

    def status(self) -> EngineStatus:
        """Never has a process."""
        return EngineStatus(self._state, None, 0)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Echo the last user message, or follow the script."""
        demands.check_chat(request, self.abilities, self.num_slots)
        said = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
        prompt = sum(len(_words(message.text)) for message in request.messages)
        async with aclosing(self._run(request, _words(said), prompt, request.limits)) as events:
            async for event in events:
                yield event

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Echo the prompt, or follow the script."""
        demands.check_completion(request, self.abilities, self.num_slots)
        prompt = request.prompt if isinstance(request.prompt, str) else await self.detokenize(request.prompt)
        async with aclosing(self._run(request, _words(prompt), len(_words(prompt)), request.limits)) as events:
            async for event in events:
                yield event

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """A unit vector per input that depends on its text alone."""
        demands.need(self.abilities, "embed")
        texts = [item if isinstance(item, str) else await self.detokenize(item) for item in request.inputs]
        return Embeddings(tuple(map(_vector, texts)), sum(len(_words(text)) for text in texts))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """The share of the query's words that each document holds."""
        demands.need(self.abilities, "rerank")
        query = set(request.query.lower().split())
        scores = (len(query & set(document.lower().split())) / max(1, len(query)) for document in request.documents)
        return Ranking(tuple(scores), sum(len(_words(document)) for document in request.documents))

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> tuple[int, ...]:
        """One token per character."""
        return tuple(map(ord, text))

    async def detokenize(self, tokens: tuple[int, ...]) -> str:
        """The characters of the code points."""
        if any(not 0 <= token <= sys.maxunicode or 0xD800 <= token < 0xE000 for token in tokens):
            raise EngineRefused("There is a number that is no token of this model.")
        return "".join(map(chr, tokens))

    async def render(self, request: ChatRequest) -> str:
        """One line per message."""
        return "".join(f"{message.role}: {message.text}\n" for message in request.messages)

    async def close(self) -> None:
        """Nothing to free; what runs fails."""
        if not self._closed.is_set():
            self._state = "stopped"
            self._closed.set()
            self._script.num_closed += 1

    async def _run(
        self, request: ChatRequest | CompletionRequest, words: list[str], num_prompt_tokens: int, limits: Limits
    ) -> AsyncGenerator[GenerationEvent, None]:
        self._script.requests.append(request)
        async with self._slots:
            self._state = "ready" if self._state == "failed" else self._state
            self._script.num_running += 1
            done = False
            try:
                steps = self._script.answers.popleft() if self._script.answers else None
                events = _echo(words, num_prompt_tokens, limits, request) if steps is None else self._follow(steps)
                async for event in events:
                    if self._closed.is_set():
                        raise EngineDied("The engine of {model} was stopped.", model=self._spec.model_name)
                    yield event
                done = True
            finally:
                self._script.num_running -= 1
                self._script.num_abandoned += not done

    async def _follow(self, steps: Sequence[Step]) -> AsyncIterator[GenerationEvent]:
        for step in steps:
            if isinstance(step, Wait):
                await self._reach(step.event)
            elif isinstance(step, Fail):
                self._state = "failed" if isinstance(step.error, EngineDied) else self._state
                raise step.error
            else:
                # Like a real engine, it never has everything to say at once.
                await asyncio.sleep(0)
                yield step

    async def _reach(self, event: asyncio.Event) -> None:
        """Wait for an event, or for the end of this engine."""
        waits = [asyncio.ensure_future(one.wait()) for one in (event, self._closed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def _echo(
    words: list[str], num_prompt_tokens: int, limits: Limits, request: ChatRequest | CompletionRequest
) -> AsyncIterator[GenerationEvent]:
    matcher = StopMatcher(limits.stop)
    allowed = words if limits.max_tokens is None else words[: limits.max_tokens]
    used = 0
    for word in allowed:
        await asyncio.sleep(0)
        used += 1
        shown = matcher.feed(word)
        for choice in range(request.num_choices if shown else 0):
            yield TextDelta(shown, choice, () if request.top_logprobs is None else (_logprob(shown, request.top_logprobs),))
        if matcher.stopped:
            break
    rest = matcher.finish()
    for choice in range(request.num_choices if rest else 0):
        yield TextDelta(rest, choice)
    reason: FinishReason = "stop" if matcher.stopped or len(allowed) == len(words) else "length"
    used *= request.num_choices
    yield Finished(
        (reason,) * request.num_choices,
        Usage(num_prompt_tokens, used),
        Timings(num_prompt_tokens, 0.001, used, 0.001 * used),
        stop_texts=(matcher.found,) * request.num_choices,
    )


def _logprob(token: str, num_top: int) -> TokenLogprob:
    own = TokenLogprob(token, 0.0, token.encode())
    return TokenLogprob(token, 0.0, token.encode(), top=(own,) * min(1, num_top))


def _words(text: str) -> list[str]:
    found = text.split(" ")
    return [word + (" " if index < len(found) - 1 else "") for index, word in enumerate(found) if word or index < len(found) - 1]


def _vector(text: str) -> tuple[float, ...]:
    raw = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:_DIMENSIONS]]
    length = sum(value * value for value in raw) ** 0.5
    return tuple(value / length for value in raw)
