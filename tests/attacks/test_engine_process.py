"""An engine's process that crashes, hangs, floods, lies or will not end: its own calls fail with words, and nothing else."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import psutil
import pytest

from support.clock import Clock
from support.fake_worker import WRONG
from zhibei.chat import ChatRequest, Message
from zhibei.engines.llama_cpp.engine import LlamaCppEngine
from zhibei.errors import EngineDied, EngineError, EngineStalled, EngineStartFailed
from zhibei.events import Finished, TextDelta
from zhibei.options import Limits, Sampling
from zhibei.plans import EngineSpec

FAKE = Path(__file__).parents[1] / "support" / "fake_worker.py"
SPEC = EngineSpec("llama.cpp", "/none.gguf", "tiny:latest", "generate", 512, 2, 32, 32, 1, None, "f16", "f16", "auto", 0, 0)
LIMIT_S = 1.0


@asynccontextmanager
async def running(
    mode: str = "serve", clock: Clock | None = None, log: Callable[[str], None] = len
) -> AsyncIterator[LlamaCppEngine]:
    command = (sys.executable, str(FAKE), mode)
    engine = LlamaCppEngine(SPEC, log, stall_s=LIMIT_S, command=command, clock=clock or Clock())
    try:
        yield engine
    finally:
        await engine.close()


async def say(engine: LlamaCppEngine, text: str) -> str:
    request = ChatRequest((Message.of("user", text),), Sampling(temperature=0.0), Limits(None))
    answer = ""
    async for event in engine.chat(request):
        if isinstance(event, TextDelta):
            answer += event.text
    assert isinstance(event, Finished)
    return answer


def pid_of(engine: LlamaCppEngine) -> int:
    pid = engine.status().pid
    assert pid is not None
    return pid


async def is_gone(pid: int) -> None:
    """Ended and reaped: a zombie counts as there."""
    async with asyncio.timeout(30):
        while psutil.pid_exists(pid):
            await asyncio.sleep(0.01)


async def test_a_crash_in_mid_answer_ends_that_answer_and_the_next_is_served() -> None:
    async with running() as engine, running() as other:
        assert await say(engine, "hello there") == "hello there "
        before, others = pid_of(engine), asyncio.create_task(first_words(other, 200))
        with pytest.raises(EngineDied) as caught:
            await say(engine, "die")
        assert "signal 9" in str(caught.value) and not isinstance(caught.value, EngineStalled)
        await is_gone(before)
        assert await say(engine, "hello again") == "hello again "
        assert pid_of(engine) != before
        assert await others == 200, "another engine's answer goes on"


async def first_words(engine: LlamaCppEngine, count: int) -> int:
    found = 0
    async with aclosing(engine.chat(ChatRequest((Message.of("user", "for ever"),)))) as events:
        async for _event in events:
            found += 1
            if found == count:
                break
    return found


async def test_a_process_that_is_stopped_in_mid_answer_is_found_and_replaced() -> None:
    clock = Clock()
    async with running(clock=clock) as engine:
        with pytest.raises(EngineStalled) as caught:
            async for _event in engine.chat(ChatRequest((Message.of("user", "for ever"),))):
                if not clock.step_s:
                    pid = pid_of(engine)
                    os.kill(pid, signal.SIGSTOP)
                    clock.step_s = LIMIT_S / 10
        assert "hung" in str(caught.value)
        await is_gone(pid)
        clock.step_s = 0.0
        assert await say(engine, "hello") == "hello "


@pytest.mark.parametrize("how", ["stall", "spin"])
async def test_silence_is_given_up_whether_it_computes_or_not(how: str) -> None:
    clock = Clock()
    async with running(clock=clock) as engine:
        waiting = asyncio.create_task(engine.tokenize("stall")) if how == "stall" else None
        with pytest.raises(EngineStalled):
            async for _event in engine.chat(ChatRequest((Message.of("user", how),))):
                # A loop without end computes, and is given twenty times as long.
                clock.step_s = LIMIT_S / 2.5 if how == "spin" else LIMIT_S / 10
        if waiting is not None:
            with pytest.raises(EngineDied):
                await waiting
        clock.step_s = 0.0
        assert await say(engine, "hello") == "hello "


async def test_a_long_prompt_that_goes_on_is_not_ended() -> None:
    clock = Clock()

    def log(line: str) -> None:
        clock.now_s += LIMIT_S * 0.4 if line == "batch" else 0.0

    async with running(clock=clock, log=log) as engine:
        assert await say(engine, "slow prompt") == "done"
        assert clock.now_s > LIMIT_S * 10


async def test_a_slow_listener_is_not_taken_for_a_hung_engine() -> None:
    clock = Clock()
    async with running(clock=clock) as engine:
        async with aclosing(engine.chat(ChatRequest((Message.of("user", "for ever"),)))) as events:
            await anext(events)
            pid = pid_of(engine)
            clock.now_s += LIMIT_S * 100
            # Its process is asked again and again meanwhile whether it hangs.
            await asyncio.sleep(LIMIT_S / 2)
            await anext(events)
        assert pid_of(engine) == pid


async def test_loading_that_hangs_is_given_up() -> None:
    clock = Clock()
    clock.step_s = LIMIT_S / 10
    async with running("hang", clock) as engine:
        with pytest.raises(EngineStartFailed) as caught:
            await engine.ready()
        assert "hung" in str(caught.value)
        assert engine.status().pid is None


@pytest.mark.parametrize("mode", ["garbage_and_stay", "endless_answer"])
async def test_a_process_whose_first_words_make_no_sense_is_killed(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhibei.engines.process.END_GRACE_S", 0.2)
    monkeypatch.setattr("zhibei.engines.process.STOP_GRACE_S", 0.2)
    before = {child.pid for child in psutil.Process().children()}
    async with running(mode) as engine:
        with pytest.raises(EngineStartFailed) as caught:
            await engine.ready()
        assert "no sense" in str(caught.value)
        assert {child.pid for child in psutil.Process().children()} <= before


@pytest.mark.parametrize("behaviour", ["truncated", "half an event", "no http", "no json", *WRONG])
async def test_an_answer_that_makes_no_sense_is_an_error_and_its_process_is_replaced(
    behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhibei.engines.process.END_GRACE_S", 0.1)
    async with running() as engine:
        await engine.ready()
        before = pid_of(engine)
        with pytest.raises(EngineDied) as caught:
            await say(engine, behaviour)
        assert "no sense" in str(caught.value)
        await is_gone(before)
        assert await say(engine, "hello") == "hello "


@pytest.mark.parametrize("behaviour", ["huge event", "headers", "huge answer"])
async def test_what_has_no_end_takes_no_memory(behaviour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhibei.engines.process.END_GRACE_S", 0.1)
    monkeypatch.setattr("zhibei.engines.openai_upstream.MAX_ANSWER_BYTES", 16 << 20)
    async with running() as engine:
        await engine.ready()
        before, most = pid_of(engine), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(EngineError):
            if behaviour == "huge answer":
                await engine.tokenize(behaviour)
            else:
                await say(engine, behaviour)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 128 << 10, "in KiB"
        await is_gone(before)
        assert await say(engine, "hello") == "hello "


async def test_a_hundred_megabytes_of_log_are_read_and_forgotten() -> None:
    num_bytes, longest = 0, 0

    def log(line: str) -> None:
        nonlocal num_bytes, longest
        num_bytes, longest = num_bytes + len(line), max(longest, len(line))

    async with running(log=log) as engine:
        await engine.ready()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert await say(engine, "noise") == "noise "
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 64 << 10, "in KiB"
    assert num_bytes > 0 and longest <= 4096


async def test_a_call_that_leaves_while_a_process_is_looked_into_leaves_it_to_the_next() -> None:
    async with running() as engine:
        first = asyncio.create_task(engine.ready())
        async with asyncio.timeout(30):
            while engine.status().state != "ready":
                await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await say(engine, "hello") == "hello "
        assert "chat" in engine.abilities
