"""Completions and token questions on a leased engine. Knows no wire format."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from zhibei.app import App
from zhibei.chat import CompletionRequest
from zhibei.engines.base import Engine
from zhibei.errors import BadRequest, EngineRefused
from zhibei.events import Finished, GenerationEvent
from zhibei.server import generation
from zhibei.server.ask import Ask
from zhibei.server.llama_server.translate import Prompt, Wanted

MAX_PIECES = 1024


@dataclass(slots=True)
class Course:
    """What is known of a completion beside its events: the text of each prompt that was begun, and the model's name."""

    model: str = ""
    prompts: list[str] = field(default_factory=list)


def complete(app: App, ask: Ask, model: str, wanted: Wanted, course: Course) -> AsyncGenerator[GenerationEvent, None]:
    """The continuations of all prompts, one after the other; ``choice`` counts them, and each ends with Finished."""
    return generation.watched(ask, model, _complete(app, ask, model, wanted, course))


async def _complete(app: App, ask: Ask, model: str, wanted: Wanted, course: Course) -> AsyncGenerator[GenerationEvent, None]:
    async with generation.lease(app, ask, model) as engine:
        course.model = engine.spec.model_name
        request = await _request(engine, wanted)
        for number, prompt in enumerate(wanted.prompts):
            mixed = prompt if isinstance(prompt, str) else await mixed_tokens(engine, prompt, add_special=True)
            course.prompts.append(mixed if isinstance(mixed, str) else await text_of(engine, mixed, param="prompt"))
            async with aclosing(engine.complete(replace(request, prompt=mixed))) as events:
                async for event in events:
                    yield event if isinstance(event, Finished) else replace(event, choice=number)


async def _request(engine: Engine, wanted: Wanted) -> CompletionRequest:
    """All but the prompt, with the biases of texts as those of their tokens."""
    sampling = wanted.sampling
    for text, bias in wanted.biases:
        tokens = await engine.tokenize(text)
        sampling = replace(sampling, logit_bias=(*sampling.logit_bias, *((token, bias) for token in tokens)))
    return CompletionRequest(
        prompt="",
        sampling=sampling,
        limits=wanted.limits,
        top_logprobs=wanted.top_logprobs,
        response_format=wanted.response_format,
        suffix=wanted.suffix,
    )


async def mixed_tokens(engine: Engine, prompt: Prompt, *, add_special: bool, parse_special: bool = True) -> tuple[int, ...]:
    """Tokens of texts and tokens in a row; what stands before a text only comes before the first piece."""
    if isinstance(prompt, str):
        return await engine.tokenize(prompt, add_special=add_special, parse_special=parse_special)
    found: list[int] = []
    for number, piece in enumerate(prompt):
        if isinstance(piece, int):
            found.append(piece)
        else:
            is_first = add_special and number == 0
            found.extend(await engine.tokenize(piece, add_special=is_first, parse_special=parse_special))
    return tuple(found)


async def text_of(engine: Engine, tokens: tuple[int, ...], *, param: str = "tokens") -> str:
    """The text of tokens.

    Raises:
        BadRequest: the model has no such token.
    """
    try:
        return await engine.detokenize(tokens)
    except EngineRefused:
        raise BadRequest("{param} has a number that is no token of this model.", param=param) from None


async def pieces_of(engine: Engine, tokens: tuple[int, ...]) -> list[str | None]:
    """The text of each token; None for one that is only a part of a character.

    Raises:
        BadRequest: there are too many; each is a question of its own.
    """
    if len(tokens) > MAX_PIECES:
        raise BadRequest("Pieces are given of up to {most} tokens at once.", param="with_pieces", most=MAX_PIECES)
    texts = [await engine.detokenize((token,)) for token in tokens]
    return [None if "\ufffd" in text else text for text in texts]
