"""What is cut where a request asks for it."""

from __future__ import annotations

import pytest

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Message
from zhibei.engines.echo import EchoEngine, EchoScript
from zhibei.errors import ContextTooLong, Unsupported
from zhibei.plans import EngineSpec
from zhibei.server.shortening import shortened, shortened_inputs, shortened_prompt

SPEC = EngineSpec("echo", "x", "x", "generate", 128, 1, 1, 1, None, None, "f16", "f16", "auto", None, 0)


class Counting(EchoEngine):
    """A token for each character, and a line for each message; one that begins a text, where it is asked for."""

    def __init__(self, *, renders: bool = True) -> None:
        super().__init__(SPEC, EchoScript())
        self.num_rendered = 0
        self.num_tokenized = 0
        self._renders = renders

    async def render(self, request: ChatRequest) -> str:
        self.num_rendered += 1
        if not self._renders:
            raise Unsupported("no")
        return await super().render(request)

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> tuple[int, ...]:
        self.num_tokenized += 1
        found = await super().tokenize(text)
        return (1, *found, 2) if add_special and text else (1,) if add_special else found


def chat(*turns: str) -> ChatRequest:
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return ChatRequest(tuple(Message.of(roles[turn[0]], turn) for turn in turns))  # type: ignore[arg-type]


def said(request: ChatRequest) -> list[str]:
    return [message.text for message in request.messages]


async def test_what_fits_stays_as_it_is() -> None:
    engine, request = Counting(), chat("s", "u1", "a1", "u2")
    found = await shortened(engine, request, 1000, 10)
    assert (found.request, found.num_cut_messages, dict(found.headers)) == (request, 0, {})
    assert (engine.num_rendered, engine.num_tokenized) == (1, 0), "a short prompt's tokens need not be counted"


@pytest.mark.parametrize("ctx_size", range(21, 70))
async def test_as_few_turns_go_as_make_it_fit(ctx_size: int) -> None:
    request = chat("s", "u1", "a1", "t1", "a2", "u2", "a3", "u3")
    engine = Counting()
    wanted = [["s", "u1", "a1", "t1", "a2", "u2", "a3", "u3"], ["s", "u2", "a3", "u3"], ["s", "u3"]]
    sizes = [len(await engine.render(chat(*turns))) for turns in wanted]
    found = await shortened(engine, request, ctx_size, 2)
    expected = next(index for index, size in enumerate(sizes) if size <= ctx_size - 2)
    assert said(found.request) == wanted[expected]
    assert found.num_cut_messages == 8 - len(wanted[expected])
    assert bool(found.headers) == (expected > 0)


async def test_few_looks_at_a_long_conversation() -> None:
    request = chat(*(f"{role}{number}" for number in range(500) for role in "ua"))
    engine = Counting()
    found = await shortened(engine, request, 400, 0)
    assert engine.num_rendered <= 11
    assert 370 < len(await engine.render(found.request)) <= 400


async def test_what_must_stay_may_be_too_long() -> None:
    with pytest.raises(ContextTooLong) as caught:
        await shortened(Counting(), chat("s", "u1", "a1", "u" * 100), 50, 10)
    assert (caught.value.num_prompt_tokens, caught.value.ctx_size) == (len("system: s\nuser: \n") + 100, 50)


async def test_an_engine_that_does_not_show_its_prompt() -> None:
    request = chat("u1")
    found = await shortened(Counting(renders=False), request, 1, 0)
    assert (found.request, found.num_cut_messages) == (request, 0)


async def test_the_beginning_of_a_prompt_goes_and_its_mark_stays() -> None:
    engine = Counting()
    whole = await shortened_prompt(engine, CompletionRequest("abcdef"), 100, 10)
    assert whole.request.prompt == "abcdef" and whole.headers == {}
    cut = await shortened_prompt(engine, CompletionRequest("abcdef"), 7, 2)
    assert cut.request.prompt == (1, ord("d"), ord("e"), ord("f"), 2) and cut.num_cut_tokens == 3
    assert cut.headers == {"x-zhibei-truncated": "tokens=3"}
    ids = await shortened_prompt(engine, CompletionRequest((5, 6, 7, 8)), 4, 2)
    assert ids.request.prompt == (7, 8)


async def test_the_end_of_an_input_goes_and_its_marks_stay() -> None:
    engine = Counting()
    found = await shortened_inputs(engine, EmbeddingRequest(("abcdef", "a", (9, 9, 9, 9, 9, 9))), 5)
    assert found.request.inputs == ((1, ord("a"), ord("b"), ord("c"), 2), "a", (9, 9, 9, 9, 9))
    assert found.num_cut_tokens == 4 and found.headers == {"x-zhibei-truncated": "tokens=4"}
    same = EmbeddingRequest(("abc",))
    assert (await shortened_inputs(engine, same, 5)).request is same
