"""A model of another server as an engine: spoken to as OpenAI, asked for the rest in its own way. It starts nothing there.

What the server takes is ``kinds``' business, what is sent ``requests``', where it is ``listing``'s.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings, Ranking, RerankRequest
from zhibei.engines import demands
from zhibei.engines.base import EngineStatus, LogSink
from zhibei.engines.openai_body import chat_body
from zhibei.engines.openai_upstream import OpenAIUpstream
from zhibei.engines.transport import ConnectionLost, NonsenseAnswer
from zhibei.engines.upstream import abilities as asked
from zhibei.engines.upstream import requests
from zhibei.engines.upstream.kinds import KINDS, Kind
from zhibei.engines.upstream.listing import Upstreams, no_answer, wrong_key
from zhibei.engines.upstream.look import base_address
from zhibei.errors import EngineDied, EngineRefused, ModelNotFound, NotPermitted, Unsupported
from zhibei.events import Finished, GenerationEvent, ToolCallDelta, Usage
from zhibei.i18n import Phrase
from zhibei.plans import Ability, EngineInfo, EngineSpec
from zhibei.refs import ModelRef, UpstreamModel

T = TypeVar("T")
_log = logging.getLogger(__name__)


class UpstreamBackend:
    """See ``zhibei.engines.base.Backend``."""

    def __init__(self, upstreams: Upstreams | None = None) -> None:
        self._upstreams = upstreams or Upstreams({}, "")

    def probe(self) -> EngineInfo:
        """Always installed: it needs nothing here."""
        return EngineInfo("upstream", True, "1", formats=("upstream",), tasks=("generate", "embed", "rerank"))

    async def start(self, spec: EngineSpec, log: LogSink) -> UpstreamEngine:
        """Ask the server what it is, and whether it has the model."""
        wanted = UpstreamModel.of(ModelRef.parse(spec.model_path))
        settings = self._upstreams.settings_of(wanted.server)
        state = await self._upstreams.look_at(wanted.server)
        if state.problem is not None:
            raise state.problem
        names = {model.name for model in state.models}
        if wanted.model not in settings.models and not names & {wanted.model, f"{wanted.model}:latest"}:
            raise ModelNotFound(
                "The server {name} at {url} has no model {model}.",
                hint="See what it has: zhibei list",
                name=wanted.server,
                url=settings.url,
                model=wanted.model,
            )
        kind = KINDS[state.kind or "openai"]
        client = OpenAIUpstream(base_address(settings.url), settings.api_key, wanted.model)
        engine = UpstreamEngine(spec, client, kind, wanted, settings.url)
        try:
            await engine.ready()
        except BaseException:
            await engine.close()
            raise
        log(f"{wanted}: served by {kind.title} at {settings.url}")
        return engine


class UpstreamEngine:
    """See ``zhibei.engines.base.Engine``."""

    def __init__(self, spec: EngineSpec, client: OpenAIUpstream, kind: Kind, model: UpstreamModel, url: str) -> None:
        """Asks nothing; ``ready`` does."""
        self._spec = spec
        self._client = client
        self._kind = kind
        self._model = model
        self._url = url
        self._abilities: frozenset[Ability] = frozenset()
        self._reported: set[tuple[str, ...]] = set()
        self._is_closed = False

    @property
    def spec(self) -> EngineSpec:
        """What it was started with."""
        return self._spec

    @property
    def abilities(self) -> frozenset[Ability]:
        """What the server says of the model, or where it says nothing, what such a server can do."""
        return self._abilities

    @property
    def num_slots(self) -> int:
        """How many generations run at once; how many the server runs at once is its own business."""
        return self._spec.num_slots

    @property
    def kind(self) -> Kind:
        """What the server is."""
        return self._kind

    def status(self) -> EngineStatus:
        """It has no process and takes no memory here."""
        return EngineStatus("stopped" if self._is_closed else "ready", None, 0)

    async def ready(self) -> None:
        """Ask what the model can do.

        Raises:
            UpstreamDown, EngineRefused: the server does not answer, or not sensibly.
        """
        async with self._translated():
            self._abilities = await asked.ask(self._client, self._kind, self._model.model, self._spec.task)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue a conversation."""
        self._check_open()
        demands.check_chat(request, self._abilities, self.num_slots)
        requests.check(request, self._kind)
        if request.tool_choice.mode == "none" and not self._kind.chooses_tools:
            request = replace(request, tools=())
        request, fitted = requests.fitted(request, self._kind)
        self._report(fitted.unsent)
        texts = [message.text for message in request.messages]
        async with aclosing(self._generate(self._client.chat(request, fitted.extra), texts)) as events:
            async for event in events:
                yield event

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue raw text."""
        self._check_open()
        demands.check_completion(request, self._abilities, self.num_slots)
        requests.check(request, self._kind)
        request = replace(request, prompt=await self._readable(request.prompt))
        request, fitted = requests.fitted(request, self._kind)
        self._report(fitted.unsent)
        texts = [request.prompt] if isinstance(request.prompt, str) else []
        async with aclosing(self._generate(self._client.complete(request, fitted.extra), texts)) as events:
            async for event in events:
                yield event

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """One vector per input."""
        demands.need(self._abilities, "embed")
        inputs = tuple([await self._readable(item) for item in request.inputs])
        return await self._ask(lambda client: client.embed(EmbeddingRequest(inputs)))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """One score per document."""
        demands.need(self._abilities, "rerank")
        return await self._ask(lambda client: client.rerank(request))

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> tuple[int, ...]:
        """Token ids of a text, as the server counts them."""
        demands.need(self._abilities, "tokenize")
        way = self._kind.tokenizer
        assert way is not None
        body: dict[str, Any] = {way.text: text}
        if way.special is not None:
            body[way.special] = add_special
        if self._kind.is_llama:
            body["parse_special"] = parse_special
        if way.names_model:
            body["model"] = self._model.model
        answer = await self._ask(lambda client: client.post(way.encode_path, body))
        tokens = answer.get(way.ids)
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise self._nonsense(NonsenseAnswer("no tokens"))
        return tuple(tokens)

    async def detokenize(self, tokens: tuple[int, ...]) -> str:
        """Text of token ids."""
        demands.need(self._abilities, "tokenize")
        way = self._kind.tokenizer
        assert way is not None
        body: dict[str, Any] = {way.tokens: list(tokens)}
        if way.names_model:
            body["model"] = self._model.model
        return self._text(await self._ask(lambda client: client.post(way.decode_path, body)), way.back)

    async def render(self, request: ChatRequest) -> str:
        """The prompt that the server makes of a chat; only llama-server tells."""
        if not self._kind.is_llama:
            raise Unsupported("{title} does not tell what prompt it makes of a chat.", title=self._kind.title)
        body = chat_body(request, self._model.model)
        names: tuple[str, ...] = ("messages", "tools", "reasoning_effort")
        wanted = {name: body[name] for name in names if name in body}
        return self._text(await self._ask(lambda client: client.post("/apply-template", wanted)), "prompt")

    async def close(self) -> None:
        """Close the connections; what runs on them fails."""
        self._is_closed = True
        await self._client.close()

    async def _generate(
        self, events: AsyncGenerator[GenerationEvent, None], texts: list[str]
    ) -> AsyncGenerator[GenerationEvent, None]:
        said: list[str] = []
        async with self._translated(), aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    yield replace(event, usage=await self._counted(event.usage, texts, said))
                    continue
                said.append(event.arguments if isinstance(event, ToolCallDelta) else event.text)
                yield event

    async def _counted(self, usage: Usage, texts: list[str], said: list[str]) -> Usage:
        """The usage the server gave; where it gave none, counted with its tokenizer, or as pieces that came."""
        if not said or usage.num_generated_tokens or usage.num_prompt_tokens:
            return usage
        if "tokenize" not in self._abilities:
            return Usage(0, len(said))
        prompt = [len(await self.tokenize(text)) for text in texts if text]
        return Usage(sum(prompt), len(await self.tokenize("".join(said))))

    async def _readable(self, prompt: str | tuple[int, ...]) -> str | tuple[int, ...]:
        """A prompt as the server reads it: where it knows no token ids, their text."""
        if isinstance(prompt, str) or self._kind.takes_tokens:
            return prompt
        if "tokenize" not in self._abilities:
            raise Unsupported("{title} takes text, not token ids.", param="prompt", title=self._kind.title)
        return await self.detokenize(prompt)

    async def _ask(self, question: Callable[[OpenAIUpstream], Awaitable[T]]) -> T:
        self._check_open()
        async with self._translated():
            return await question(self._client)

    def _text(self, answer: dict[str, Any], field: str) -> str:
        text = answer.get(field)
        if not isinstance(text, str):
            raise self._nonsense(NonsenseAnswer(Phrase("no {field}", field=field)))
        return text

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineDied("The engine of {model} was stopped.", model=self._spec.model_name)

    def _report(self, unsent: tuple[str, ...]) -> None:
        if unsent and unsent not in self._reported:
            self._reported.add(unsent)
            _log.warning("%s is not told what it does not know: %s", self._kind.title, ", ".join(unsent))

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """What goes wrong with the server, as ours: which one, and where."""
        try:
            yield
        except NonsenseAnswer as error:
            raise self._nonsense(error) from error
        except ConnectionLost as error:
            self._check_open()
            raise no_answer(self._model.server, self._url) from error
        except NotPermitted as error:
            raise wrong_key(self._model.server, self._url) from error

    def _nonsense(self, error: NonsenseAnswer) -> EngineRefused:
        return EngineRefused(
            "The answer of the server {name} at {url} makes no sense: {problem}",
            name=self._model.server,
            url=self._url,
            problem=error.values["problem"],
        )
