"""A dialect's request as events: take a lease, run it, let go. Knows nothing of any wire format.

The only way from a route to the pool: here it is checked which models a request may name, requests are told apart by who
asks, and watchers are told how they go.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace

from zhibei.app import App
from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings, Ranking, RerankRequest
from zhibei.engines.base import Engine
from zhibei.errors import NotPermitted
from zhibei.events import Finished, FinishReason, GenerationEvent, TextDelta, Timings, Usage
from zhibei.plans import Task
from zhibei.refs import ModelRef
from zhibei.server.access import is_loopback
from zhibei.server.ask import Ask
from zhibei.service import RunOptions

PrepareEmbedding = Callable[[Engine, EmbeddingRequest], Awaitable[EmbeddingRequest]]


@asynccontextmanager
async def lease(
    app: App, ask: Ask, model: str, options: RunOptions = RunOptions(), task: Task = "generate"
) -> AsyncIterator[Engine]:
    """Hold the engine of a model for one request; generations on it should go through ``watched``.

    One that is loaded with a longer context than the request wants is used as it is; a shorter one gives way.
    """
    check_model(app, ask, model)
    began_s = time.monotonic()
    for watcher in ask.watchers:
        watcher.began(ask, model)
    load = app.pool.suited(model, task, options.load)
    async with app.pool.lease(model, task, load, options.keep_alive, owner=ask.caller.id) as engine:
        for watcher in ask.watchers:
            watcher.admitted(ask, model, engine.spec.model_name, time.monotonic() - began_s)
        yield engine


async def watched(ask: Ask, model: str, events: AsyncGenerator[GenerationEvent, None]) -> AsyncGenerator[GenerationEvent, None]:
    """The same events; watchers are told of the first, of the end, and of a failure."""
    began_s, is_first, is_done = time.monotonic(), True, False
    try:
        async with aclosing(events):
            async for event in events:
                ask.meter.num_pieces += 1
                if is_first:
                    is_first = False
                    for watcher in ask.watchers:
                        watcher.first_token(ask, model, time.monotonic() - began_s)
                if isinstance(event, Finished):
                    is_done = True
                    _tell_end(ask, model, event, began_s)
                yield event
    except BaseException as error:
        # What leaves after the end has lost nothing.
        if not is_done:
            for watcher in ask.watchers:
                watcher.failed(ask, model, error)
        raise


def chat(app: App, ask: Ask, model: str, request: ChatRequest, options: RunOptions) -> AsyncGenerator[GenerationEvent, None]:
    """A conversation's continuation."""
    return watched(ask, model, _chat(app, ask, model, request, options))


def complete(
    app: App, ask: Ask, model: str, requests: tuple[CompletionRequest, ...], options: RunOptions, *, echo: bool = False
) -> AsyncGenerator[GenerationEvent, None]:
    """The continuations of one or more prompts, one after the other; the choices are counted through."""
    return watched(ask, model, _complete(app, ask, model, requests, options, echo=echo))


async def embed(
    app: App, ask: Ask, model: str, request: EmbeddingRequest, options: RunOptions, prepare: PrepareEmbedding | None = None
) -> Embeddings:
    """Vectors for texts. ``prepare``: makes of the request, once the engine is there, what the engine is asked."""
    with _told(ask, model) as count:
        async with lease(app, ask, model, options, "embed") as engine:
            found = await engine.embed(request if prepare is None else await prepare(engine, request))
        count(found.num_tokens)
        return found


async def rerank(app: App, ask: Ask, model: str, request: RerankRequest, options: RunOptions) -> Ranking:
    """Scores of documents."""
    with _told(ask, model) as count:
        async with lease(app, ask, model, options, "rerank") as engine:
            found = await engine.rerank(request)
        count(found.num_tokens)
        return found


@contextmanager
def _told(ask: Ask, model: str) -> Iterator[Callable[[int], None]]:
    """Watchers are told of work that has no tokens of its own: what is yielded says how many it read."""
    began_s = time.monotonic()
    try:
        yield lambda num_prompt_tokens: _tell_end(ask, model, Finished(("stop",), Usage(num_prompt_tokens, 0)), began_s)
    except BaseException as error:
        for watcher in ask.watchers:
            watcher.failed(ask, model, error)
        raise


def _tell_end(ask: Ask, model: str, end: Finished, began_s: float) -> None:
    for watcher in ask.watchers:
        watcher.finished(ask, model, end, time.monotonic() - began_s)


def check_model(app: App, ask: Ask, model: str) -> None:
    """Return if a request may name this model. Files are for the machine's own user, except those that the settings name.

    Raises:
        BadReference: it does not parse.
        NotPermitted: it is a file, and whoever asks is or could be somebody else.
    """
    if ModelRef.parse(model).source == "file" and model not in (app.settings.model, *app.settings.models):
        check_files(app, ask)


def check_files(app: App, ask: Ask) -> None:
    """Return if a request may make the server read files of its machine, and addresses that it names.

    A key for less than everything is somebody else's, who may share the machine: the server reads what its own user may.

    Raises:
        NotPermitted: others can reach the server, or the key is not an administrator's.
    """
    if not is_loopback(app.settings.server.host):
        raise NotPermitted("Requests may not name files of the server's machine, because others can reach this server.")
    if "admin" not in ask.caller.scopes:
        raise NotPermitted("This API key may not name files of the server's machine: it lacks the scope {scope}.", scope="admin")


async def _chat(
    app: App, ask: Ask, model: str, request: ChatRequest, options: RunOptions
) -> AsyncGenerator[GenerationEvent, None]:
    async with lease(app, ask, model, options) as engine, aclosing(engine.chat(request)) as events:
        async for event in events:
            yield event


async def _complete(
    app: App, ask: Ask, model: str, requests: tuple[CompletionRequest, ...], options: RunOptions, *, echo: bool
) -> AsyncGenerator[GenerationEvent, None]:
    ends: list[Finished] = []
    first = 0
    async with lease(app, ask, model, options) as engine:
        for request in requests:
            if echo:
                prompt = request.prompt if isinstance(request.prompt, str) else await engine.detokenize(request.prompt)
                for choice in range(request.num_choices):
                    yield TextDelta(prompt, first + choice)
            async with aclosing(engine.complete(request)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        ends.append(event)
                    else:
                        yield replace(event, choice=event.choice + first) if first else event
            first += request.num_choices
    yield _joined(ends)


def _joined(ends: list[Finished]) -> Finished:
    reasons: tuple[FinishReason, ...] = tuple(reason for end in ends for reason in end.reasons)
    usage = Usage(
        sum(end.usage.num_prompt_tokens for end in ends),
        sum(end.usage.num_generated_tokens for end in ends),
        sum(end.usage.num_cached_tokens for end in ends),
    )
    stop_texts = tuple(text for end in ends for text in end.stop_texts or (None,) * len(end.reasons))
    measured = [end.timings for end in ends if end.timings is not None]
    if not measured:
        return Finished(reasons, usage, None, stop_texts)
    timings = Timings(
        sum(each.num_prompt_tokens for each in measured),
        sum(each.prompt_s for each in measured),
        sum(each.num_generated_tokens for each in measured),
        sum(each.generation_s for each in measured),
        sum(each.num_cached_tokens for each in measured),
    )
    return Finished(reasons, usage, timings, stop_texts)
