"""Each sentence of ``zhibei.engines.base``, against every engine that can run here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from support.tool_conversation import TEMPLATE, WEATHER, conversation
from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Message, RerankRequest, Tool, ToolChoice
from zhibei.engines import registry
from zhibei.engines.base import Engine
from zhibei.errors import EngineDied, EngineStartFailed, Unsupported
from zhibei.events import Finished, GenerationEvent, TextDelta, ToolCallDelta
from zhibei.formats.inspect import inspect_path
from zhibei.models import StoredFile, StoredModel
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.planner.plan import plan
from zhibei.plans import EngineSpec, Hardware, Task

HARDWARE = Hardware("test", 2, 2, 16 << 30, 12 << 30)
pytestmark = pytest.mark.asyncio(loop_scope="module")
ENGINES = ["echo", pytest.param("llama.cpp", marks=pytest.mark.model)]


def spec_for(name: str, path: Path, task: Task = "generate", **load: object) -> EngineSpec:
    info = inspect_path(path) if name != "echo" else None
    model = StoredModel(
        "smollm2:135m", (StoredFile("model", path, path.stat().st_size),), info, "test", datetime.now(timezone.utc)
    )
    made = plan(model, HARDWARE, name, task, LoadOptions(**({"ctx_size": 1024, "parallel": 2, "threads": 1} | load)))  # type: ignore[arg-type]
    assert made.spec is not None
    return made.spec


def path_for(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if name != "echo":
        path: Path = request.getfixturevalue("smollm2_path")
        return path
    (tmp_path / "model").write_bytes(b"")
    return tmp_path / "model"


@pytest.fixture(scope="module", params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """An engine for all tests that leave it as it was; those that end one start their own."""
    spec = spec_for(name, path_for(name, request, tmp_path_factory.mktemp("engine")))
    started = await registry.create(name).start(spec, lambda line: None)
    yield started
    await started.close()


async def all_of(events: AsyncIterator[GenerationEvent]) -> list[GenerationEvent]:
    return [event async for event in events]


def ask(text: str, max_tokens: int | None = 12, **changes: object) -> ChatRequest:
    request = ChatRequest((Message.of("user", text),), Sampling(temperature=0.0, seed=1), Limits(max_tokens))
    return replace(request, **changes)  # type: ignore[arg-type]


def text_of(events: list[GenerationEvent], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta) and event.choice == choice)


async def test_probe_knows_without_starting(name: str) -> None:
    info = registry.create(name).probe()
    assert info.installed and info.version and info.name == name
    assert "generate" in info.tasks


async def test_a_chat_ends_with_exactly_one_finished(engine: Engine) -> None:
    events = await all_of(engine.chat(ask("Count to five, please.")))
    assert [isinstance(event, Finished) for event in events].count(True) == 1
    last = events[-1]
    assert isinstance(last, Finished)
    assert text_of(events)
    assert last.usage.num_prompt_tokens > 0 and last.usage.num_generated_tokens > 0
    assert last.timings is not None and last.timings.num_generated_tokens > 0


async def test_max_tokens_is_kept_and_said(engine: Engine) -> None:
    events = await all_of(engine.chat(ask("one two three four five six seven eight", 3)))
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.reasons == ("length",) and last.stop_texts == (None,)
    assert last.usage.num_generated_tokens == 3


async def test_greedy_answers_repeat(engine: Engine) -> None:
    first = text_of(await all_of(engine.chat(ask("What is the capital of France?"))))
    assert first == text_of(await all_of(engine.chat(ask("What is the capital of France?"))))


async def test_stop_strings_end_the_answer_and_are_not_shown(engine: Engine) -> None:
    whole = text_of(await all_of(engine.complete(CompletionRequest("1 2 3 4 5 6", Sampling(temperature=0.0), Limits(12)))))
    stop = whole.strip().split(" ")[2]
    events = await all_of(engine.complete(CompletionRequest("1 2 3 4 5 6", Sampling(temperature=0.0), Limits(12, (stop,)))))
    assert stop not in text_of(events)
    assert whole.startswith(text_of(events))
    assert isinstance(events[-1], Finished) and events[-1].reasons == ("stop",)
    assert events[-1].stop_texts == (stop,)


async def test_several_choices(engine: Engine) -> None:
    events = await all_of(engine.chat(ask("Say something.", num_choices=2)))
    assert text_of(events, 0) and text_of(events, 1)
    assert isinstance(events[-1], Finished) and len(events[-1].reasons) == 2


async def test_more_choices_than_slots_are_refused(engine: Engine) -> None:
    with pytest.raises(Unsupported) as caught:
        await all_of(engine.chat(ask("Say something.", num_choices=engine.num_slots + 1)))
    assert caught.value.param == "n"


async def test_logprobs_come_with_the_tokens(engine: Engine) -> None:
    events = await all_of(engine.chat(ask("Hello there", top_logprobs=1)))
    with_probabilities = [event for event in events if isinstance(event, TextDelta) and event.logprobs]
    assert with_probabilities
    first = with_probabilities[0].logprobs[0]
    assert first.logprob <= 0 and first.top and first.raw == first.token.encode()


async def test_as_many_at_once_as_there_are_slots(engine: Engine) -> None:
    answers = await asyncio.gather(*(all_of(engine.chat(ask(f"Say the number {n} again."))) for n in range(5)))
    assert all(isinstance(answer[-1], Finished) and text_of(answer) for answer in answers)


async def test_closing_early_frees_the_slots(engine: Engine) -> None:
    for _ in range(engine.num_slots * 2):
        async with aclosing(engine.chat(ask("Tell me a very long story about the sea.", 900))) as events:
            async for _event in events:
                break
    async with asyncio.timeout(60):
        assert text_of(await all_of(engine.chat(ask("Hello"))))


async def test_cancelling_a_waiting_call_frees_the_slot(engine: Engine) -> None:
    tasks = [asyncio.create_task(all_of(engine.chat(ask("word " * 300, 600)))) for _ in range(engine.num_slots)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(60):
        assert text_of(await all_of(engine.chat(ask("Hello"))))


async def test_tokens_go_there_and_back(engine: Engine) -> None:
    tokens = await engine.tokenize("Hello, wörld! 你好")
    assert tokens
    assert await engine.detokenize(tokens) == "Hello, wörld! 你好"


async def test_the_prompt_can_be_seen(engine: Engine) -> None:
    assert "What is up?" in await engine.render(ask("What is up?"))


async def test_what_it_was_not_loaded_for_is_refused(engine: Engine) -> None:
    with pytest.raises(Unsupported):
        await engine.embed(EmbeddingRequest(("text",)))
    with pytest.raises(Unsupported):
        await engine.rerank(RerankRequest("query", ("document",)))


async def test_demands_beyond_its_abilities_are_refused(engine: Engine) -> None:
    if "tools" in engine.abilities:
        pytest.skip("this engine and model have tools")
    with pytest.raises(Unsupported) as caught:
        await all_of(engine.chat(ask("What time is it?", tools=(Tool("clock"),))))
    assert caught.value.param == "tools"


async def test_embeddings_are_one_per_input_and_alike_for_like_texts(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    spec = spec_for(name, path_for(name, request, tmp_path), "embed")
    engine = await registry.create(name).start(spec, lambda line: None)
    try:
        answer = await engine.embed(EmbeddingRequest(("a cat", "a cat", "quantum chromodynamics")))
        assert len(answer.vectors) == 3 and answer.num_tokens > 0
        first, second, other = answer.vectors
        assert len(first) == len(other)
        assert sum(a * b for a, b in zip(first, second, strict=True)) == pytest.approx(1.0, abs=1e-3)
        assert sum(a * b for a, b in zip(first, other, strict=True)) < 0.999
        with pytest.raises(Unsupported):
            await all_of(engine.chat(ask("hello")))
    finally:
        await engine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def closable(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    """An engine that no other test needs."""
    started = await registry.create(name).start(spec_for(name, path_for(name, request, tmp_path)), lambda line: None)
    yield started
    await started.close()


async def test_close_is_idempotent_and_leaves_nothing(closable: Engine) -> None:
    pid = closable.status().pid
    await closable.close()
    await closable.close()
    assert closable.status().state == "stopped"
    assert pid is None or not psutil.pid_exists(pid)


@pytest.mark.model
async def test_an_engine_that_dies_says_so_and_comes_back(smollm2_path: Path) -> None:
    engine = await registry.create("llama.cpp").start(spec_for("llama.cpp", smollm2_path), lambda line: None)
    try:
        with pytest.raises(EngineDied) as caught:
            async for _event in engine.chat(ask("Tell me a very long story.", 900)):
                pid = engine.status().pid
                assert pid is not None
                psutil.Process(pid).kill()
        assert "signal 9" in str(caught.value)
        assert text_of(await all_of(engine.chat(ask("Hello"))))
    finally:
        await engine.close()


@pytest.mark.model
async def test_a_file_that_is_no_model_fails_with_the_engines_words(tmp_path: Path, smollm2_path: Path) -> None:
    spec = replace(spec_for("llama.cpp", smollm2_path), model_path=str(tmp_path / "bad.gguf"))
    (tmp_path / "bad.gguf").write_bytes(smollm2_path.read_bytes()[:100_000])
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(EngineStartFailed) as caught:
        await registry.create("llama.cpp").start(spec, lambda line: None)
    assert caught.value.log_tail
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


@pytest.mark.model
@pytest.mark.parametrize("choice", [ToolChoice("auto"), ToolChoice("required"), ToolChoice("required", "get_weather")])
async def test_a_template_with_tools_calls_them(smollm2_path: Path, choice: ToolChoice) -> None:
    spec = spec_for("llama.cpp", smollm2_path, chat_template=TEMPLATE)
    engine = await registry.create("llama.cpp").start(spec, lambda line: None)
    try:
        assert "tools" in engine.abilities
        other = Tool("get_time", "Time of a city", WEATHER.parameters)
        tools = (WEATHER, other) if choice.name else (WEATHER,)
        request = ask("", 64, messages=conversation(), tools=tools, tool_choice=choice)
        events = await all_of(engine.chat(request))
        calls = [event for event in events if isinstance(event, ToolCallDelta)]
        assert calls and calls[0].name == "get_weather" and calls[0].id
        assert json.loads("".join(call.arguments for call in calls)) == {"city": "Paris"}
        assert isinstance(events[-1], Finished) and events[-1].reasons == ("tool_calls",)
    finally:
        await engine.close()
