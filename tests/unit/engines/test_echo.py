"""The scripted engine: what it says unasked, and that it follows its script."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Message, RerankRequest, Tool
from zhibei.engines.echo import EchoBackend, EchoEngine, EchoScript, Fail, Wait
from zhibei.errors import EngineDied, EngineRefused, EngineStartFailed, Unsupported
from zhibei.events import Finished, GenerationEvent, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from zhibei.options import Limits
from zhibei.plans import EngineSpec, Task

END = Finished(("stop",), Usage(1, 1))


def spec(task: Task = "generate", num_slots: int = 2) -> EngineSpec:
    return EngineSpec("echo", "/m", "m", task, 512, num_slots, 32, 32, 1, None, "f16", "f16", "auto", None, 0)


async def start(script: EchoScript | None = None, task: Task = "generate", num_slots: int = 2) -> EchoEngine:
    return await EchoBackend(script).start(spec(task, num_slots), lambda line: None)


async def all_of(events: AsyncIterator[GenerationEvent]) -> list[GenerationEvent]:
    return [event async for event in events]


def ask(text: str, **changes: Any) -> ChatRequest:
    return ChatRequest((Message.of("system", "Be brief."), Message.of("user", text)), **changes)


def text_of(events: list[GenerationEvent], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta) and event.choice == choice)


@pytest.mark.parametrize("text", ["one two", "", " ", "  a  b ", "a\nb c", "指北 针"])
async def test_it_gives_the_last_user_message_back(text: str) -> None:
    engine = await start()
    assert text_of(await all_of(engine.chat(ask(text)))) == text
    assert text_of(await all_of(engine.complete(CompletionRequest(text)))) == text
    assert text_of(await all_of(engine.complete(CompletionRequest(tuple(map(ord, text)))))) == text


@pytest.mark.parametrize(
    ("max_tokens", "text", "reason"), [(None, "a b c", "stop"), (2, "a b ", "length"), (3, "a b c", "stop"), (0, "", "length")]
)
async def test_max_tokens(max_tokens: int | None, text: str, reason: str) -> None:
    events = await all_of((await start()).chat(ask("a b c", limits=Limits(max_tokens))))
    last = events[-1]
    assert isinstance(last, Finished) and last.reasons == (reason,)
    assert (text_of(events), last.usage.num_generated_tokens) == (text, len(events) - 1)


async def test_stop_strings_across_words() -> None:
    events = await all_of((await start()).chat(ask("one two three", limits=Limits(stop=("o thr",)))))
    assert text_of(events) == "one tw"
    events = await all_of((await start()).chat(ask("one two three", limits=Limits(stop=("three!",)))))
    assert text_of(events) == "one two three"


async def test_it_says_which_stop_text_ended_it() -> None:
    engine = await start()
    for stop, expected in ((("three", "two"), "two"), (("nine",), None), ((), None)):
        events = await all_of(engine.complete(CompletionRequest("one two three", limits=Limits(stop=stop), num_choices=2)))
        assert isinstance(events[-1], Finished) and events[-1].stop_texts == (expected, expected)


async def test_choices_and_logprobs() -> None:
    events = await all_of((await start()).chat(ask("a b", num_choices=2, top_logprobs=1)))
    assert text_of(events, 0) == text_of(events, 1) == "a b"
    assert isinstance(events[0], TextDelta)
    assert (events[0].logprobs[0].token, len(events[0].logprobs[0].top)) == ("a ", 1)
    last = events[-1]
    assert isinstance(last, Finished) and (last.reasons, last.usage.num_generated_tokens) == (("stop", "stop"), 4)
    events = await all_of((await start()).chat(ask("a", top_logprobs=0)))
    assert isinstance(events[0], TextDelta) and events[0].logprobs[0].top == ()


async def test_embeddings_and_ranks() -> None:
    engine = await start(task="embed")
    found = await engine.embed(EmbeddingRequest(("a", "b", (ord("a"),))))
    assert found.vectors[0] == found.vectors[2] != found.vectors[1]
    assert sum(value * value for value in found.vectors[0]) == pytest.approx(1.0)
    ranking = await (await start(task="rerank")).rerank(RerankRequest("blue sky", ("The sky", "Blue sky", "grass")))
    assert ranking.scores == (0.5, 1.0, 0.0)
    for wrong in (engine.chat(ask("x")), engine.complete(CompletionRequest("x"))):
        with pytest.raises(Unsupported):
            await all_of(wrong)
    with pytest.raises(Unsupported):
        await engine.rerank(RerankRequest("x", ()))


async def test_tokens_are_characters() -> None:
    engine = await start()
    assert await engine.detokenize(await engine.tokenize("指北")) == "指北"
    for wrong in (-1, 0xD800, sys.maxunicode + 1, 1 << 40):
        with pytest.raises(EngineRefused):
            await engine.detokenize((104, wrong))
    assert await engine.render(ask("Hello")) == "system: Be brief.\nuser: Hello\n"


async def test_answers_are_used_up_in_order_and_then_it_echoes() -> None:
    first = [ReasoningDelta("Hm."), ToolCallDelta(0, "{}", "id1", "clock"), END]
    script = EchoScript([first, [TextDelta("second"), END]])
    engine = await start(script)
    assert await all_of(engine.chat(ask("x", tools=(Tool("clock"),)))) == first
    assert text_of(await all_of(engine.chat(ask("x")))) == "second"
    assert text_of(await all_of(engine.chat(ask("x")))) == "x"
    assert len(script.requests) == 3 and (script.num_running, script.num_abandoned) == (0, 0)


async def test_a_script_can_wait_and_counts_who_left() -> None:
    gate = asyncio.Event()
    script = EchoScript([[TextDelta("a"), Wait(gate), TextDelta("b"), END]] * 2)
    engine = await start(script)
    async with aclosing(engine.chat(ask("x"))) as events:
        assert await anext(events) == TextDelta("a")
        assert script.num_running == 1
    assert (script.num_running, script.num_abandoned) == (0, 1)
    gate.set()
    assert text_of(await all_of(engine.chat(ask("x")))) == "ab"


async def test_as_many_at_once_as_there_are_slots() -> None:
    gate = asyncio.Event()
    script = EchoScript([[Wait(gate), END]] * 3)
    engine = await start(script, num_slots=2)
    calls = [asyncio.ensure_future(all_of(engine.chat(ask("x")))) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert (len(script.requests), script.num_running) == (3, 2)
    gate.set()
    assert [await call for call in calls] == [[END]] * 3


async def test_a_script_can_fail_and_the_next_call_finds_it_running_again() -> None:
    script = EchoScript([[TextDelta("a"), Fail(EngineDied("It died."))]])
    engine = await start(script)
    with pytest.raises(EngineDied):
        await all_of(engine.chat(ask("x")))
    assert engine.status().state == "failed"
    assert text_of(await all_of(engine.chat(ask("x")))) == "x"
    assert engine.status().state == "ready"


async def test_starting_and_closing() -> None:
    script = EchoScript(start_error=EngineStartFailed("No."))
    with pytest.raises(EngineStartFailed):
        await start(script)
    script.start_error = None
    said: list[str] = []
    engine = await EchoBackend(script).start(spec(), said.append)
    assert said and script.started == [engine.spec]
    await engine.close()
    await engine.close()
    assert (script.num_closed, engine.status().state) == (1, "stopped")


async def test_closing_fails_what_runs() -> None:
    script = EchoScript([[TextDelta("a"), Wait(asyncio.Event()), TextDelta("b"), END]])
    engine = await start(script)
    async with aclosing(engine.chat(ask("x"))) as events:
        assert await anext(events) == TextDelta("a")
        rest = asyncio.ensure_future(all_of(events))
        await asyncio.sleep(0)
        await engine.close()
        with pytest.raises(EngineDied):
            await rest
