"""What llama.cpp's engine keeps through the end of its process, and what it does with text around a gap: with a real model."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from zhibei.chat import ChatRequest, CompletionRequest, Message, ResponseFormat
from zhibei.engines.llama_cpp.backend import LlamaCppBackend
from zhibei.engines.llama_cpp.engine import LlamaCppEngine
from zhibei.engines.llama_cpp.prompts import MIN_TOKENS, PromptStore
from zhibei.errors import BadRequest, ContextTooLong, EngineDied, EngineStalled, Unsupported
from zhibei.events import Finished, GenerationEvent, TextDelta
from zhibei.options import Limits, Sampling
from zhibei.plans import EngineSpec

pytestmark = pytest.mark.model
LIMIT_S = 1.0
# In a copy of the model these words, which it does not use, become those that llama.cpp knows the ends of a gap by.
GAP_WORDS = {b"<issue_closed>": b"<|fim_prefix|>", b"<jupyter_text>": b"<|fim_suffix|>", b"<jupyter_code>": b"<|fim_middle|>"}
# Long enough to be kept, once that takes a tenth of what it usually takes.
FEW_TOKENS = MIN_TOKENS // 10
LONG = ChatRequest(
    (Message.of("user", "The sea is wide and old. " * 6 + "Go on."),), Sampling(temperature=0.0, seed=1), Limits(3)
)


def spec_of(path: Path, num_slots: int = 1) -> EngineSpec:
    return EngineSpec(
        "llama.cpp", str(path), "smollm2:135m", "generate", 1024, num_slots, 128, 128, 2, None, "f16", "f16", "auto", 0, 0
    )


async def all_of(events: AsyncIterator[GenerationEvent]) -> tuple[str, Finished]:
    found = [event async for event in events]
    assert isinstance(found[-1], Finished)
    return "".join(event.text for event in found if isinstance(event, TextDelta)), found[-1]


async def ask(path: Path, store: PromptStore, num_slots: int = 1, lines: list[str] | None = None) -> tuple[str, Finished]:
    """The long prompt's answer from an engine that lives for it alone."""
    engine = await LlamaCppBackend(store).start(spec_of(path, num_slots), (lines if lines is not None else []).append)
    try:
        return await all_of(engine.chat(LONG))
    finally:
        await engine.close()


@pytest.mark.skipif(sys.platform == "win32", reason="groups, niceness and sockets of the file system")
async def test_a_worker_is_reached_by_its_owner_alone_and_gives_way(smollm2_path: Path) -> None:
    engine = await LlamaCppBackend().start(spec_of(smollm2_path), lambda line: None)
    try:
        assert engine.address is not None
        socket, pid = Path(urlsplit(engine.address.address).path), engine.status().pid
        assert pid is not None and socket.is_socket() and stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        worker = psutil.Process(pid)
        assert not [each for each in worker.net_connections("inet") if each.status == psutil.CONN_LISTEN]
        assert worker.nice() > psutil.Process().nice() or worker.nice() == 19
        assert os.getpgid(pid) == pid != os.getpgid(0)
    finally:
        await engine.close()
    assert not socket.parent.exists()


async def test_a_prompt_is_read_again_from_disk_after_a_restart(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhibei.engines.llama_cpp.engine.MIN_TOKENS", FEW_TOKENS)
    store = PromptStore(tmp_path / "prompts", 1 << 30)
    text, first = await ask(smollm2_path, store)
    assert first.usage.num_cached_tokens == 0 and first.usage.num_prompt_tokens > FEW_TOKENS
    (kept,) = store.directory.glob("*/*")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in (store.directory, kept.parent)} == {0o700}
    again, second = await ask(smollm2_path, store)
    assert again == text
    assert second.usage.num_cached_tokens >= first.usage.num_prompt_tokens - 1

    # One that the engine cannot read does no harm; one whose content is not that of its name is not even given to it.
    (kept,) = store.directory.glob("*/*")
    damaged = bytearray(kept.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    kept.write_bytes(damaged)
    nonsense = b"ggsq" + bytes(range(256)) * 64
    (kept.parent / f"{hashlib.sha256(nonsense).hexdigest()}.prompt").write_bytes(nonsense)
    lines: list[str] = []
    whole, third = await ask(smollm2_path, store, num_slots=2, lines=lines)
    assert whole == text and third.usage.num_cached_tokens == 0
    assert sum("not restored" in line for line in lines) == 1
    assert bytes(damaged) not in [path.read_bytes() for path in kept.parent.iterdir()]


async def test_a_worker_that_is_stopped_in_mid_answer_is_replaced(smollm2_path: Path) -> None:
    now_s, step_s = 0.0, 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += step_s
        return now_s

    engine = LlamaCppEngine(spec_of(smollm2_path), lambda line: None, stall_s=LIMIT_S, clock=clock)
    try:
        story = CompletionRequest("Once upon a time", Sampling(temperature=0.0), Limits(900, ignore_eos=True))
        with pytest.raises(EngineStalled):
            async for _event in engine.complete(story):
                if not step_s:
                    pid = engine.status().pid
                    assert pid is not None
                    os.kill(pid, signal.SIGSTOP)
                    step_s = LIMIT_S / 10
        step_s = 0.0
        text, _ = await all_of(engine.complete(replace(story, limits=Limits(4))))
        assert text and engine.status().pid != pid
    finally:
        await engine.close()


async def test_one_that_is_killed_in_mid_answer_takes_nobody_with_it(smollm2_path: Path) -> None:
    backend = LlamaCppBackend()
    one, other = await asyncio.gather(*(backend.start(spec_of(smollm2_path), [].append) for _ in range(2)))
    # The one that is to be killed would speak for long.
    sizes = ((one, 400), (other, 40))
    answers = [engine.chat(replace(LONG, limits=Limits(size, ignore_eos=True))) for engine, size in sizes]
    try:
        for answer in answers:
            assert isinstance(await anext(answer), TextDelta)
        pid = one.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineDied, match="signal 9"):
            await all_of(answers[0])
        assert not psutil.pid_exists(pid), "it is gone for good, and no zombie"
        assert one.status().state == "failed" and one.status().memory_bytes is None
        _, end = await all_of(answers[1])
        assert end.reasons == ("length",) and end.usage.num_generated_tokens == 40
    finally:
        for answer in answers:
            await answer.aclose()
        await asyncio.gather(one.close(), other.close())


async def test_a_model_without_words_for_a_gap_says_so(smollm2_path: Path) -> None:
    engine = await LlamaCppBackend().start(spec_of(smollm2_path), lambda line: None)
    try:
        assert "infill" not in engine.abilities
        with pytest.raises(Unsupported) as caught:
            await all_of(engine.complete(CompletionRequest("def f(", suffix="return x")))
        assert caught.value.param == "suffix"
    finally:
        await engine.close()


async def test_a_gap_is_filled_with_all_of_what_is_around_it(smollm2_path: Path, tmp_path: Path) -> None:
    raw = smollm2_path.read_bytes()
    for before, after in GAP_WORDS.items():
        assert before in raw
        raw = raw.replace(before, after, 1)
    (tmp_path / "code.gguf").write_bytes(raw)
    engine = await LlamaCppBackend().start(spec_of(tmp_path / "code.gguf"), lambda line: None)
    try:
        assert "infill" in engine.abilities
        greedy = Sampling(temperature=0.0)
        # Longer than the batch from which llama.cpp's own way would cut it.
        prefix, suffix = "x = 1\n" * 30 + "def f(", "):\n    return x\n"
        text, finished = await all_of(engine.complete(CompletionRequest(prefix, greedy, Limits(6), suffix=suffix)))
        own = "<|fim_prefix|>" + prefix + "<|fim_suffix|>" + suffix + "<|fim_middle|>"
        expected = await engine.tokenize(own, parse_special=True)
        assert finished.usage.num_prompt_tokens == len(expected) > 128
        assert text == (await all_of(engine.complete(CompletionRequest(expected, greedy, Limits(6)))))[0]
    finally:
        await engine.close()


async def test_what_people_say_is_in_no_line_of_the_log(smollm2_path: Path) -> None:
    secret, lines = "ZEBRAQUARK", list[str]()
    engine = await LlamaCppBackend().start(spec_of(smollm2_path), lines.append)
    limits = Limits(4, (secret, "a"))
    chat = ChatRequest((Message.of("user", secret),), Sampling(seed=1), limits)
    wrong = ResponseFormat("json_schema", {"type": secret})
    try:
        await all_of(engine.chat(chat))
        await all_of(engine.complete(CompletionRequest(f"{secret} and", Sampling(seed=1), limits)))
        with pytest.raises(BadRequest, match=secret):
            await all_of(engine.chat(replace(chat, response_format=wrong)))
        with pytest.raises(ContextTooLong):
            await all_of(engine.complete(CompletionRequest(f"{secret} " * 600, Sampling(), limits)))
        with pytest.raises(Unsupported):
            await all_of(engine.complete(CompletionRequest(secret, Sampling(), limits, suffix=secret)))
        upstream = await engine.ready()
        with pytest.raises(BadRequest):
            await upstream.post("/v1/completions", {"prompt": secret, "grammar": f"{secret}\n{secret}"})
    finally:
        await engine.close()
    assert any("got exception" in line for line in lines) and any("parsing grammar" in line for line in lines)
    assert not [line for line in lines if secret in line]


async def test_what_repeats_itself_is_guessed_and_the_answer_stays_the_same(smollm2_path: Path) -> None:
    text = "1. apple\n2. pear\n3. plum\n" * 4
    request = CompletionRequest(text, Sampling(temperature=0.0), Limits(32))
    answers, guessed = [], []
    for speculation in ("auto", "off"):
        spec = replace(spec_of(smollm2_path), speculation=speculation)  # type: ignore[arg-type]
        engine = await LlamaCppBackend().start(spec, lambda line: None)
        try:
            answer, finished = await all_of(engine.complete(request))
        finally:
            await engine.close()
        assert finished.timings is not None
        answers.append(answer)
        guessed.append(finished.timings.num_guessed_tokens)
    assert answers[0] == answers[1]
    assert guessed[0] > 0 and guessed[1] == 0


async def test_close_does_not_wait_for_an_answer_under_way(smollm2_path: Path, tmp_path: Path) -> None:
    engine = await LlamaCppBackend(PromptStore(tmp_path / "prompts", 1 << 30)).start(spec_of(smollm2_path), lambda line: None)
    events = engine.complete(CompletionRequest("Once upon a time", limits=Limits(900, ignore_eos=True)))
    await anext(events)
    async with asyncio.timeout(20):
        await engine.close()
    await events.aclose()
    assert list((tmp_path / "prompts").glob("*/*")) == []
