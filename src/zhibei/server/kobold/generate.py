"""A generation for Kobold: takes a lease, makes the prompt fit, runs it. Knows no wire format."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from zhibei.app import App
from zhibei.events import GenerationEvent
from zhibei.server import generation
from zhibei.server.ask import Ask
from zhibei.server.kobold.fitting import fitted
from zhibei.server.kobold.runs import Run
from zhibei.server.kobold.translate import Wanted


def generate(app: App, ask: Ask, model: str, wanted: Wanted, run: Run) -> AsyncGenerator[GenerationEvent, None]:
    """The continuation of a prompt; ``run`` is told how much of it was cut before the first event."""
    return generation.watched(ask, model, _generate(app, ask, model, wanted, run))


async def _generate(app: App, ask: Ask, model: str, wanted: Wanted, run: Run) -> AsyncGenerator[GenerationEvent, None]:
    async with generation.lease(app, ask, model) as engine:
        limits = wanted.request.limits
        fit = await fitted(engine, wanted.memory, wanted.prompt, limits.max_tokens, wanted.max_context)
        run.num_cut_tokens = fit.num_cut_tokens
        request = replace(wanted.request, prompt=fit.prompt, limits=replace(limits, max_tokens=fit.max_length))
        async with aclosing(engine.complete(request)) as events:
            async for event in events:
                yield event
