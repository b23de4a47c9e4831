"""A load whose engine is killed, or whose graphics processor fails: what is tried, and what is said (E-05, E-16)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from support.house import INFO, MIB, House, client
from zhibei.engines.base import EngineStatus, LogSink
from zhibei.engines.echo import EchoBackend, EchoEngine
from zhibei.engines.endings import KILLED_FOR_MEMORY, ending
from zhibei.errors import DoesNotFit, EngineStartFailed
from zhibei.models import Layer
from zhibei.options import LoadOptions
from zhibei.plans import EngineInfo, EngineSpec, Gpu, Hardware, Kernels

LAYERED = replace(
    INFO,
    layers=(Layer("attention", 8, 8, 8, 64, 64, feed_forward_length=64, dense_bytes=400 * MIB),),
    output_bytes=MIB,
    embedding_bytes=MIB,
)
CARD = Hardware("test", 4, 8, 64 << 30, 48 << 30, (Gpu("card", "NVIDIA", 8000 * MIB, 7000 * MIB),), backends=("cuda",))
FAULT = ("CUDA error: unspecified launch failure", "  current device: 0", "ggml-cuda.cu:98: CUDA error")
NONE = ("ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",)


class FailingBackend(EchoBackend):
    """Says something, and ends as told; ``fails`` says when."""

    def __init__(
        self,
        fails: Callable[[EngineSpec, int], bool],
        *,
        exit_code: int = -6,
        said: tuple[str, ...] = (),
        for_memory: bool = False,
    ) -> None:
        super().__init__()
        self.fails = fails
        self.said = said
        self.found = ending(exit_code, said, for_memory=for_memory)
        self.tried: list[EngineSpec] = []

    def probe(self) -> EngineInfo:
        return replace(super().probe(), devices=("cpu", "cuda"))

    async def start(self, spec: EngineSpec, log: LogSink) -> EchoEngine:
        self.tried.append(spec)
        if not self.fails(spec, len(self.tried)):
            return await super().start(spec, log)
        for line in self.said:
            log(line)
        raise EngineStartFailed("{how} ({code})", how=self.found.how, code=self.found.code)


class BlindBackend(FailingBackend):
    """Its engines find no card, say so, and are slow."""

    async def start(self, spec: EngineSpec, log: LogSink) -> EchoEngine:
        for line in NONE:
            log(line)
        return await super().start(spec, log)


def with_card(backend: FailingBackend) -> House:
    house = House(backend=backend)
    house.models["a"] = replace(house.make("a", 3200 * MIB), info=LAYERED)
    house.machine = CARD
    return house


async def test_a_card_that_fails_once_is_tried_again() -> None:
    backend = FailingBackend(lambda spec, number: number == 1, said=FAULT)
    house = with_card(backend)
    async with house.pool.lease("a") as engine:
        assert engine.spec.gpu_layers == 9 and len(backend.tried) == 2
        (shown,) = house.pool.residents()
        assert shown.device_problem is None and shown.gpu_bytes > 0
    await house.pool.close()


async def test_a_card_that_fails_again_is_left_out_and_that_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    backend = FailingBackend(lambda spec, number: spec.gpu_layers != 0, said=FAULT)
    house = with_card(backend)
    async with house.pool.lease("a") as engine:
        assert engine.spec.gpu_layers == 0
        assert [spec.gpu_layers for spec in backend.tried] == [9, 9, 0]
        (shown,) = house.pool.residents()
        assert (shown.device_problem, shown.gpu_bytes) == (FAULT[0], 0)
        assert FAULT[0] in caplog.text
    await house.pool.close()


async def test_a_card_that_is_gone_is_not_passed_over_in_silence() -> None:
    backend = BlindBackend(lambda spec, number: False)
    house = with_card(backend)
    async with house.pool.lease("a") as engine:
        assert [spec.gpu_layers for spec in backend.tried] == [9, 0] and engine.spec.gpu_layers == 0
        assert house.pool.residents()[0].device_problem == NONE[0]
        assert backend.script.num_closed == 1, "the one that was slow"
    await house.pool.close()


@pytest.mark.parametrize(
    "backend", [FailingBackend(lambda spec, number: True, said=FAULT), BlindBackend(lambda spec, number: False)]
)
async def test_layers_that_were_asked_for_are_never_taken_off_the_card(backend: FailingBackend) -> None:
    house = with_card(backend)
    error = await client(house, "a", load=LoadOptions(gpu_layers=9)).fails()
    assert isinstance(error, EngineStartFailed) and {spec.gpu_layers for spec in backend.tried} == {9}
    assert len(backend.tried) <= 2
    await house.pool.close()


async def test_a_machine_that_never_had_a_card_is_no_matter() -> None:
    house = House(backend=BlindBackend(lambda spec, number: False))
    async with house.pool.lease("a"):
        assert house.pool.residents()[0].device_problem is None
    await house.pool.close()


@pytest.mark.parametrize("for_memory", [False, True])
async def test_one_that_is_killed_is_called_out_of_memory_only_where_the_system_says_so(for_memory: bool) -> None:
    backend = FailingBackend(lambda spec, number: True, exit_code=-9, for_memory=for_memory)
    house = House(backend=backend)
    error = await client(house, "a").fails()
    assert isinstance(error, DoesNotFit) is for_memory
    assert ("ran out of memory" in str(error)) is for_memory
    if not for_memory:
        assert isinstance(error, EngineStartFailed) and "signal 9" in str(error) and "usually" in str(error)
    assert " are free" in str(error) and "--ctx-size" in str(error.hint_text)
    # Once as it was, and once with half of the context that nobody asked for.
    assert [spec.ctx_size for spec in backend.tried] == [2048, 1024]
    assert (backend.found.how == KILLED_FOR_MEMORY) is for_memory
    await house.pool.close()


class HalfBackend(EchoBackend):
    """Its engines could not use kernels of ours, and say why."""

    async def start(self, spec: EngineSpec, log: LogSink) -> EchoEngine:
        return HalfEngine(spec, self.script)


class HalfEngine(EchoEngine):
    def status(self) -> EngineStatus:
        return replace(super().status(), kernels=Kernels("0.1.0", None, problem="they failed", hint="Do something"))


async def test_a_model_that_is_computed_without_kernels_that_are_there_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    house = House(backend=HalfBackend())
    house.models["a"] = house.make("a", 100 * MIB)
    for _ in range(2):
        async with house.pool.lease("a"):
            (shown,) = house.pool.residents()
            assert shown.kernels is not None and shown.kernels.problem == "they failed"
    assert caplog.text.count("is computed without zhibei-kernels: they failed. Do something") == 1
    await house.pool.close()
