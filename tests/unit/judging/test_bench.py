"""What this machine has shown counts in the answers of ``fit`` as it does in the plans of the server."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from zhibei.events import Timings
from zhibei.judging import bench
from zhibei.judging.bench import this_machine
from zhibei.models import Layer, ModelInfo, StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.plan import plan
from zhibei.plans import EngineInfo, Gpu, Hardware, Kernels
from zhibei.runtime.measurements import Circumstances
from zhibei.runtime.recorder import Answer, Recorder

MIB = 1 << 20
CARD = Gpu("NVIDIA GeForce RTX 3060", "NVIDIA", 12 << 30, 12 << 30)
HARDWARE = Hardware(
    "test", 4, 8, 64 << 30, 48 << 30, gpus=(CARD,), backends=("cuda",), bandwidth_bytes_per_s=50 * 10**9, cpu_features=("avx2",)
)
# A build for the processor alone, beside a card that it cannot use.
ENGINE = EngineInfo(
    "llama.cpp", True, "1", ("gguf",), ("generate",), ("cpu",), kernels=Kernels("0.1.0", "avx2", ("Q4_K",), attention=True)
)
INFO = ModelInfo(
    "gguf",
    "llama",
    context_length=4096,
    embedding_length=1024,
    vocabulary_size=1000,
    quantisation="Q4_K_M",
    tensor_types=(("Q4_K", 10, 3200 * MIB),),
    layers=(Layer("attention", 8, 8, 8, 64, 64, feed_forward_length=64, dense_bytes=400 * MIB),),
    output_bytes=MIB,
    embedding_bytes=MIB,
)
MODEL = StoredModel(
    "a:latest",
    (StoredFile("model", Path("/a.gguf"), 3202 * MIB, "sha256:" + "0" * 64),),
    INFO,
    "test",
    datetime.now(timezone.utc),
)


def test_a_card_that_the_engine_cannot_use_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "detect", lambda: HARDWARE)
    monkeypatch.setattr(bench, "probed", lambda engine: ENGINE)
    recorder = Recorder(tmp_path, lambda: HARDWARE)
    made = plan(MODEL, HARDWARE, "llama.cpp", "generate", LoadOptions(ctx_size=2048), devices=("cpu",), with_changes=False)
    ran = Answer(MODEL, made, ENGINE, Timings(500, 1.0, 100, 10.0), Circumstances(), 3 << 30, ENGINE.kernels)
    assert recorder.record(ran) and recorder.record(replace(ran, kernels=None))
    found = this_machine(tmp_path, "auto")
    assert found.kernels == ENGINE.kernels
    assert found.kernels_calibration == recorder.knowledge(ENGINE).calibration is not None
    assert found.calibration == recorder.knowledge(ENGINE, kernels=False).calibration is not None


def test_beside_a_card_that_the_engine_uses_no_kernels_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "detect", lambda: HARDWARE)
    monkeypatch.setattr(bench, "probed", lambda engine: replace(ENGINE, devices=("cpu", "cuda")))
    found = this_machine(tmp_path, "auto")
    assert found.kernels is None and found.kernels_calibration is None
