"""The file of measured runs: what is kept, what is not, and what foreign or torn lines do to it."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.events import Timings
from zhibei.models import Layer, ModelInfo
from zhibei.planner.rates import Machine
from zhibei.planner.speed import Way, predict
from zhibei.plans import EngineSpec
from zhibei.runtime import measurements
from zhibei.runtime.measurements import FILE_NAME, Circumstances, Measurements, run_of, samples
from zhibei.runtime.runs import MAX_LINE_BYTES, Run, document, parse
from zhibei.store.locks import FileLock

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
INFO = ModelInfo(
    "gguf",
    "llama",
    quantisation="Q8_0",
    tensor_types=(("Q8_0", 1, 1_000_000),),
    embedding_length=1024,
    layers=(Layer("attention", 10, 8, 8, 128, 128, dense_bytes=10_000_000),),
    embedding_bytes=30_000_000,
    output_bytes=30_000_000,
)
SPEC = EngineSpec("llama.cpp", "/m.gguf", "m:latest", "generate", 4096, 1, 512, 512, 2, None, "f16", "f16", "auto", None, 0)
TIMINGS = Timings(num_prompt_tokens=500, prompt_s=5.0, num_generated_tokens=100, generation_s=10.0, num_cached_tokens=40)
FIGURES = Machine(read_bytes=((2, 20e9),))


def made(**changes: Any) -> Run | None:
    given_: dict[str, Any] = {
        "machine": "abc",
        "model": "m:latest",
        "digest": "sha256:" + "0" * 64,
        "info": INFO,
        "spec": SPEC,
        "way": Way(num_threads=2),
        "timings": TIMINGS,
        "circumstances": Circumstances(),
        "engine_version": "1.2",
        "kernels": ("avx2",),
        "planned_bytes": 10,
        "measured_bytes": 11,
        "figures": FIGURES,
        "now": NOW,
    }
    return run_of(**(given_ | changes))


def run() -> Run:
    found = made()
    assert found is not None
    return found


def test_a_run_has_what_was_measured_and_what_was_predicted() -> None:
    found = run()
    assert (found.depth, found.num_prompt_tokens, found.prompt_s, found.generation_s) == (40, 500, 5.0, 10.0)
    assert (found.architecture, found.quantisation, found.num_threads, found.ctx_size) == ("llama", "Q8_0", 2, 4096)
    expected = predict(INFO, FIGURES, Way(num_threads=2, prompt_tokens=500, generated_tokens=100), 40).prompt
    assert expected is not None and found.predicted_prompt_s == pytest.approx(500 / expected.tokens_per_s)
    assert found.predicted_generation_s is not None
    assert {item.num_passes for item in found.generation_work} == {100.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"timings": None},
        {"info": None},
        {"info": ModelInfo("unknown", "unknown")},
        {"circumstances": Circumstances(most_at_once=2)},
        {"circumstances": Circumstances(num_earlier=0)},
        {"circumstances": Circumstances(has_media=True)},
        {"spec": replace(SPEC, draft_model_path="/d.gguf")},
        {"spec": replace(SPEC, task="embed")},
        {"timings": Timings(10, 1.0, 10, 1.0)},
        {"timings": Timings(500, 0.0, 100, 0.0)},
    ],
)
def test_what_says_nothing_of_the_machine_is_not_kept(changes: dict[str, Any]) -> None:
    assert made(**changes) is None


def test_a_short_half_is_left_out() -> None:
    answer, prompt = made(timings=Timings(10, 0.2, 100, 10.0)), made(timings=Timings(500, 5.0, 3, 0.3))
    assert answer is not None and answer.prompt_s is None and answer.prompt_work == () and answer.generation_s == 10.0
    assert prompt is not None and prompt.generation_s is None and prompt.generation_work == () and prompt.prompt_s == 5.0
    assert [len(samples([found], FIGURES)) for found in (answer, prompt, run())] == [1, 1, 2]


def test_tokens_that_were_guessed_tell_nothing_of_a_pass() -> None:
    answer = made(timings=replace(TIMINGS, num_guessed_tokens=12))
    assert answer is not None and answer.generation_s is None and answer.prompt_s == TIMINGS.prompt_s


def test_runs_come_back_as_they_were(tmp_path: Path) -> None:
    kept = Measurements(tmp_path / "state")
    assert kept.runs_of("abc") == ()
    other = replace(run(), machine="other", digest=None, planned_bytes=None, predicted_prompt_s=None)
    assert kept.record(run()) and kept.record(other)
    assert Measurements(tmp_path / "state").runs_of("abc") == (run(),)
    assert kept.runs_of("other") == (other,)
    assert (tmp_path / "state" / FILE_NAME).stat().st_mode & 0o077 == 0


def test_predictions_follow_what_was_kept(tmp_path: Path) -> None:
    kept, way = Measurements(tmp_path), Way(num_threads=2, generated_tokens=100)
    for _ in range(6):
        assert kept.record(run())
    learnt = predict(INFO, FIGURES, way, 540, kept.calibration("abc", FIGURES))
    assert learnt.generation_tokens_per_s == pytest.approx(10.0, rel=0.02)
    assert learnt.num_runs == 12
    assert kept.calibration("another", FIGURES).num_samples == 0


def test_the_file_stays_bounded_and_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "MAX_FILE_BYTES", 20_000)
    monkeypatch.setattr(measurements, "KEPT_FILE_BYTES", 10_000)
    kept = Measurements(tmp_path)
    for number in range(60):
        assert kept.record(replace(run(), depth=number))
        assert (tmp_path / FILE_NAME).stat().st_size <= 20_000
    depths = [found.depth for found in kept.runs_of("abc")]
    assert depths == list(range(depths[0], 60)) and 3 < len(depths) < 30
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    kept, path = Measurements(tmp_path), tmp_path / FILE_NAME
    kept.record(run())
    path.write_bytes(path.read_bytes()[:-30])
    assert kept.runs_of("abc") == ()
    assert kept.record(run())
    assert kept.runs_of("abc") == (run(),)


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 10_000, b'{"machine":"abc"}', b"9" * 5000, b" " * (MAX_LINE_BYTES + 1)],
)
def test_lines_that_are_no_runs_are_passed_over(tmp_path: Path, line: bytes) -> None:
    kept = Measurements(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(line + b"\n")
    assert kept.record(run())
    assert kept.runs_of("abc") == (run(),)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.none(), max_size=2),
    st.just("x" * 300),
    st.just("a\x1b[2J"),
    st.just([[-1, "weights", "Q8_0", 1.0, float("inf"), 1.0, 1.0]]),
    st.just([[999, "weights", "Q8_0", 1.0, 1.0, 1.0, 1.0]]),
    st.just([[-1, "unheard of", "Q8_0", 1.0, 1.0, 1.0, 1.0]]),
    st.just([[-1, [], "Q8_0", 1.0, 1.0, 1.0, 1.0]]),
)


@given(st.sampled_from(sorted(document(run()))), values)
def test_a_field_of_another_kind_is_refused_or_harmless(name: str, value: object) -> None:
    found = parse(json.dumps(document(run()) | {name: value}).encode())
    if found is not None:
        assert type(getattr(found, name)) in (type(getattr(run(), name)), type(None), float, str)
        assert len(samples([found], FIGURES)) <= 2


@pytest.mark.parametrize("what", ["directory", "link", "held"])
def test_nothing_fails_where_it_cannot_be_kept(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "_PATIENCE_S", 0.0)
    path, lock = tmp_path / FILE_NAME, FileLock(tmp_path / (FILE_NAME + ".lock"))
    target = tmp_path / "elsewhere"
    target.write_bytes(b"")
    if what == "directory":
        path.mkdir()
    elif what == "link":
        path.symlink_to(target)
    else:
        assert lock.try_acquire()
    kept = Measurements(tmp_path)
    assert not kept.record(run())
    assert kept.runs_of("abc") == ()
    assert target.read_bytes() == b""
    lock.release()


def test_a_run_too_long_for_a_line_is_not_kept(tmp_path: Path) -> None:
    kept = Measurements(tmp_path)
    assert not kept.record(replace(run(), model="x" * MAX_LINE_BYTES))
    assert not (tmp_path / FILE_NAME).exists()


def _record_many(directory: str, first: int) -> None:
    kept = Measurements(Path(directory))
    for number in range(first, first + 20):
        assert kept.record(replace(run(), depth=number))


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    processes = [
        multiprocessing.get_context("spawn").Process(target=_record_many, args=(str(tmp_path), first)) for first in (0, 100)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(found.depth for found in Measurements(tmp_path).runs_of("abc")) == [*range(20), *range(100, 120)]


def test_models_the_last_first_of_whatever_machine(tmp_path: Path) -> None:
    kept = Measurements(tmp_path)
    assert kept.models() == ()
    for machine, model in (("abc", "a"), ("abc", "b"), ("xyz", "a"), ("xyz", "c")):
        assert kept.record(replace(run(), machine=machine, model=model))
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b'{"model": "torn')
    assert kept.models() == ("c", "a", "b")
