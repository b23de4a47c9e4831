"""Prompts cut to a context: memory stays, the beginning goes, and the numbers are right whatever the sizes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.engines.base import Engine
from zhibei.errors import BadRequest, ContextTooLong
from zhibei.server.kobold.fitting import DEFAULT_MAX_LENGTH, fitted

BOS = 1


@dataclass
class Spec:
    ctx_size: int


class Letters:
    """An engine with a token for each character, and one before a text."""

    def __init__(self, ctx_size: int) -> None:
        self.spec = Spec(ctx_size)
        self.num_questions = 0

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> tuple[int, ...]:
        self.num_questions += 1
        return (*((BOS,) if add_special else ()), *map(ord, text))


def engine(ctx_size: int) -> Engine:
    return cast(Engine, Letters(ctx_size))


@given(
    st.text("ab", max_size=40),
    st.text("cdé", max_size=120),
    st.integers(1, 60),
    st.integers(1, 200),
    st.none() | st.integers(1, 200),
)
async def test_it_fits_or_is_refused(memory: str, prompt: str, max_length: int, ctx_size: int, max_context: int | None) -> None:
    limit = min(ctx_size, max_context or ctx_size)
    try:
        found = await fitted(engine(ctx_size), memory, prompt, max_length, max_context)
    except ContextTooLong as error:
        assert 1 + len(memory) >= limit - max_length
        assert (error.num_prompt_tokens, error.ctx_size) == (1 + len(memory) + len(prompt), limit)
    except BadRequest as error:
        assert max_length >= limit and error.param == "max_length"
    else:
        assert found.max_length == max_length
        if isinstance(found.prompt, str):
            assert found.prompt == memory + prompt and found.num_cut_tokens == 0
            assert 1 + len(found.prompt) + max_length <= limit
        else:
            assert len(found.prompt) + max_length == limit
            assert found.prompt[: 1 + len(memory)] == (BOS, *map(ord, memory))
            kept = found.prompt[1 + len(memory) :]
            assert kept == tuple(map(ord, prompt))[-len(kept) :]
            assert len(kept) + found.num_cut_tokens == len(prompt) and found.num_cut_tokens > 0


async def test_what_cannot_be_too_long_is_not_even_counted() -> None:
    letters = Letters(1000)
    await fitted(cast(Engine, letters), "", "x" * 100, 100, None)
    assert letters.num_questions == 0


@pytest.mark.parametrize(("ctx_size", "expected"), [(4096, DEFAULT_MAX_LENGTH), (100, 50), (0, DEFAULT_MAX_LENGTH)])
async def test_a_length_that_is_not_said(ctx_size: int, expected: int) -> None:
    found: Any = await fitted(engine(ctx_size), "", "x", None, None)
    assert (found.prompt, found.max_length, found.num_cut_tokens) == ("x", expected, 0)
