"""A dialect's request as events: take a lease, run it, let go. Knows nothing of any wire format."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from zhibei.app import App
from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Embeddings
from zhibei.errors import NotPermitted
from zhibei.events import Finished, FinishReason, GenerationEvent, TextDelta, Timings, Usage
from zhibei.refs import ModelRef
from zhibei.server.guard import is_loopback
from zhibei.service import RunOptions
from zhibei.settings import ServerSettings


async def chat(app: App, model: str, request: ChatRequest, options: RunOptions) -> AsyncGenerator[GenerationEvent, None]:
    """A conversation's continuation."""
    check_model(app.settings.server, model)
    async with (
        app.pool.lease(model, "generate", options.load, options.keep_alive) as engine,
        aclosing(engine.chat(request)) as events,
    ):
        async for event in events:
            yield event


async def complete(
    app: App, model: str, requests: tuple[CompletionRequest, ...], options: RunOptions, *, echo: bool = False
) -> AsyncGenerator[GenerationEvent, None]:
    """The continuations of one or more prompts, one after the other; the choices are counted through."""
    check_model(app.settings.server, model)
    ends: list[Finished] = []
    first = 0
    async with app.pool.lease(model, "generate", options.load, options.keep_alive) as engine:
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


async def embed(app: App, model: str, request: EmbeddingRequest, options: RunOptions) -> Embeddings:
    """Vectors for texts."""
    check_model(app.settings.server, model)
    async with app.pool.lease(model, "embed", options.load, options.keep_alive) as engine:
        return await engine.embed(request)


def check_model(settings: ServerSettings, model: str) -> None:
    """Return if a request may name this model. A file of the server's machine may only be named by that machine's user.

    Raises:
        BadReference: it does not parse.
        NotPermitted: it is a file, and the server can be reached from elsewhere.
    """
    if ModelRef.parse(model).source == "file" and not is_loopback(settings.host):
        raise NotPermitted("Requests may not name files of the server's machine, because others can reach this server.")


def _joined(ends: list[Finished]) -> Finished:
    reasons: tuple[FinishReason, ...] = tuple(reason for end in ends for reason in end.reasons)
    usage = Usage(
        sum(end.usage.num_prompt_tokens for end in ends),
        sum(end.usage.num_generated_tokens for end in ends),
        sum(end.usage.num_cached_tokens for end in ends),
    )
    measured = [end.timings for end in ends if end.timings is not None]
    if not measured:
        return Finished(reasons, usage)
    timings = Timings(
        sum(each.num_prompt_tokens for each in measured),
        sum(each.prompt_s for each in measured),
        sum(each.num_generated_tokens for each in measured),
        sum(each.generation_s for each in measured),
        sum(each.num_cached_tokens for each in measured),
    )
    return Finished(reasons, usage, timings)
