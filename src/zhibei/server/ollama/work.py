"""The generations of this dialect: what has to be asked of the engine before and after the tokens come.

Owns when a chat is shortened, and the ``context`` by which a client goes on with token ids instead of messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from zhibei.app import App
from zhibei.chat import ChatRequest, CompletionRequest, Message
from zhibei.engines.base import Engine
from zhibei.errors import Unsupported
from zhibei.events import Finished, GenerationEvent, TextDelta
from zhibei.options import Limits
from zhibei.server import generation
from zhibei.server.ask import Ask
from zhibei.server.ollama.replies import Course
from zhibei.server.ollama.translate import Asked
from zhibei.server.shortening import shortened, shortened_prompt

# Stands where an earlier answer stood, to find what a template writes after one.
_ANSWER = "zhibei-0-answer-0-zhibei"


def chat(app: App, ask: Ask, asked: Asked, request: ChatRequest, course: Course) -> AsyncGenerator[GenerationEvent, None]:
    """A conversation's continuation."""
    return generation.watched(ask, asked.model, _chat(app, ask, asked, request, course, with_context=False))


def prompt(app: App, ask: Ask, asked: Asked, request: ChatRequest, course: Course) -> AsyncGenerator[GenerationEvent, None]:
    """The answer to a prompt, and the context to go on from."""
    return generation.watched(ask, asked.model, _chat(app, ask, asked, request, course, with_context=True))


def complete(
    app: App, ask: Ask, asked: Asked, request: CompletionRequest, course: Course
) -> AsyncGenerator[GenerationEvent, None]:
    """Raw text, continued."""
    return generation.watched(ask, asked.model, _complete(app, ask, asked, request, course))


def proceed(
    app: App,
    ask: Ask,
    asked: Asked,
    context: tuple[int, ...],
    turn: ChatRequest,
    request: Callable[[tuple[int, ...]], CompletionRequest],
    course: Course,
) -> AsyncGenerator[GenerationEvent, None]:
    """The answer to a prompt that follows a conversation given as token ids; ``request`` makes it of all of them."""
    return generation.watched(ask, asked.model, _proceed(app, ask, asked, context, turn, request, course))


async def load(app: App, ask: Ask, asked: Asked, course: Course) -> None:
    """Have the model ready."""
    async with generation.lease(app, ask, asked.model, asked.options):
        course.loaded()


async def _chat(
    app: App, ask: Ask, asked: Asked, request: ChatRequest, course: Course, *, with_context: bool
) -> AsyncGenerator[GenerationEvent, None]:
    async with generation.lease(app, ask, asked.model, asked.options) as engine:
        course.loaded()
        if asked.may_cut:
            ctx_size = engine.spec.ctx_size
            shorter = await shortened(engine, request, ctx_size, reserve_tokens(request.limits, ctx_size))
            request = shorter.request
            course.cut = {"messages": shorter.num_cut_messages} if shorter.num_cut_messages else {}
        said: list[str] = []
        async with aclosing(engine.chat(request)) as events:
            async for event in events:
                if with_context and isinstance(event, TextDelta):
                    said.append(event.text)
                if with_context and isinstance(event, Finished):
                    course.context = await _context(engine, request, "".join(said))
                yield event


async def _complete(
    app: App, ask: Ask, asked: Asked, request: CompletionRequest, course: Course
) -> AsyncGenerator[GenerationEvent, None]:
    async with generation.lease(app, ask, asked.model, asked.options) as engine:
        course.loaded()
        request = await _fitting(engine, asked, request, course)
        async with aclosing(engine.complete(request)) as events:
            async for event in events:
                yield event


async def _proceed(
    app: App,
    ask: Ask,
    asked: Asked,
    context: tuple[int, ...],
    turn: ChatRequest,
    request: Callable[[tuple[int, ...]], CompletionRequest],
    course: Course,
) -> AsyncGenerator[GenerationEvent, None]:
    async with generation.lease(app, ask, asked.model, asked.options) as engine:
        course.loaded()
        added = await engine.tokenize(await _next_turn(engine, turn), parse_special=True)
        wanted = await _fitting(engine, asked, request((*context, *added)), course)
        said: list[str] = []
        async with aclosing(engine.complete(wanted)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    said.append(event.text)
                if isinstance(event, Finished):
                    course.context = (*_ids(wanted), *await engine.tokenize("".join(said)))
                yield event


async def _fitting(engine: Engine, asked: Asked, request: CompletionRequest, course: Course) -> CompletionRequest:
    if not asked.may_cut:
        return request
    ctx_size = engine.spec.ctx_size
    shorter = await shortened_prompt(engine, request, ctx_size, reserve_tokens(request.limits, ctx_size))
    course.cut = {"tokens": shorter.num_cut_tokens} if shorter.num_cut_tokens else {}
    return shorter.request


def reserve_tokens(limits: Limits, ctx_size: int) -> int:
    """What is kept free for the answer: what was asked for, up to half; a quarter where nothing was."""
    return min(limits.max_tokens or ctx_size // 4, ctx_size // 2)


async def _next_turn(engine: Engine, turn: ChatRequest) -> str:
    """What the template writes after an answer: its end, the new turn, and the beginning of the next answer."""
    last = turn.messages[-1:]
    earlier = (Message.of("user", "."), Message.of("assistant", _ANSWER))
    whole = await engine.render(replace(turn, messages=(*earlier, *last)))
    _, mark, rest = whole.rpartition(_ANSWER)
    return rest if mark else await engine.render(replace(turn, messages=last))


async def _context(engine: Engine, request: ChatRequest, said: str) -> tuple[int, ...] | None:
    """The conversation so far as token ids; None where the engine does not tell them."""
    try:
        return await engine.tokenize(await engine.render(request) + said, parse_special=True)
    except Unsupported:
        return None


def _ids(request: CompletionRequest) -> tuple[int, ...]:
    assert not isinstance(request.prompt, str), "a context is made of token ids"
    return request.prompt
