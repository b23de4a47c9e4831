"""What is planned is what the engine allocates: a quick part of ``bench/memory.py``, with models of a few megabytes."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from zhibei.workshop.named_shapes import named_shape
from zhibei.workshop.random_models import describe, write_model

pytest.importorskip("xllamacpp", reason="the engine: pip install 'zhibei[llama-cpp]'")

# Their caches are of several MiB at these lengths, of which the engine reports two decimals.
SHAPES = (
    ("tiny-qwen2", 8192),
    ("tiny-gemma3", 16384),
    ("tiny-deepseek2", 8192),
    ("tiny-granite-hybrid", 16384),
    ("tiny-qwen3next", 16384),
    ("tiny-bert", 512),
)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = util.spec_from_file_location("bench_memory", Path(__file__).parents[3] / "bench" / "memory.py")
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kernels", [None, False], ids=["as_installed", "no_kernels"])
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize(("name", "ctx_size"), SHAPES)
async def test_weights_and_caches_are_as_planned(
    bench: ModuleType, name: str, ctx_size: int, cache_type: str, kernels: bool | None, tmp_path: Path
) -> None:
    shape = named_shape(name)
    write_model(shape, tmp_path / "model.gguf")
    settings = bench.Settings(ctx_size, cache_type, generates=False, mmap=False, kernels=kernels)
    case = await bench.measure(shape, tmp_path / "model.gguf", settings)
    assert case.problem is None
    assert kernels is None or case.kernels is None or case.kernels.level is None
    found = {item: (predicted, measured) for item, predicted, measured in case.items()}
    assert sum(tensor.num_bytes for tensor in describe(shape)[1]) == pytest.approx(found["weights"][1], rel=0.01)
    for item in ("weights", "kv cache"):
        predicted, measured = found[item]
        assert predicted == pytest.approx(measured, rel=0.03, abs=2**15), item


def test_the_report_is_read_as_the_engine_writes_it(bench: ModuleType) -> None:
    lines = (
        "0.1 I load_tensors:   CPU_Mapped model buffer size =   225.83 MiB",
        "0.1 I load_tensors:   CPU_REPACK model buffer size =   141.75 MiB",
        "0.1 I llama_context:        CPU  output buffer size =     0.50 MiB",
        "0.1 I llama_kv_cache:        CPU KV buffer size =     4.00 MiB",
        "0.1 I llama_kv_cache: size =    4.00 MiB (  1024 cells,   2 layers,  4/4 seqs), K (f16):    2.00 MiB",
        "0.1 I llama_kv_cache:        CPU KV buffer size =     1.00 MiB",
        "0.1 I llama_memory_recurrent:        CPU RS buffer size =     0.25 MiB",
        "0.1 I sched_reserve:        CPU compute buffer size =     9.00 MiB",
        "0.1 I sched_reserve:        CPU compute buffer size =     6.50 MiB",
        "0.1 I srv    load_model: the size of nothing",
    )
    reported, caches = bench.read_report(lines)
    mebibytes = {kind: num_bytes / 2**20 for kind, num_bytes in reported.items()}
    assert mebibytes == pytest.approx(
        {
            "CPU_Mapped/model": 225.83,
            "CPU_REPACK/model": 141.75,
            "CPU/output": 0.5,
            "CPU/KV": 5.0,
            "CPU/RS": 0.25,
            "CPU/compute": 6.5,
        }
    )
    assert caches == [{"cells": 1024, "layers": 2, "sequences": 4, "streams": 4}]
