"""``zhibei.service.Service`` from a running server, over HTTP.

The native routes answer what OpenAI's have no words for; generation goes through OpenAI's. Errors come back as the classes
that the server raised.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings
from zhibei.engines import openai_body
from zhibei.engines.sse import SseSplitter
from zhibei.errors import EngineDied, SourceError, Unsupported
from zhibei.events import Checked, CheckEvent, Finished, GenerationEvent, Loading, Progress, Pulled, PullEvent
from zhibei.models import Leftover, StoredModel
from zhibei.options import LoadOptions
from zhibei.plans import Resident
from zhibei.service import PoolState, RunOptions
from zhibei.tls import client_context
from zhibei.wire import ERROR_DETAIL_HEADER, ERROR_DETAIL_KEY, NATIVE_PREFIX, decode, decode_error, decode_pull_event

if TYPE_CHECKING:
    import aiohttp

    from zhibei.judging.asking import FitQuestion
    from zhibei.judging.fit import Judgement
    from zhibei.judging.machine import Machine
    from zhibei.planner.recommend import Recommendation, Wish
    from zhibei.runtime.logbook import LogLine

Json = dict[str, Any]
CONNECT_TIMEOUT_S = 10.0
_FILES = ("lora", "mmproj", "draft_model", "chat_template")
_MAX_LINE_BYTES = 16 << 20


class RemoteService:
    """See the protocol. ``base_url`` ends before ``/v1``. Connections are made when they are needed."""

    def __init__(self, base_url: str, api_key: str | None = None, certificate: Path | None = None) -> None:
        """``certificate``: of the server, in PEM form, where no authority vouches for it."""
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._certificate = certificate
        self._session: aiohttp.ClientSession | None = None

    async def version(self) -> str:
        """The server's version."""
        return str((await self._ask("GET", NATIVE_PREFIX + "/version")).get("version"))

    async def list_models(self) -> Sequence[StoredModel]:
        """All models in the server's store."""
        found = await self._ask("GET", NATIVE_PREFIX + "/models")
        return [decode(StoredModel, item) for item in _items(found)]

    async def show_model(self, name: str) -> StoredModel:
        """One model."""
        return decode(StoredModel, await self._ask("GET", f"{NATIVE_PREFIX}/models/{quote(name, safe='')}"))

    async def pull(self, ref: str, *, name: str | None = None, copy: bool = False) -> AsyncGenerator[PullEvent, None]:
        """Have the server fetch or import a model. Closing this stops it there."""
        async with aclosing(self._events("/pull", {"ref": ref, "name": name, "copy_file": copy}, Pulled)) as events:
            async for event in events:
                if not isinstance(event, Checked):
                    yield event

    async def leftovers(self, *, partial_only: bool = False) -> Sequence[Leftover]:
        """What belongs to no model there."""
        path = f"{NATIVE_PREFIX}/leftovers?partial_only={str(partial_only).lower()}"
        return [decode(Leftover, item) for item in _items(await self._ask("GET", path))]

    async def prune(self) -> Sequence[Leftover]:
        """Remove what belongs to no model there."""
        return [decode(Leftover, item) for item in _items(await self._ask("POST", NATIVE_PREFIX + "/prune", {}))]

    async def verify(self, names: Sequence[str] = ()) -> AsyncGenerator[CheckEvent, None]:
        """Read models there again."""
        body = {"names": list(names)}
        async with aclosing(self._events("/verify", body, Checked, may_be_empty=not names)) as events:
            async for event in events:
                if isinstance(event, (Progress, Checked)):
                    yield event

    async def repair(self, name: str) -> AsyncGenerator[PullEvent | CheckEvent, None]:
        """Fetch what is wrong of a model there."""
        async with aclosing(self._events("/repair", {"name": name}, Pulled)) as events:
            async for event in events:
                yield event

    async def update(self, name: str) -> AsyncGenerator[PullEvent, None]:
        """Fetch a model's newer version there."""
        async with aclosing(self._events("/update", {"name": name}, Pulled)) as events:
            async for event in events:
                if not isinstance(event, Checked):
                    yield event

    async def remove_model(self, name: str) -> None:
        """Remove a model."""
        await self._ask("DELETE", f"{NATIVE_PREFIX}/models/{quote(name, safe='')}")

    async def copy_model(self, source: str, target: str) -> None:
        """Give a model a second name."""
        await self._ask("POST", NATIVE_PREFIX + "/models/copy", {"source": source, "target": target})

    async def residents(self) -> Sequence[Resident]:
        """The running models."""
        return [decode(Resident, item) for item in _items(await self._ask("GET", NATIVE_PREFIX + "/ps"))]

    async def pool(self) -> PoolState:
        """The running models, the queue and the memory there."""
        return decode(PoolState, await self._ask("GET", NATIVE_PREFIX + "/pool"))

    async def logs(self, name: str, *, num_lines: int = 100, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        """What a model's engine wrote there."""
        from zhibei.runtime.logbook import LogLine

        path = f"{NATIVE_PREFIX}/logs/{quote(name, safe='')}?lines={num_lines}&follow={str(follow).lower()}"
        async with aclosing(self._lines("GET", path)) as lines:
            async for line in lines:
                yield decode(LogLine, line)

    async def machine(self) -> Machine:
        """The server's machine."""
        from zhibei.judging.machine import Machine

        return decode(Machine, await self._ask("GET", NATIVE_PREFIX + "/hardware"))

    async def fit(self, question: FitQuestion) -> Judgement:
        """Whether and how a model runs there."""
        from zhibei.judging.fit import Judgement

        body = {"reference": question.reference} | _load_fields(question.load)
        optional = {"purpose": question.purpose, "engine": question.engine, "hardware": question.hardware}
        body |= {key: value for key, value in optional.items() if value is not None}
        return decode(Judgement, await self._ask("POST", NATIVE_PREFIX + "/fit", body))

    async def recommend(self, wish: Wish, *, limit: int = 8) -> Sequence[Recommendation]:
        """The catalogue's models for a wish, as they run there."""
        from zhibei.planner.recommend import Recommendation

        body = {
            "purpose": wish.purpose,
            "language": wish.language,
            "commercial": wish.is_commercial,
            "min_tokens_per_s": wish.min_tokens_per_s,
            "ctx_size": wish.ctx_size,
            "limit": limit,
        }
        return [decode(Recommendation, item) for item in _items(await self._ask("POST", NATIVE_PREFIX + "/recommend", body))]

    async def stop_model(self, name: str) -> None:
        """Unload a running model."""
        await self._ask("POST", NATIVE_PREFIX + "/stop", {"name": name})

    async def chat(
        self, model: str, request: ChatRequest, options: RunOptions = RunOptions()
    ) -> AsyncGenerator[Loading | GenerationEvent, None]:
        """Continue a conversation."""
        body = openai_body.chat_body(request, model) | _extension(options)
        async with aclosing(self._generate("/v1/chat/completions", body, request.num_choices)) as events:
            async for event in events:
                yield event

    async def complete(
        self, model: str, request: CompletionRequest, options: RunOptions = RunOptions()
    ) -> AsyncGenerator[Loading | GenerationEvent, None]:
        """Continue raw text."""
        body = openai_body.completion_body(request, model) | _extension(options)
        async with aclosing(self._generate("/v1/completions", body, request.num_choices)) as events:
            async for event in events:
                yield event

    async def embed(self, model: str, request: EmbeddingRequest, options: RunOptions = RunOptions()) -> Embeddings:
        """Vectors for texts."""
        inputs = [item if isinstance(item, str) else list(item) for item in request.inputs]
        answer = await self._ask("POST", "/v1/embeddings", {"model": model, "input": inputs} | _extension(options))
        return Embeddings(openai_body.vectors(answer, len(inputs)), int((answer.get("usage") or {}).get("prompt_tokens") or 0))

    async def tokenize(self, model: str, text: str, options: RunOptions = RunOptions()) -> tuple[int, ...]:
        """Token ids of a text."""
        answer = await self._ask("POST", NATIVE_PREFIX + "/tokenize", {"model": model, "text": text} | _extension(options))
        return tuple(answer.get("tokens") or ())

    async def detokenize(self, model: str, tokens: tuple[int, ...], options: RunOptions = RunOptions()) -> str:
        """Text of token ids."""
        body = {"model": model, "tokens": list(tokens)} | _extension(options)
        return str((await self._ask("POST", NATIVE_PREFIX + "/detokenize", body)).get("text"))

    async def close(self) -> None:
        """Close all connections; the server goes on. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _generate(self, path: str, body: Json, num_choices: int) -> AsyncGenerator[Loading | GenerationEvent, None]:
        if not await self._is_loaded(str(body["model"])):
            yield Loading(str(body["model"]))
        reader, splitter = openai_body.EventReader(num_choices), SseSplitter()
        finished: Finished | None = None
        async with self._request("POST", path, body) as response:
            async for piece in response.content.iter_any():
                for data in splitter.feed(piece):
                    if data == b"[DONE]":
                        finished = reader.finish()
                        continue
                    chunk = self._parse(data)
                    _raise_error(chunk)
                    for event in reader.read(chunk):
                        yield event
        if finished is None:
            raise EngineDied("The answer of the server at {url} ended too early.", hint="Try again.", url=self._base_url)
        yield finished

    async def _is_loaded(self, model: str) -> bool:
        """Whether the model runs already, as far as its name tells. Only for show: the server decides."""
        names = {resident.name for resident in await self.residents() if resident.state != "starting"}
        return model.lower() in names or f"{model.lower()}:latest" in names

    async def _events(
        self, path: str, body: Json, last: type[Pulled | Checked], *, may_be_empty: bool = False
    ) -> AsyncGenerator[PullEvent | CheckEvent, None]:
        """Work of the library there. It must end with ``last``."""
        done = may_be_empty
        async with aclosing(self._lines("POST", NATIVE_PREFIX + path, body)) as lines:
            async for line in lines:
                event = decode_pull_event(line)
                done = isinstance(event, last)
                yield event
        if not done:
            raise self._lost("the answer ended too early")

    async def _lines(self, method: str, path: str, body: Json | None = None) -> AsyncGenerator[Json, None]:
        rest = b""
        async with self._request(method, path, body) as response:
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _MAX_LINE_BYTES:
                    raise self._lost("a line is too long")
                for line in lines:
                    if line.strip():
                        found = self._parse(line)
                        _raise_error(found)
                        yield found

    async def _ask(self, method: str, path: str, body: Json | None = None) -> Json:
        async with self._request(method, path, body) as response:
            return self._parse(await response.read())

    @asynccontextmanager
    async def _request(self, method: str, path: str, body: Json | None) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response that is not an error."""
        import asyncio

        import aiohttp

        data = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with self._connected().request(method, self._base_url + path, data=data, headers=headers) as response:
                if response.status >= 400:
                    answer = self._parse(await response.read())
                    _raise_error(answer)
                    raise openai_body.error_of(answer, response.status)
                yield response
        except (aiohttp.ClientConnectorError, asyncio.TimeoutError) as error:
            raise SourceError("No Zhibei server answers at {url}.", hint="Start it: zhibei serve", url=self._base_url) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(str(error) or type(error).__name__) from error

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            headers = {ERROR_DETAIL_HEADER: "1"}
            if self._api_key is not None:
                headers["Authorization"] = f"Bearer {self._api_key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                # A connection that was kept may be closed by the other side at the moment it is used again. A sealed one is
                # kept all the same: closed on its own, it says goodbye for longer than the loop may live.
                connector=aiohttp.TCPConnector(
                    limit=0,
                    force_close=not self._base_url.startswith("https:"),
                    ssl=True if self._certificate is None else client_context(self._certificate),
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                trust_env=False,
            )
        return self._session

    def _parse(self, data: bytes) -> Json:
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise self._lost("it is not JSON") from None
        return found if isinstance(found, dict) else {"items": found}

    def _lost(self, problem: str) -> SourceError:
        return SourceError("The answer of the server at {url} makes no sense: {problem}.", url=self._base_url, problem=problem)


def _items(found: Json) -> Sequence[Any]:
    items = found.get("items")
    if not isinstance(items, list):
        raise SourceError("The server's answer makes no sense: it is not a list.")
    return items


def _raise_error(body: Mapping[str, Any]) -> None:
    """Raise what an error envelope holds, if it is one that a Zhibei wrote for us."""
    error = body.get("error")
    if isinstance(error, dict):
        detail = error.get(ERROR_DETAIL_KEY)
        if detail is not None:
            raise decode_error(detail)
        raise openai_body.error_of(body, 500)


def _extension(options: RunOptions) -> Json:
    """``load`` and ``keep_alive``, as the server's own fields.

    Raises:
        Unsupported: the options name files, which the server would look for on its own disk.
    """
    body = _load_fields(options.load)
    if options.keep_alive is not None:
        body["keep_alive"] = options.keep_alive
    return body


def _load_fields(options: LoadOptions) -> Json:
    load: Json = {}
    for field in fields(LoadOptions):
        value = getattr(options, field.name)
        if value in (None, ()):
            continue
        if field.name in _FILES:
            raise Unsupported(
                "A running server loads no files that a client names ({param}).",
                hint="Set it when the server starts, or stop the server to run the model in this process.",
                param=field.name,
            )
        load[field.name] = list(value) if isinstance(value, tuple) else value
    return {"load": load} if load else {}
