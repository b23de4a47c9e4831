"""Measured runs, kept beside what was predicted of them: ``<home>/state/runs.jsonl``, a line each. Owns that file.

A run holds the counted work, not predicted seconds: whatever is learnt later of the machine, old runs still speak. Nothing
here may fail a request: what cannot be kept is not kept. Blocks on a file; an event loop calls it in a thread.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from zhibei.errors import StoreBusy
from zhibei.events import Timings
from zhibei.models import ModelInfo
from zhibei.planner.calibration import Calibration, Sample, fit
from zhibei.planner.rates import Machine
from zhibei.planner.speed import sample_of
from zhibei.planner.work import Phase, Way, Work, generation_work, prompt_work
from zhibei.plans import EngineSpec, Kernels
from zhibei.runtime.runs import MAX_LINE_BYTES, Run, document, kernels_mark, mark_in, parse
from zhibei.store.locks import FileLock

FILE_NAME = "runs.jsonl"
MAX_FILE_BYTES = 1 << 20
KEPT_FILE_BYTES = MAX_FILE_BYTES // 2
# Shorter ones measure the clock and the first, slower tokens.
MIN_PROMPT_TOKENS, MIN_GENERATED_TOKENS = 64, 32
MIN_SECONDS = 0.05
_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the pool knows of an answer. ``most_at_once``: requests that ran in the engine while it was made, itself counted.

    ``num_earlier``: answers of this engine since it was loaded. ``has_media``: images or sound, whose tokens cost otherwise.
    """

    most_at_once: int = 1
    num_earlier: int = 1
    has_media: bool = False


def run_of(  # noqa: PLR0913 - what a run is made of, by name
    *,
    machine: str,
    model: str,
    digest: str | None,
    info: ModelInfo | None,
    spec: EngineSpec,
    way: Way,
    timings: Timings | None,
    circumstances: Circumstances,
    engine_version: str | None = None,
    kernels: tuple[str, ...] = (),
    planned_bytes: int | None = None,
    measured_bytes: int | None = None,
    figures: Machine | None = None,
    now: datetime | None = None,
) -> Run | None:
    """A run worth keeping; None where it says nothing of the machine.

    That is: several requests at once, the first answer after loading (weights and caches are cold), media, a draft model
    (tokens come several at a time), too few tokens, or a model whose header does not say what a token costs.
    """
    if timings is None or info is None or not is_telling(spec, timings, circumstances):
        return None
    depth = timings.num_cached_tokens
    prompt = prompt_work(info, way, timings.num_prompt_tokens, depth) if _has_read(timings) else None
    start = depth + timings.num_prompt_tokens
    generation = generation_work(info, way, timings.num_generated_tokens, start) if _has_made(timings) else None
    if prompt is None and generation is None:
        return None
    return Run(
        machine=machine,
        measured_at=now or datetime.now(timezone.utc),
        model=model,
        digest=digest,
        architecture=info.architecture,
        quantisation=info.quantisation,
        engine=spec.engine,
        engine_version=engine_version,
        kernels=kernels,
        num_threads=way.num_threads,
        ctx_size=spec.ctx_size,
        depth=depth,
        num_prompt_tokens=timings.num_prompt_tokens,
        prompt_s=timings.prompt_s if prompt else None,
        num_generated_tokens=timings.num_generated_tokens,
        generation_s=timings.generation_s if generation else None,
        planned_bytes=planned_bytes,
        measured_bytes=measured_bytes,
        predicted_prompt_s=_predicted("prompt", prompt, figures, way.num_threads),
        predicted_generation_s=_predicted("generation", generation, figures, way.num_threads),
        prompt_work=prompt or (),
        generation_work=generation or (),
    )


def is_telling(spec: EngineSpec, timings: Timings, circumstances: Circumstances) -> bool:
    """Whether an answer's times are those of the model alone on the machine, and of enough tokens."""
    alone = circumstances.most_at_once == 1 and circumstances.num_earlier > 0
    usual = not circumstances.has_media and spec.draft_model_path is None and spec.task == "generate"
    return alone and usual and (_has_read(timings) or _has_made(timings))


def _has_read(timings: Timings) -> bool:
    return timings.num_prompt_tokens >= MIN_PROMPT_TOKENS and timings.prompt_s >= MIN_SECONDS


def _has_made(timings: Timings) -> bool:
    # Tokens that were guessed right took no pass of their own, and would make the machine seem faster than it is.
    is_own = not timings.num_guessed_tokens
    return is_own and timings.num_generated_tokens >= MIN_GENERATED_TOKENS and timings.generation_s >= MIN_SECONDS


def samples(runs: Sequence[Run], machine: Machine) -> tuple[Sample, ...]:
    """What calibration learns from, with today's figures of the machine."""
    found = []
    for run in runs:
        if run.prompt_s is not None:
            found.append(sample_of("prompt", run.prompt_work, machine, run.num_threads, run.prompt_s))
        if run.generation_s is not None:
            found.append(sample_of("generation", run.generation_work, machine, run.num_threads, run.generation_s))
    return tuple(sample for sample in found if sample is not None)


class Measurements:
    """The file of runs in a state directory. Two processes may use it at once."""

    def __init__(self, state_directory: Path) -> None:
        """Nothing is read or made yet."""
        self._path = state_directory / FILE_NAME
        self._lock_path = state_directory / (FILE_NAME + ".lock")

    def record(self, run: Run) -> bool:
        """Keep a run; False where that was not possible."""
        line = json.dumps(document(run), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            return False
        try:
            with FileLock(self._lock_path) as lock:
                lock.acquire(_PATIENCE_S)
                self._append(line)
        except (OSError, StoreBusy):
            return False
        return True

    def runs_of(self, machine: str) -> tuple[Run, ...]:
        """The runs of a machine, oldest first. Lines that are no runs are passed over."""
        try:
            lines = self._read().split(b"\n")
        except OSError:
            return ()
        runs = (parse(line) for line in lines)
        return tuple(run for run in runs if run is not None and run.machine == machine)

    def models(self) -> tuple[str, ...]:
        """Names of the models that were measured, the last one first, on whatever machine. Blocks, as all of it."""
        try:
            lines = self._read().split(b"\n")
        except OSError:
            return ()
        return tuple(dict.fromkeys(run.model for line in reversed(lines) if (run := parse(line)) is not None))

    def calibration(self, machine: str, figures: Machine, kernels: Kernels | None = None) -> Calibration:
        """What the runs of a machine have shown that were computed with just these kernels of ours; None: with none."""
        mark = kernels_mark(kernels)
        return fit(samples([run for run in self.runs_of(machine) if mark_in(run) == mark], figures))

    def _append(self, line: bytes) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self._path, flags | getattr(os, "O_BINARY", 0), 0o600)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(f"{self._path} is no file")
            # A line that a crash tore is ended, so that it spoils no other.
            torn = status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n" if hasattr(os, "pread") else False
            os.write(descriptor, (b"\n" if torn else b"") + line)
            is_full = status.st_size + len(line) > MAX_FILE_BYTES
        finally:
            os.close(descriptor)
        if is_full:
            self._shrink()

    def _shrink(self) -> None:
        """Keep the newest half; a reader sees the old file or the new one."""
        kept = self._read()[-KEPT_FILE_BYTES:]
        temporary = self._path.with_name(f"{FILE_NAME}.{os.getpid()}.tmp")
        try:
            temporary.touch(0o600)
            temporary.write_bytes(kept[kept.find(b"\n") + 1 :])
            temporary.replace(self._path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _read(self) -> bytes:
        """The file's end, as much as it may hold."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self._path, flags)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return b""
            file.seek(max(0, status.st_size - MAX_FILE_BYTES - MAX_LINE_BYTES))
            return file.read(MAX_FILE_BYTES + MAX_LINE_BYTES)


def _predicted(phase: Phase, work: Sequence[Work] | None, machine: Machine | None, num_threads: int) -> float | None:
    if not work or machine is None:
        return None
    sample = sample_of(phase, work, machine, num_threads, 0.0)
    return None if sample is None else sum(part.seconds for part in sample.parts)
