"""The Python API: load a model and use it, sync or async. Owns the conveniences; the work is a Service's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

from zhibei import event_loop
from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Message, ResponseFormat, Tool, ToolCall
from zhibei.errors import BadRequest
from zhibei.events import (
    Finished,
    FinishReason,
    GenerationEvent,
    Loading,
    ReasoningDelta,
    TextDelta,
    Timings,
    ToolCallDelta,
    Usage,
)
from zhibei.models import StoredModel
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.service import RunOptions, Service
from zhibei.settings import resolve

T = TypeVar("T")
Said = str | Message | Sequence[Message]
_LOOK_UP_S = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``str(answer)`` is its text."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings | None

    def __str__(self) -> str:
        return self.text

    @property
    def message(self) -> Message:
        """The answer as the assistant's turn, to be appended to the conversation."""
        return Message("assistant", Message.of("assistant", self.text).parts if self.text else (), tool_calls=self.tool_calls)


class AsyncModel:
    """A model to be used from async code; ``load_async`` makes one. Close it, or use it as a context manager."""

    def __init__(self, service: Service, name: str, options: RunOptions) -> None:
        self._service = service
        self._options = options
        self.name = name

    async def chat(
        self, said: Said, *, tools: Sequence[Tool] = (), format: ResponseFormat = ResponseFormat(), **how: Any
    ) -> Answer:
        """The answer to a text, a message or a conversation.

        Args:
            said: a text is taken as the user's.
            tools: functions the model may call.
            format: the shape the answer must have.
            **how: ``max_tokens``, ``stop``, and the fields of ``Sampling`` (``temperature``, ``seed`` …).
        """
        return await collect(self.events(said, tools=tools, format=format, **how))

    async def stream(self, said: Said, **how: Any) -> AsyncGenerator[str, None]:
        """The answer's text, piece by piece; takes what ``chat`` takes."""
        async with aclosing(self.events(said, **how)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    yield event.text

    def events(
        self, said: Said, *, tools: Sequence[Tool] = (), format: ResponseFormat = ResponseFormat(), **how: Any
    ) -> AsyncGenerator[GenerationEvent, None]:
        """The answer as typed events; takes what ``chat`` takes."""
        sampling, limits = _how(how)
        request = ChatRequest(_messages(said), sampling, limits, tuple(tools), response_format=format)
        return _without_loading(self._service.chat(self.name, request, self._options))

    async def complete(self, prompt: str, **how: Any) -> Answer:
        """The continuation of raw text, without a chat template."""
        sampling, limits = _how(how)
        request = CompletionRequest(prompt, sampling, limits)
        return await collect(_without_loading(self._service.complete(self.name, request, self._options)))

    async def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """One vector per text."""
        inputs = (texts,) if isinstance(texts, str) else tuple(texts)
        answer = await self._service.embed(self.name, EmbeddingRequest(inputs), self._options)
        return [list(vector) for vector in answer.vectors]

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(await self._service.tokenize(self.name, text, self._options))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return await self._service.detokenize(self.name, tuple(tokens), self._options)

    async def close(self) -> None:
        """Unload what was loaded in this process. Idempotent."""
        await self._service.close()

    async def __aenter__(self) -> AsyncModel:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


class Model:
    """A model to be used from ordinary code; ``load`` makes one. The same verbs as ``AsyncModel``, waited for."""

    def __init__(self, model: AsyncModel, runner: Runner) -> None:
        self._model = model
        self._runner = runner
        self.name = model.name

    def chat(self, said: Said, *, tools: Sequence[Tool] = (), format: ResponseFormat = ResponseFormat(), **how: Any) -> Answer:
        """The answer to a text, a message or a conversation; see ``AsyncModel.chat``."""
        return self._runner.wait(self._model.chat(said, tools=tools, format=format, **how))

    def stream(self, said: Said, **how: Any) -> Iterator[str]:
        """The answer's text, piece by piece."""
        return self._runner.iterate(self._model.stream(said, **how))

    def events(self, said: Said, **how: Any) -> Iterator[GenerationEvent]:
        """The answer as typed events."""
        return self._runner.iterate(self._model.events(said, **how))

    def complete(self, prompt: str, **how: Any) -> Answer:
        """The continuation of raw text."""
        return self._runner.wait(self._model.complete(prompt, **how))

    def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """One vector per text."""
        return self._runner.wait(self._model.embed(texts))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._runner.wait(self._model.tokenize(text))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return self._runner.wait(self._model.detokenize(tokens))

    def close(self) -> None:
        """Unload the model and end the thread that served it. Idempotent."""
        if self._runner.running:
            self._runner.wait(self._model.close())
            self._runner.stop()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Step(Generic[T]):
    """A coroutine that one thread waits for and another runs.

    Ctrl-C may come at any moment of the waiting: a queue loses nothing by it, a condition may lose its lock.
    """

    def __init__(self, work: Coroutine[object, None, T]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._ended: SimpleQueue[asyncio.Task[T]] = SimpleQueue()

    def start(self) -> None:
        """Run it, on the loop's thread."""
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(self._end)

    def result(self) -> T:
        """Wait for it, on the other thread."""
        while True:
            try:
                # A signal that comes just before the thread sleeps is only seen when it wakes.
                ended = self._ended.get(timeout=_LOOK_UP_S)
            except Empty:
                continue
            return ended.result()

    def cancel(self) -> None:
        """Stop it, on the loop's thread, if it still runs or never began."""
        if self._task is None:
            self._work.close()
        else:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        # Whoever was interrupted does not look at its error any more.
        task.cancelled() or task.exception()
        self._ended.put(task)


class Runner:
    """An event loop on a thread of its own, for callers that have none."""

    def __init__(self) -> None:
        self._loop = event_loop.new()
        self._thread = threading.Thread(target=self._loop.run_forever, name="zhibei", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it can still be used."""
        return not self._loop.is_closed()

    def wait(self, work: Coroutine[object, None, T]) -> T:
        """The result of a coroutine."""
        if not self.running:
            work.close()
            raise BadRequest("This model was closed.", hint="Load it again.")
        step = _Step(work)
        try:
            self._loop.call_soon_threadsafe(step.start)
            return step.result()
        except BaseException:
            self._loop.call_soon_threadsafe(step.cancel)
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """An async generator as a plain one; leaving it early closes the other."""
        # A step that was interrupted (Ctrl-C) may still be ending on the other thread when the generator is to be closed.
        turn = asyncio.Lock()
        try:
            while True:
                try:
                    yield self.wait(_next(items, turn))
                except StopAsyncIteration:
                    return
        finally:
            if self.running:
                self.wait(_close(items, turn))

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def load_async(
    model: str | None = None, *, pull: bool = True, address: str | None = None, keep_alive: str | None = None, **load: object
) -> AsyncModel:
    """A model, ready to be used; it is loaded at the first request.

    Args:
        model: a name, a reference (``pypi:…``) or a path; None: the default model.
        pull: fetch it if it is not on this machine.
        address: use the Zhibei server there (``http://127.0.0.1:11435``) instead of loading in this process.
        keep_alive: how long it stays loaded when idle (``5m``, ``forever``).
        **load: fields of ``LoadOptions`` (``ctx_size``, ``threads`` …).

    Raises:
        ModelNotFound: it is not here and may or can not be pulled.
    """
    settings = resolve().settings
    service = _service(address)
    try:
        name = await _present(service, model or settings.model, pull=pull)
    except BaseException:
        await service.close()
        raise
    return AsyncModel(service, name, RunOptions(_fields(LoadOptions, load), keep_alive))


def load(
    model: str | None = None, *, pull: bool = True, address: str | None = None, keep_alive: str | None = None, **load: object
) -> Model:
    """Like ``load_async``, for ordinary code."""
    runner = Runner()
    try:
        inner = runner.wait(load_async(model, pull=pull, address=address, keep_alive=keep_alive, **load))
    except BaseException:
        runner.stop()
        raise
    return Model(inner, runner)


def list_models() -> list[StoredModel]:
    """The models on this machine."""
    from zhibei.store.library import Library

    return Library(resolve().settings.home).list()


async def collect(events: AsyncGenerator[GenerationEvent, None]) -> Answer:
    """The first choice of a generation, whole."""
    text, reasoning = [], []
    calls: dict[int, tuple[str, str, list[str]]] = {}
    end: Finished | None = None
    async with aclosing(events):
        async for event in events:
            match event:
                case TextDelta(piece, 0):
                    text.append(piece)
                case ReasoningDelta(piece, 0):
                    reasoning.append(piece)
                case ToolCallDelta(index, arguments, id, name, 0):
                    known = calls.setdefault(index, (id or "", name or "", []))
                    known[2].append(arguments)
                case Finished():
                    end = event
    assert end is not None
    made = tuple(ToolCall(id, name, "".join(pieces)) for _, (id, name, pieces) in sorted(calls.items()))
    return Answer("".join(text), "".join(reasoning), made, end.reasons[0], end.usage, end.timings)


def _service(address: str | None) -> Service:
    settings = resolve().settings
    if address is not None:
        from zhibei.remote import RemoteService

        return RemoteService(address, settings.server.api_key, settings.server.tls_cert)
    from zhibei.app import build
    from zhibei.local import LocalService

    return LocalService(build(settings))


async def _present(service: Service, model: str, *, pull: bool) -> str:
    from zhibei.errors import ModelNotFound
    from zhibei.events import Pulled

    try:
        return (await service.show_model(model)).name
    except ModelNotFound:
        if not pull:
            raise
    name = model
    async with aclosing(service.pull(model)) as events:
        async for event in events:
            if isinstance(event, Pulled):
                name = event.model.name
    return name


async def _without_loading(
    events: AsyncGenerator[Loading | GenerationEvent, None],
) -> AsyncGenerator[GenerationEvent, None]:
    async with aclosing(events):
        async for event in events:
            if not isinstance(event, Loading):
                yield event


async def _next(items: AsyncGenerator[T, None], turn: asyncio.Lock) -> T:
    async with turn:
        return await items.__anext__()


async def _close(items: AsyncGenerator[T, None], turn: asyncio.Lock) -> None:
    async with turn:
        await items.aclose()


def _messages(said: Said) -> tuple[Message, ...]:
    if isinstance(said, str):
        return (Message.of("user", said),)
    return (said,) if isinstance(said, Message) else tuple(said)


def _how(how: dict[str, object]) -> tuple[Sampling, Limits]:
    limits: dict[str, object] = {key: how.pop(key) for key in ("max_tokens", "stop", "ignore_eos") if key in how}
    stop = limits.get("stop") or ()
    limits["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)  # type: ignore[arg-type]
    return _fields(Sampling, how), _fields(Limits, limits)


def _fields(kind: type[T], values: dict[str, object]) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise BadRequest(
                "There is no parameter {name!r}.", hint="There are: {known}", name=name, known=", ".join(sorted(known))
            )
    return kind(**values)
