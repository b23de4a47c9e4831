"""Makes what is too long fit, where a request asks for that: whole turns of a chat, or the end of a text to embed.

Owns what goes first. Never used unasked: a caller says in its answer how much was cut. Knows nothing of any wire format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Message
from zhibei.engines.base import Engine
from zhibei.errors import ContextTooLong, Unsupported

TRUNCATED_HEADER = "x-zhibei-truncated"
# A token is one byte at least; beside a text there are a few that mark its ends.
_MARGIN_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Shortened:
    """A chat that fits."""

    request: ChatRequest
    num_cut_messages: int = 0

    @property
    def headers(self) -> Mapping[str, str]:
        """What the response's headers say of it; nothing where nothing was cut."""
        return {TRUNCATED_HEADER: f"messages={self.num_cut_messages}"} if self.num_cut_messages else {}


@dataclass(frozen=True, slots=True)
class ShortenedInputs:
    """Inputs of which each fits."""

    request: EmbeddingRequest
    num_cut_tokens: int = 0

    @property
    def headers(self) -> Mapping[str, str]:
        """As for a chat."""
        return {TRUNCATED_HEADER: f"tokens={self.num_cut_tokens}"} if self.num_cut_tokens else {}


@dataclass(frozen=True, slots=True)
class ShortenedPrompt:
    """A raw prompt that fits; as token ids where something was cut."""

    request: CompletionRequest
    num_cut_tokens: int = 0

    @property
    def headers(self) -> Mapping[str, str]:
        """As for a chat."""
        return {TRUNCATED_HEADER: f"tokens={self.num_cut_tokens}"} if self.num_cut_tokens else {}


async def shortened(engine: Engine, request: ChatRequest, ctx_size: int, reserve_tokens: int) -> Shortened:
    """Drop as few of the oldest turns as make the prompt fit. System texts and the last turn of the user always stay.

    A turn is a message of the user and all that follows up to the next one, so that no tool's answer loses its call.
    An engine that cannot show its prompt gets the whole request, and refuses it itself if it is too long.

    Args:
        ctx_size: tokens that the prompt and the answer may have together.
        reserve_tokens: how many of them are kept for the answer.

    Raises:
        ContextTooLong: what must stay is too long by itself.
    """
    room = max(1, ctx_size - reserve_tokens)
    starts = _cuts(request.messages)
    try:
        prompt = await engine.render(request)
        if _surely_fits(prompt, room) or await _num_tokens(engine, prompt) <= room:
            return Shortened(request)
    except Unsupported:
        return Shortened(request)
    last = _without(request, starts[-1])
    size = await _size(engine, last)
    if size > room:
        raise ContextTooLong(size, ctx_size)
    # The first cut that fits: the prompt grows shorter with each, so it can be searched for by halves.
    low, high, best = 1, len(starts) - 1, last
    while low < high:
        middle = (low + high) // 2
        shorter = _without(request, starts[middle])
        if await _size(engine, shorter) <= room:
            high, best = middle, shorter
        else:
            low = middle + 1
    return Shortened(best, len(request.messages) - len(best.messages))


async def shortened_prompt(engine: Engine, request: CompletionRequest, ctx_size: int, reserve_tokens: int) -> ShortenedPrompt:
    """Drop as few tokens as needed from a raw prompt's beginning; what marks a text's beginning stays. Arguments as above."""
    room = max(1, ctx_size - reserve_tokens)
    given = request.prompt
    if isinstance(given, str) and _surely_fits(given, room):
        return ShortenedPrompt(request)
    try:
        whole = given if not isinstance(given, str) else await engine.tokenize(given, add_special=True, parse_special=True)
        head = await engine.tokenize("", add_special=True) if len(whole) > room else ()
    except Unsupported:
        return ShortenedPrompt(request)
    num_over = len(whole) - room
    if num_over <= 0:
        return ShortenedPrompt(request)
    num_kept = len(head) if head and whole[: len(head)] == head and len(head) < room else 0
    kept = (*whole[:num_kept], *whole[num_kept + num_over :])
    return ShortenedPrompt(replace(request, prompt=kept), num_over)


async def shortened_inputs(engine: Engine, request: EmbeddingRequest, ctx_size: int) -> ShortenedInputs:
    """Cut the end off each text that is longer than ``ctx_size`` tokens; what marks a text's ends stays."""
    inputs: list[str | tuple[int, ...]] = []
    num_cut_tokens = 0
    for item in request.inputs:
        shorter, num_cut = await _cut_input(engine, item, ctx_size)
        inputs.append(shorter)
        num_cut_tokens += num_cut
    return ShortenedInputs(replace(request, inputs=tuple(inputs)) if num_cut_tokens else request, num_cut_tokens)


def _cuts(messages: tuple[Message, ...]) -> list[int]:
    """Where a chat may begin: at its first message, and at each later turn of the user."""
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    return [0, *(index for index in users[1:])]


def _without(request: ChatRequest, start: int) -> ChatRequest:
    """The chat from a turn on; what the system says before it stays."""
    kept = tuple(message for message in request.messages[:start] if message.role == "system")
    return replace(request, messages=(*kept, *request.messages[start:]))


async def _size(engine: Engine, request: ChatRequest) -> int:
    """Tokens of the prompt. What images take is not in it."""
    return await _num_tokens(engine, await engine.render(request))


async def _num_tokens(engine: Engine, prompt: str) -> int:
    return len(await engine.tokenize(prompt, add_special=False, parse_special=True))


def _surely_fits(text: str, room: int) -> bool:
    """Whether that can be told without asking the engine."""
    return len(text.encode()) + _MARGIN_TOKENS <= room


async def _cut_input(engine: Engine, item: str | tuple[int, ...], ctx_size: int) -> tuple[str | tuple[int, ...], int]:
    if isinstance(item, tuple):
        return (item, 0) if len(item) <= ctx_size else (item[:ctx_size], len(item) - ctx_size)
    if _surely_fits(item, ctx_size):
        return item, 0
    whole = await engine.tokenize(item, add_special=True)
    num_over = len(whole) - ctx_size
    if num_over <= 0:
        return item, 0
    plain = await engine.tokenize(item)
    num_ends = len(whole) - len(plain)
    head = next((start for start in range(num_ends + 1) if whole[start : start + len(plain)] == plain), 0)
    tail = whole[head + len(plain) :]
    return (*whole[: ctx_size - len(tail)], *tail), num_over
