"""What this machine has shown counts in the answers of ``fit`` as it does in the plans of the server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from support.plans_made import ONE_LAYER as MODEL
from zhibei.events import Timings
from zhibei.judging import bench
from zhibei.judging.bench import this_machine
from zhibei.options import LoadOptions
from zhibei.planner.plan import plan
from zhibei.plans import EngineInfo, Gpu, Hardware, Kernels
from zhibei.runtime.measurements import Circumstances
from zhibei.runtime.recorder import Answer, Recorder

CARD = Gpu("NVIDIA GeForce RTX 3060", "NVIDIA", 12 << 30, 12 << 30)
HARDWARE = Hardware(
    "test", 4, 8, 64 << 30, 48 << 30, gpus=(CARD,), backends=("cuda",), bandwidth_bytes_per_s=50 * 10**9, cpu_features=("avx2",)
)
# A build for the processor alone, beside a card that it cannot use.
ENGINE = EngineInfo(
    "llama.cpp", True, "1", ("gguf",), ("generate",), ("cpu",), kernels=Kernels("0.1.0", "avx2", ("Q4_K",), attention=True)
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
