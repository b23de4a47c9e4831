"""Runs are recorded with their circumstances, and what they have shown is in the next prediction."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from support.plans_made import ONE_LAYER as MODEL
from zhibei.chat import ChatRequest, CompletionRequest, ImagePart, Message, TextPart
from zhibei.engines.echo import EchoBackend, EchoEngine, EchoScript, Wait
from zhibei.events import Finished, Timings, Usage
from zhibei.options import LoadOptions
from zhibei.planner.plan import plan, way_of
from zhibei.plans import EngineInfo, EngineSpec, Gpu, Hardware, Kernels, Plan
from zhibei.runtime.measurements import Circumstances
from zhibei.runtime.pool import Pool
from zhibei.runtime.recorder import Answer, Recorder
from zhibei.runtime.timed import TimedEngine
from zhibei.settings import Settings

MIB = 1 << 20
HARDWARE = Hardware("test", 4, 8, 64 << 30, 48 << 30, bandwidth_bytes_per_s=50 * 10**9)
ENGINE = EngineInfo("echo", True, "1", ("gguf",), ("generate",))
TIMINGS = Timings(num_prompt_tokens=500, prompt_s=10.0, num_generated_tokens=100, generation_s=50.0)


def planned() -> Plan:
    return plan(MODEL, HARDWARE, "echo", "generate", LoadOptions(ctx_size=2048), with_changes=False)


def answer(timings: Timings = TIMINGS, circumstances: Circumstances = Circumstances()) -> Answer:
    return Answer(MODEL, planned(), ENGINE, timings, circumstances, 3 << 30)


def test_what_runs_have_shown_is_known(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "state", lambda: HARDWARE)
    assert recorder.knowledge(ENGINE).calibration is None
    before = planned().speed
    assert recorder.record(answer())
    learnt = recorder.knowledge(ENGINE).calibration
    assert learnt is not None and learnt.num_samples == 2
    after = plan(MODEL, HARDWARE, "echo", "generate", LoadOptions(ctx_size=2048), calibration=learnt).speed
    assert before is not None and after is not None and after.is_calibrated and not before.is_calibrated
    assert after.generation_tokens_per_s is not None and before.generation_tokens_per_s is not None
    assert abs(after.generation_tokens_per_s - 2.0) < abs(before.generation_tokens_per_s - 2.0) / 2
    assert Recorder(tmp_path / "state", lambda: HARDWARE).knowledge(ENGINE).calibration == learnt, "it is kept"


def test_runs_with_kernels_and_without_are_not_mixed(tmp_path: Path) -> None:
    """Nor those of other kernels: each plan learns from what computed as it will."""
    avx2, newer = Kernels("0.1.0", "avx2"), Kernels("0.2.0", "avx2")
    engine = replace(ENGINE, kernels=avx2)
    recorder = Recorder(tmp_path / "state", lambda: HARDWARE)
    slow, quick = answer(), replace(answer(Timings(500, 2.0, 100, 10.0)), engine=engine, kernels=avx2)
    assert recorder.record(slow) and recorder.record(quick)
    for found in (recorder, Recorder(tmp_path / "state", lambda: HARDWARE)):
        with_them, without = found.knowledge(engine).calibration, found.knowledge(engine, kernels=False).calibration
        assert with_them is not None and without is not None and with_them.num_samples == without.num_samples == 2
        assert with_them.base["generation/cpu"] < without.base["generation/cpu"] / 3
        assert found.knowledge(ENGINE).calibration == without, "an engine that has none"
        assert found.knowledge(replace(ENGINE, kernels=newer)).calibration is None
        assert found.knowledge(replace(ENGINE, kernels=Kernels("0.1.0", None))).calibration == without


def test_beside_a_graphics_processor_no_kernels_are_expected(tmp_path: Path) -> None:
    card = replace(HARDWARE, gpus=(Gpu("card", "NVIDIA", 3000 * MIB, 3000 * MIB),), backends=("cuda",))
    engine = replace(ENGINE, devices=("cpu", "cuda"), kernels=Kernels("0.1.0", "avx2"))
    recorder = Recorder(tmp_path / "state", lambda: card)
    assert recorder.record(replace(answer(), engine=engine))
    assert recorder.knowledge(engine).calibration is not None
    assert recorder.knowledge(engine) == recorder.knowledge(engine, kernels=False)


@pytest.mark.parametrize(
    "told",
    [
        answer(circumstances=Circumstances(most_at_once=2)),
        answer(circumstances=Circumstances(num_earlier=0)),
        answer(circumstances=Circumstances(has_media=True)),
        answer(Timings(3, 0.1, 3, 0.1)),
    ],
)
def test_what_tells_nothing_is_not_kept(told: Answer, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "state", lambda: HARDWARE)
    assert not recorder.record(told)
    assert recorder.knowledge(ENGINE).calibration is None


def test_where_nothing_can_be_written_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    assert not Recorder(tmp_path / "state", lambda: HARDWARE).record(answer())


def test_the_way_of_a_plan_is_that_of_its_placement() -> None:
    cards = tuple(Gpu(f"card {number}", "NVIDIA", 3000 * MIB, 3000 * MIB) for number in range(2))
    hardware = Hardware("test", 4, 8, 64 << 30, 48 << 30, cards, backends=("cuda",))
    found = plan(MODEL, hardware, "echo", "generate", LoadOptions(cache_type_k="q8_0"), with_changes=False)
    assert found.spec is not None
    way = way_of(found)
    assert (way.num_threads, way.batch_size, way.cache_type_k) == (4, found.spec.ubatch_size, "q8_0")
    assert way.placement.num_gpu_layers == found.spec.gpu_layers == 9
    assert tuple(map(float, way.placement.tensor_split)) == found.spec.tensor_split


async def test_generations_tell_their_circumstances() -> None:
    gate = asyncio.Event()
    done = Finished(("stop",), Usage(1, 1), TIMINGS)
    script = EchoScript([[Wait(gate), done], [done], [done], [done]])
    spec = EngineSpec("echo", "/m", "m", "generate", 512, 2, 32, 32, 1, None, "f16", "f16", "auto", None, 0)
    told: list[Circumstances] = []
    engine = TimedEngine(EchoEngine(spec, script), lambda timings, circumstances: told.append(circumstances))
    chat = ChatRequest((Message.of("user", "hi"),))
    first = asyncio.ensure_future(_drain(engine, chat))
    while not script.num_running:
        await asyncio.sleep(0)
    await _drain(engine, chat)
    gate.set()
    await first
    await _drain(engine, ChatRequest((Message("user", (TextPart("what is it?"), ImagePart(b"x", "image/png"))),)))
    async for _event in engine.complete(CompletionRequest("once")):
        pass
    assert told == [Circumstances(2, 0), Circumstances(2, 1), Circumstances(1, 2, has_media=True), Circumstances(1, 3)]


async def _drain(engine: TimedEngine, request: ChatRequest) -> None:
    async for _event in engine.chat(request):
        pass


async def test_the_pool_records_what_its_models_answer(tmp_path: Path) -> None:
    done = Finished(("stop",), Usage(500, 100), TIMINGS)
    recorder = Recorder(tmp_path / "state", lambda: HARDWARE)
    pool = Pool(
        Settings(engine="echo", load=LoadOptions(parallel=1, ctx_size=2048)),
        lambda name: MODEL,
        lambda: HARDWARE,
        {"echo": EchoBackend(EchoScript([[done], [done]]))},
        recorder,
    )
    async with pool.lease("a") as engine:
        for _ in range(2):
            async for _event in engine.chat(ChatRequest((Message.of("user", "hi"),))):
                pass
    (shown,) = pool.residents()
    assert shown.measured_tokens_per_s == 2.0 and (shown.predicted_tokens_per_s or 0) > 2.0
    await pool.close()
    learnt = recorder.knowledge(EngineInfo("echo", True, devices=("cpu",))).calibration
    assert learnt is not None and learnt.num_samples == 2, "the first answer after loading does not count"
    assert (tmp_path / "state" / "runs.jsonl").read_text().count("\n") == 1
