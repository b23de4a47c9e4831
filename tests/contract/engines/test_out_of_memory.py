"""The pool and llama.cpp, where the engine does not get the memory that was planned: its worker's address space is limited."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from zhibei.engines.base import LogSink
from zhibei.engines.llama_cpp import order
from zhibei.engines.llama_cpp.backend import LlamaCppBackend, devices_of, started
from zhibei.engines.llama_cpp.engine import LlamaCppEngine
from zhibei.engines.process import EngineProcess
from zhibei.errors import DoesNotFit
from zhibei.formats.inspect import inspect_path
from zhibei.models import StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.plan import plan
from zhibei.plans import EngineSpec, Hardware
from zhibei.runtime.pool import Pool
from zhibei.settings import Settings
from zhibei.workshop.named_shapes import named_shape
from zhibei.workshop.random_models import write_model
from zhibei.workshop.shapes import Shape

pytest.importorskip("xllamacpp", reason="the engine: pip install 'zhibei[llama-cpp]'")

MIB = 1 << 20
HARDWARE = Hardware("test", 2, 2, 64 << 30, 48 << 30)
# 32 KiB of cache for a token: 512 MiB for the usual context, far more than all else.
SHAPE = Shape("wide-cache", "llama", 4, 256, 512, 32, 32, 64)
LIMITED = (
    "import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}));"
    "from zhibei.engines.llama_cpp.worker import main; main()"
)


class LimitedBackend(LlamaCppBackend):
    """Its workers may have so many bytes of address space."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.tried: list[EngineSpec] = []

    async def start(self, spec: EngineSpec, log: LogSink) -> LlamaCppEngine:
        self.tried.append(spec)
        engine = LlamaCppEngine(spec, log)
        command = [sys.executable, "-c", LIMITED.format(limit=self.limit_bytes)]
        engine._process = EngineProcess(spec.model_name, command, lambda key: order.encode(order.Order(spec, key)), log)
        return await started(engine)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    return made(SHAPE, tmp_path_factory.mktemp("model") / "model.gguf")


def made(shape: Shape, path: Path) -> StoredModel:
    write_model(shape, path)
    file = StoredFile("model", path, path.stat().st_size)
    return StoredModel("wide:latest", (file,), inspect_path(path), "random", datetime.now(timezone.utc))


def planned(model: StoredModel, **wishes: object) -> EngineSpec:
    options = LoadOptions(**{"parallel": 1, "ctx_size": 512, "cache_ram_mib": 0, **wishes})  # type: ignore[arg-type]
    found = plan(model, HARDWARE, "llama.cpp", "generate", options)
    assert found.spec is not None, found.reasons
    return found.spec


async def usual_bytes(model: StoredModel) -> int:
    """The address space of a worker with a small context."""
    engine = await LlamaCppBackend().start(planned(model), lambda line: None)
    try:
        text = Path(f"/proc/{engine.status().pid}/status").read_text(encoding="ascii")
    finally:
        await engine.close()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmPeak"))


@asynccontextmanager
async def pool_of(model: StoredModel, backend: LimitedBackend) -> AsyncIterator[Pool]:
    pool = Pool(Settings(load=LoadOptions(parallel=1)), lambda name: model, lambda: HARDWARE, {"llama.cpp": backend})
    try:
        yield pool
    finally:
        await pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space, and /proc")
async def test_an_automatic_context_is_halved_and_one_that_was_asked_for_is_not(model: StoredModel) -> None:
    backend = LimitedBackend(await usual_bytes(model) + 384 * MIB)
    info = model.info
    assert info is not None and info.context_length is not None
    async with pool_of(model, backend) as pool:
        async with pool.lease("wide") as engine:
            assert len(await engine.tokenize("hello")) > 0
            assert engine.spec == backend.tried[-1]
        first, second = backend.tried
        assert second.ctx_size == first.ctx_size // 2
        (shown,) = pool.residents()
        assert shown.ctx_size == second.ctx_size
        assert shown.measured_bytes is not None and shown.measured_bytes > second.ctx_size * 32 * 1024 // 2
        asked = LoadOptions(ctx_size=first.ctx_size)
        with pytest.raises(DoesNotFit, match="ran out of memory"):
            async with pool.lease("wide", load=asked):
                pass
        # Once beside the idle one, and once when that was gone.
        assert [spec.ctx_size for spec in backend.tried[2:]] == [first.ctx_size] * 2
        assert pool.residents() == ()


@pytest.mark.parametrize(
    "wishes",
    [{}, {"gpu_layers": 3, "tensor_split": (1.0, 2.0), "main_gpu": 0}, {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}],
)
async def test_whatever_a_plan_says_of_placement_the_engine_takes(wishes: dict[str, object], tmp_path: Path) -> None:
    """Also where there is no graphics processor: then it means nothing, and nothing fails."""
    spec = planned(made(named_shape("tiny-qwen3moe"), tmp_path / "model.gguf"), **wishes)
    spec = replace(spec, n_cpu_moe=2, kv_offload=False, n_ctx_checkpoints=3)
    engine = await LlamaCppBackend().start(spec, lambda line: None)
    try:
        assert len(await engine.tokenize("hello")) > 0
    finally:
        await engine.close()


def test_builds_are_known_by_their_version_or_their_libraries() -> None:
    first = devices_of("2026.10.1", ("xllamacpp.abi3.so",))[:1]
    assert first == ("cpu",)
    assert "cuda" in devices_of("2026.10.1+cu128", ())
    assert "cuda" in devices_of("2026.10.1", ("libcudart-1234.so.12",))
    assert "rocm" in devices_of("2026.10.1+rocm6.4", ())
    assert "vulkan" not in devices_of("2026.10.1", ("xllamacpp.abi3.so",))
