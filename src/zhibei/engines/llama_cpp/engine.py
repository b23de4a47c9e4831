"""A model served by llama.cpp: a worker process, and its OpenAI-compatible server spoken to where no other user is."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, TypeVar

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings, Ranking, RerankRequest
from zhibei.engines import demands
from zhibei.engines.base import EngineStatus, LogSink
from zhibei.engines.liveness import STALL_S
from zhibei.engines.llama_cpp import infill, kernels, order
from zhibei.engines.llama_cpp.log_lines import LogLines
from zhibei.engines.llama_cpp.prompts import MIN_TOKENS, Shelf
from zhibei.engines.llama_cpp.socket_place import SocketPlace
from zhibei.engines.openai_body import chat_body
from zhibei.engines.openai_upstream import OpenAIUpstream
from zhibei.engines.process import EngineProcess, Ready
from zhibei.engines.transport import ConnectionLost, NonsenseAnswer
from zhibei.errors import BadRequest, EngineRefused, Unsupported, ZhibeiError
from zhibei.events import GenerationEvent
from zhibei.plans import Ability, EngineSpec, Kernels

T = TypeVar("T")
# What an unloading may take longer because of the prompts.
KEEP_TIMEOUT_S = 30.0
WORKER = (sys.executable, "-m", "zhibei.engines.llama_cpp.worker")


class LlamaCppEngine:
    """See ``zhibei.engines.base.Engine``."""

    def __init__(
        self,
        spec: EngineSpec,
        log: LogSink,
        *,
        shelf: Shelf | None = None,
        stall_s: float = STALL_S,
        place: SocketPlace | None = None,
        left_out: Kernels | None = None,
        command: Sequence[str] = WORKER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing; ``ready`` does.

        Args:
            spec: what to load, and how.
            log: receives the worker's lines.
            shelf: where prompts are kept between loads, if they are.
            stall_s: how long the worker may do nothing while it is needed.
            place: where the worker's server listens; without one, on a port of loopback.
            left_out: kernels that are there and wanted, and that ``spec`` does without; why is said of it.
            command: the worker.
            clock: what tells how long the worker did nothing.
        """
        self._spec = spec
        self._log = log
        self._shelf = shelf
        self._place = place
        self._left_out = left_out
        self._process = EngineProcess(
            spec.model_name,
            command,
            self._order,
            log,
            stall_s=stall_s,
            clock=clock,
            kept=LogLines().kept,
        )
        self._abilities: frozenset[Ability] = frozenset()
        self._marks: infill.Marks | None = None
        self._ready: Ready | None = None
        self._upstream: OpenAIUpstream | None = None
        self._opening = asyncio.Lock()

    def _order(self, key: str) -> bytes:
        prompts = None if self._shelf is None else str(self._shelf.directory)
        return order.encode(order.Order(self._spec, key, prompts, None if self._place is None else self._place.path()))

    @property
    def spec(self) -> EngineSpec:
        """What it was started with."""
        return self._spec

    @property
    def abilities(self) -> frozenset[Ability]:
        """What the model said of itself when it was loaded."""
        return self._abilities

    @property
    def num_slots(self) -> int:
        """How many generations run at once."""
        return self._spec.num_slots

    @property
    def address(self) -> Ready | None:
        """Where the worker's own server is, for measuring against it; None while it does not run."""
        return self._ready

    def status(self) -> EngineStatus:
        """State, process and memory of the worker, and the kernels that it computes with."""
        told = None if self._ready is None else kernels.told(self._ready.told.get("kernels"))
        return replace(self._process.status(), kernels=told or self._left_out)

    async def ready(self) -> OpenAIUpstream:
        """A client of the running worker, which is started if need be."""
        return (await self._running())[0]

    def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue a conversation with the model's own template."""

        async def begun(upstream: OpenAIUpstream) -> AsyncGenerator[GenerationEvent, None]:
            demands.check_chat(request, self._abilities, self.num_slots)
            return upstream.chat(request, _native(request))

        return self._generate(begun)

    def complete(self, request: CompletionRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue raw text, or fill the gap before a suffix."""

        async def begun(upstream: OpenAIUpstream) -> AsyncGenerator[GenerationEvent, None]:
            demands.check_completion(request, self._abilities, self.num_slots)
            whole = request if request.suffix is None else await self._between(request, request.suffix)
            return upstream.complete(whole, _native(whole))

        return self._generate(begun)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """One vector per input."""
        return await self._ask("embed", lambda upstream: upstream.embed(request))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """One score per document."""
        return await self._ask("rerank", lambda upstream: upstream.rerank(request))

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> tuple[int, ...]:
        """Token ids of a text."""
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        answer = await self._ask("tokenize", lambda upstream: upstream.post("/tokenize", body))
        tokens = answer.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise _nonsense("no tokens")
        return tuple(tokens)

    async def detokenize(self, tokens: tuple[int, ...]) -> str:
        """Text of token ids."""
        body = {"tokens": list(tokens)}
        answer = await self._ask("tokenize", lambda upstream: upstream.post("/detokenize", body))
        return _text_of(answer, "content")

    async def render(self, request: ChatRequest) -> str:
        """The prompt the template makes of a chat."""
        body = chat_body(request, self._spec.model_name)
        names: tuple[str, ...] = ("messages", "tools", "reasoning_effort")
        wanted = {name: body[name] for name in names if name in body}
        return _text_of(await self._ask("chat", lambda upstream: upstream.post("/apply-template", wanted)), "prompt")

    async def close(self) -> None:
        """Keep its prompts, and end the worker."""
        upstream, self._upstream = self._upstream, None
        try:
            if upstream is not None:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._keep_prompts(upstream), KEEP_TIMEOUT_S)
                await upstream.close()
        finally:
            await self._process.close()
            self._ready = None
            if self._place is not None:
                self._place.remove()

    async def _running(self) -> tuple[OpenAIUpstream, Ready]:
        ready = await self._process.ensure_ready()
        async with self._opening:
            # Whoever waited for the lock finds that another has done it.
            ready = await self._process.ensure_ready()
            if self._upstream is None or ready is not self._ready:
                await self._open(ready)
            assert self._upstream is not None
            return self._upstream, ready

    async def _open(self, ready: Ready) -> None:
        if self._upstream is not None:
            await self._upstream.close()
        upstream = OpenAIUpstream(ready.address, ready.key, self._spec.model_name, on_progress=self._process.progressed)
        self._upstream, self._marks = upstream, None
        try:
            with self._process.waiting():
                self._abilities = await self._ask_abilities(upstream)
            await self._restore_prompts(upstream)
        except ConnectionLost as error:
            raise await self._process.died(ready) from error
        # Last: whoever is cancelled before this leaves it to be done again.
        self._ready = ready

    async def _generate(
        self, begun: Callable[[OpenAIUpstream], Awaitable[AsyncGenerator[GenerationEvent, None]]]
    ) -> AsyncGenerator[GenerationEvent, None]:
        upstream, ready = await self._running()
        generation = await begun(upstream)
        with self._process.call():
            try:
                async with aclosing(generation) as events:
                    while True:
                        # While whoever listens is slow, nothing is expected of the worker.
                        with self._process.waiting():
                            event = await anext(events, None)
                        if event is None:
                            return
                        yield event
            except ConnectionLost as error:
                raise await self._process.died(ready) from error

    async def _ask(self, ability: Ability, question: Callable[[OpenAIUpstream], Awaitable[T]]) -> T:
        upstream, ready = await self._running()
        demands.need(self._abilities, ability)
        with self._process.call(), self._process.waiting():
            try:
                return await question(upstream)
            except ConnectionLost as error:
                raise await self._process.died(ready) from error

    async def _ask_abilities(self, upstream: OpenAIUpstream) -> frozenset[Ability]:
        props = await upstream.get("/props")
        if self._spec.task != "generate":
            return frozenset((self._spec.task, "tokenize"))
        caps, modalities = props.get("chat_template_caps"), props.get("modalities")
        if not isinstance(caps, dict) or not isinstance(modalities, dict):
            raise NonsenseAnswer("no properties")
        found: set[Ability] = {"complete", "tokenize", "logprobs", "grammar", "chat", "reasoning"}
        if caps.get("supports_tools") or caps.get("supports_tool_calls"):
            found.add("tools")
        if modalities.get("vision"):
            found.add("vision")
        if await _can_infill(upstream):
            found.add("infill")
        return frozenset(found)

    async def _between(self, request: CompletionRequest, suffix: str) -> CompletionRequest:
        """The same request with a prompt made of what comes before and after the gap."""
        before = await self.tokenize(request.prompt) if isinstance(request.prompt, str) else request.prompt
        after = await self.tokenize(suffix)
        if self._marks is None:
            self._marks = await self._ask_marks()
        return replace(request, prompt=self._marks.around(before, after), suffix=None)

    async def _ask_marks(self) -> infill.Marks:
        answer = await self._ask("infill", lambda upstream: upstream.post("/infill", infill.SAMPLE))
        try:
            texts = infill.cut(answer)
        except ValueError as error:
            raise _nonsense(str(error)) from error
        head, middle, end = [await self.tokenize(text, parse_special=True) for text in texts]
        sample = await self.tokenize(infill.PREFIX), await self.tokenize(infill.SUFFIX)
        num_tokens = len(infill.Marks(head, middle, end).around(*sample))
        if num_tokens != answer.get("tokens_evaluated") or len(middle) != 1 or len(end) != 1:
            raise Unsupported(
                "This model's words for filling a gap cannot be told apart from text.",
                hint="Choose another model for code, or leave out the suffix.",
                param="suffix",
            )
        # What comes before the mark of the prefix, a file's name that nobody gave, is left out.
        return infill.Marks((*await self.tokenize("", add_special=True), head[-1]), middle, end)

    async def _keep_prompts(self, upstream: OpenAIUpstream) -> None:
        """Have the worker write what its idle slots hold; what fails is only slower the next time."""
        shelf = self._shelf
        if shelf is None or self._process.state != "ready":
            return
        try:
            with self._process.waiting():
                for number in range(self.num_slots):
                    name = shelf.new_name()
                    answer = await upstream.post(f"/slots/{number}?action=save", {"filename": name})
                    is_worth = _count(answer, "n_saved") >= MIN_TOKENS
                    await asyncio.to_thread(shelf.keep if is_worth else shelf.drop, name)
        except ZhibeiError as error:
            self._log(f"prompts were not kept: {error}")

    async def _restore_prompts(self, upstream: OpenAIUpstream) -> None:
        """Give the slots of a new worker what the last one's held."""
        shelf = self._shelf
        if shelf is None:
            return
        names = await asyncio.to_thread(shelf.newest, self.num_slots)
        for number, name in enumerate(names):
            try:
                with self._process.waiting():
                    await upstream.post(f"/slots/{number}?action=restore", {"filename": name})
            except ConnectionLost:
                # It may be this file that ended the worker: it must not do so again.
                await asyncio.to_thread(shelf.drop, name)
                raise
            except ZhibeiError as error:
                self._log(f"a prompt was not restored: {error}")


def _native(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """What llama.cpp is asked to tell beside: how far a prompt is read, and which stop text ended an answer."""
    return {"return_progress": True} | ({"verbose": True} if request.limits.stop else {})


async def _can_infill(upstream: OpenAIUpstream) -> bool:
    try:
        await upstream.post("/infill", infill.QUESTION)
    except Unsupported:
        return False
    except BadRequest:
        return True
    return True


def _text_of(answer: dict[str, Any], name: str) -> str:
    if not isinstance(answer.get(name), str):
        raise _nonsense(f"no {name}")
    return str(answer[name])


def _count(answer: dict[str, Any], name: str) -> int:
    count = answer.get(name)
    return count if isinstance(count, int) else 0


def _nonsense(problem: str) -> EngineRefused:
    return EngineRefused("The engine's answer makes no sense: {problem}", problem=problem)
