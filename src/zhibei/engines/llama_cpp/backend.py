"""llama.cpp as an engine: a worker process, and its OpenAI-compatible server spoken to over loopback."""

from __future__ import annotations

import platform
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from importlib import metadata, util
from typing import TypeVar

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings, Ranking, RerankRequest
from zhibei.engines import demands
from zhibei.engines.base import EngineStatus, LogSink
from zhibei.engines.llama_cpp import order
from zhibei.engines.openai_body import chat_body
from zhibei.engines.openai_upstream import ConnectionLost, OpenAIUpstream
from zhibei.engines.process import EngineProcess, Ready
from zhibei.errors import EngineRefused
from zhibei.events import GenerationEvent
from zhibei.i18n import N_
from zhibei.plans import Ability, EngineInfo, EngineSpec

T = TypeVar("T")
# A device, how the version of a build for it begins after the plus sign, and a library that comes with it.
_BUILDS = (("cuda", "cu", "libcudart"), ("rocm", "rocm", "libamdhip"), ("vulkan", "vulkan", "libggml-vulkan"))


class LlamaCppBackend:
    """See ``zhibei.engines.base.Backend``."""

    def probe(self) -> EngineInfo:
        """Whether ``xllamacpp`` is installed; it is not imported."""
        installed = util.find_spec("xllamacpp") is not None
        return EngineInfo(
            name="llama.cpp",
            installed=installed,
            version=metadata.version("xllamacpp") if installed else None,
            formats=("gguf",),
            tasks=("generate", "embed", "rerank"),
            devices=_devices() if installed else ("cpu",),
            problem=None if installed else N_("The engine llama.cpp is not installed."),
            hint=None if installed else N_("Install it: pip install 'zhibei[llama-cpp]'"),
        )

    async def start(self, spec: EngineSpec, log: LogSink) -> LlamaCppEngine:
        """Load the model in a worker and ask it what it can do."""
        engine = LlamaCppEngine(spec, log)
        try:
            await engine.ready()
        except BaseException:
            await engine.close()
            raise
        return engine


def _devices() -> tuple[str, ...]:
    return devices_of(metadata.version("xllamacpp"), (file.name for file in metadata.files("xllamacpp") or ()))


def devices_of(version: str, file_names: Iterable[str]) -> tuple[str, ...]:
    """What a build computes on, without loading it: its version says so, or the libraries that it brings.

    A build that is not recognised counts as one for the processor; the engine then still uses what it finds by itself.
    """
    local, names = version.partition("+")[2], " ".join(file_names)
    found = tuple(device for device, prefix, library in _BUILDS if local.startswith(prefix) or library in names)
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found = (*found, "metal")
    return ("cpu", *found)


class LlamaCppEngine:
    """See ``zhibei.engines.base.Engine``."""

    def __init__(self, spec: EngineSpec, log: LogSink) -> None:
        """Starts nothing; ``ready`` does."""
        self._spec = spec
        command = [sys.executable, "-m", "zhibei.engines.llama_cpp.worker"]
        self._process = EngineProcess(spec.model_name, command, lambda key: order.encode(spec, key), log)
        self._abilities: frozenset[Ability] = frozenset()
        self._ready: Ready | None = None
        self._upstream: OpenAIUpstream | None = None

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
        """State, process and memory of the worker."""
        return self._process.status()

    async def ready(self) -> OpenAIUpstream:
        """A client of the running worker, which is started if need be."""
        ready = await self._process.ensure_ready()
        if self._upstream is not None and ready is self._ready:
            return self._upstream
        if self._upstream is not None:
            await self._upstream.close()
        upstream = self._upstream = OpenAIUpstream(ready.address, ready.key, self._spec.model_name)
        self._ready = ready
        self._abilities = await self._ask_abilities(upstream)
        return upstream

    async def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue a conversation with the model's own template."""
        upstream = await self.ready()
        demands.check_chat(request, self._abilities, self.num_slots)
        async with aclosing(self._generate(upstream.chat(request))) as events:
            async for event in events:
                yield event

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue raw text."""
        upstream = await self.ready()
        demands.check_completion(request, self._abilities, self.num_slots)
        async with aclosing(self._generate(upstream.complete(request))) as events:
            async for event in events:
                yield event

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
        return tuple(answer["tokens"])

    async def detokenize(self, tokens: tuple[int, ...]) -> str:
        """Text of token ids."""
        body = {"tokens": list(tokens)}
        return str((await self._ask("tokenize", lambda upstream: upstream.post("/detokenize", body)))["content"])

    async def render(self, request: ChatRequest) -> str:
        """The prompt the template makes of a chat."""
        body = chat_body(request, self._spec.model_name)
        names: tuple[str, ...] = ("messages", "tools", "reasoning_effort")
        wanted = {name: body[name] for name in names if name in body}
        return str((await self._ask("chat", lambda upstream: upstream.post("/apply-template", wanted)))["prompt"])

    async def close(self) -> None:
        """End the worker."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            await upstream.close()
        await self._process.close()
        self._ready = None

    async def _generate(self, events: AsyncGenerator[GenerationEvent, None]) -> AsyncGenerator[GenerationEvent, None]:
        with self._process.call():
            try:
                async with aclosing(events):
                    async for event in events:
                        yield event
            except ConnectionLost as error:
                raise await self._process.died() from error

    async def _ask(self, ability: Ability, question: Callable[[OpenAIUpstream], Awaitable[T]]) -> T:
        upstream = await self.ready()
        demands.need(self._abilities, ability)
        with self._process.call():
            try:
                return await question(upstream)
            except ConnectionLost as error:
                raise await self._process.died() from error

    async def _ask_abilities(self, upstream: OpenAIUpstream) -> frozenset[Ability]:
        try:
            props = await upstream.get("/props")
        except ConnectionLost as error:
            raise await self._process.died() from error
        if self._spec.task != "generate":
            return frozenset((self._spec.task, "tokenize"))
        caps, modalities = props.get("chat_template_caps"), props.get("modalities")
        if not isinstance(caps, dict) or not isinstance(modalities, dict):
            raise EngineRefused("The engine's answer makes no sense: {problem}", problem="no properties")
        found: set[Ability] = {"complete", "tokenize", "logprobs", "grammar", "chat", "reasoning"}
        if caps.get("supports_tools") or caps.get("supports_tool_calls"):
            found.add("tools")
        if modalities.get("vision"):
            found.add("vision")
        return frozenset(found)
