"""``import zhibei``: what it offers, that it is light, and that each verb works, with the echo engine behind it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

import zhibei
from support.models import model_bytes
from zhibei.api import Runner, collect
from zhibei.chat import ToolCall
from zhibei.errors import BadRequest, ModelNotFound
from zhibei.events import Finished, GenerationEvent, ReasoningDelta, TextDelta, ToolCallDelta, Usage

NAMES = (
    "Answer AsyncModel Message Model ReasoningDelta ResponseFormat Sampling TextDelta Tool ToolCall ToolCallDelta ZhibeiError "
    "__version__ list_models load load_async"
).split()
HEAVY = (
    "aiohttp asyncio click fastapi httptools orjson pip prompt_toolkit psutil pydantic rich ssl uvicorn uvloop xllamacpp".split()
)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ZHIBEI_ENGINE", "echo")
    file = tmp_path / "tiny.gguf"
    file.write_bytes(model_bytes())
    return str(file)


@pytest.fixture
def model(path: str) -> Iterator[zhibei.Model]:
    with zhibei.load(path) as loaded:
        yield loaded


def test_the_names_are_frozen() -> None:
    assert zhibei.__all__ == NAMES
    assert zhibei.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zhibei.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_leads_somewhere(name: str) -> None:
    found = getattr(zhibei, name)
    assert found is getattr(zhibei, name)
    if name != "__version__":
        assert found.__name__ == name and found.__doc__


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("code", ["import zhibei", "import zhibei; zhibei.Message; zhibei.TextDelta; zhibei.ZhibeiError"])
def test_the_import_is_light(code: str) -> None:
    assert modules_after(code) & set(HEAVY) == set()


def test_the_api_itself_starts_no_engine_library() -> None:
    found = modules_after("import zhibei; zhibei.load")
    assert found & (set(HEAVY) - {"asyncio", "ssl"}) == set()


def test_five_lines(model: zhibei.Model) -> None:
    answer = model.chat("Why is the sky blue?")
    assert str(answer) == answer.text == "Why is the sky blue?"
    assert (answer.finish_reason, answer.usage.num_generated_tokens, answer.tool_calls) == ("stop", 5, ())
    assert list(model.stream("Tell me a story.")) == ["Tell ", "me ", "a ", "story."]


def test_a_conversation_goes_on(model: zhibei.Model) -> None:
    asked = zhibei.Message.of("user", "one two")
    first = model.chat([asked])
    assert first.message == zhibei.Message.of("assistant", "one two")
    assert model.chat([asked, first.message, zhibei.Message.of("user", "three")]).text == "three"
    assert model.chat(asked).text == "one two"


def test_every_verb(model: zhibei.Model) -> None:
    assert model.complete("to be or", max_tokens=2).finish_reason == "length"
    vectors = model.embed(["a", "b", "a"])
    assert vectors[0] == vectors[2] != vectors[1]
    assert model.embed("a") == vectors[:1]
    assert model.detokenize(model.tokenize("héllo")) == "héllo"
    assert [type(event) for event in model.events("x")] == [TextDelta, Finished]


@pytest.mark.parametrize("stop", ["b", ["b"], ("b", "z"), None, ()])
def test_ways_to_say_stop(model: zhibei.Model, stop: object) -> None:
    assert model.chat("a b c", stop=stop).text == ("a " if stop else "a b c")


def test_parameters_are_checked(model: zhibei.Model) -> None:
    for how in ({"temprature": 1.0}, {"tools_": ()}):
        with pytest.raises(BadRequest) as caught:
            model.chat("x", **how)
        assert "temperature" in str(caught.value.hint_text)


def test_load_checks_its_parameters_and_leaves_no_thread(path: str) -> None:
    before = threading.active_count()
    with pytest.raises(BadRequest):
        zhibei.load(path, ctx_sise=1)
    with pytest.raises(ModelNotFound):
        zhibei.load("no-such-model", pull=False)
    assert threading.active_count() == before


def test_a_stream_that_is_left_early_does_no_harm(model: zhibei.Model) -> None:
    for _ in range(3):
        for piece in model.stream("a b c d e"):
            assert piece == "a "
            break
    assert model.chat("still here").text == "still here"


def test_closing_twice_and_using_it_after(path: str) -> None:
    model = zhibei.load(path)
    pieces = model.stream("a b c")
    assert next(pieces) == "a "
    model.close()
    model.close()
    with pytest.raises(BadRequest, match="closed"):
        model.chat("x")
    with pytest.raises(BadRequest, match="closed"):
        next(pieces)
    del pieces
    gc.collect()


async def test_async_code(path: str) -> None:
    async with await zhibei.load_async(path) as model:
        assert (await model.chat("hello there")).text == "hello there"
        assert [piece async for piece in model.stream("a b")] == ["a ", "b"]
        assert await model.detokenize(await model.tokenize("x")) == "x"


def test_list_models_of_an_empty_store() -> None:
    assert zhibei.list_models() == []


async def test_collect_joins_the_first_choice() -> None:
    async def events() -> AsyncGenerator[GenerationEvent, None]:
        yield ReasoningDelta("hm")
        yield TextDelta("a")
        yield TextDelta("other", 1)
        yield ToolCallDelta(1, "{", "id1", "second")
        yield ToolCallDelta(0, "{}", "id0", "first")
        yield ToolCallDelta(1, "}")
        yield ToolCallDelta(0, "other", "id2", "other", 1)
        yield ReasoningDelta("!", 0)
        yield TextDelta("b")
        yield Finished(("tool_calls", "stop"), Usage(1, 2))

    answer = await collect(events())
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("ab", "hm!", "tool_calls")
    assert answer.tool_calls == (ToolCall("id0", "first", "{}"), ToolCall("id1", "second", "{}"))
    assert answer.message.tool_calls == answer.tool_calls


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends itself the signal of Ctrl-C")
def test_ctrl_c_in_a_stream_closes_it_without_another_error() -> None:
    """The step that was interrupted is still ending on the loop's thread when the generator is to be closed."""
    import asyncio

    runner = Runner()
    waits, ended = threading.Event(), []

    async def endless() -> AsyncGenerator[int, None]:
        try:
            yield 1
            waits.set()
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            ended.append(True)

    def interrupt() -> None:
        waits.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    items = runner.iterate(endless())
    assert next(items) == 1
    with pytest.raises(KeyboardInterrupt):
        next(items)
    assert ended == [True]
    runner.stop()
