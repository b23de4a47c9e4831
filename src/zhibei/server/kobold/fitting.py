"""Make a prompt fit: what stands in memory stays, of the prompt the beginning goes. Says how much went; knows no wire format."""

from __future__ import annotations

from dataclasses import dataclass

from zhibei.engines.base import Engine
from zhibei.errors import BadRequest, ContextTooLong

DEFAULT_MAX_LENGTH = 512
# A token is one byte at least; beside a text there are a few that mark its ends.
_MARGIN_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that fits: as text where nothing was cut, else as tokens; and how long the answer may be."""

    prompt: str | tuple[int, ...]
    max_length: int
    num_cut_tokens: int = 0


async def fitted(engine: Engine, memory: str, prompt: str, max_length: int | None, max_context: int | None) -> Fitted:
    """The prompt after memory, cut to what ``max_context`` tokens leave beside an answer of ``max_length``.

    Where no length is asked for, it is ``DEFAULT_MAX_LENGTH``, or half of a context that is small.

    Raises:
        BadRequest: the answer alone fills the context.
        ContextTooLong: memory leaves no room for a prompt.
    """
    ctx_size = engine.spec.ctx_size
    limits = [size for size in (ctx_size, max_context) if size]
    if not limits:
        return Fitted(memory + prompt, max_length or DEFAULT_MAX_LENGTH)
    if max_length is None:
        max_length = max(1, min(DEFAULT_MAX_LENGTH, min(limits) // 2))
    room = min(limits) - max_length
    if room < 1:
        raise BadRequest(
            "max_length of {max_length} leaves no room for a prompt: the context has {ctx_size} tokens.",
            hint="Ask for a shorter answer; or load the model with a larger --ctx-size, if it was made for one.",
            param="max_length",
            max_length=max_length,
            ctx_size=min(limits),
        )
    if len((memory + prompt).encode()) + _MARGIN_TOKENS <= room:
        return Fitted(memory + prompt, max_length)
    whole = await engine.tokenize(memory + prompt, add_special=True, parse_special=True)
    if len(whole) <= room:
        return Fitted(memory + prompt, max_length)
    head = await engine.tokenize(memory, add_special=True, parse_special=True)
    tail = await engine.tokenize(prompt, parse_special=True)
    if len(head) >= room:
        raise ContextTooLong(len(whole), min(limits))
    kept = tail[len(head) - room :]
    return Fitted((*head, *kept), max_length, len(tail) - len(kept))
