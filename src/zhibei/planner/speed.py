"""How fast a model will be, before it was ever run: prompt and generation tokens/s with a range, and what bounds them. Pure.

``work`` counts what a pass costs, ``rates`` says how fast the machine does it, and items on one device and on several add up:
the engine does them one after another. ``calibration`` corrects the parts by what this machine's runs have shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zhibei.models import ModelInfo
from zhibei.planner.calibration import Calibration, Part, Sample
from zhibei.planner.rates import Machine, device_name, usable_gpus
from zhibei.planner.work import Phase, Way, Work, active_parameters, generation_work, prompt_work
from zhibei.plans import Hardware

__all__ = ["Machine", "Rate", "Speed", "Way", "batch_size", "predict", "prompt_tokens_per_s", "sample_of"]

GFLOPS_PER_CORE = 60.0
MIN_BATCH, MAX_BATCH = 32, 2048
# A bound that takes less of the time than this is told as mixed.
_MAIN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second, with their range. ``limited_by``: bandwidth, compute, transfer, overhead, or mixed."""

    tokens_per_s: float
    low: float
    high: float
    limited_by: str
    is_calibrated: bool = False
    """Whether runs of these devices moved it."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What is predicted at a depth of tokens. Generation is that of all streams together.

    None: a figure that it depends on is not known. ``num_runs``: runs of this machine that it was calibrated with.
    """

    depth: int
    prompt: Rate | None
    generation: Rate | None
    num_streams: int = 1
    num_runs: int = 0

    @property
    def prompt_tokens_per_s(self) -> float | None:
        """Tokens of a prompt that are read per second."""
        return None if self.prompt is None else self.prompt.tokens_per_s

    @property
    def generation_tokens_per_s(self) -> float | None:
        """Tokens that all streams get per second."""
        return None if self.generation is None else self.generation.tokens_per_s

    @property
    def per_stream_tokens_per_s(self) -> float | None:
        """Tokens that one of the streams gets per second."""
        return None if self.generation is None else self.generation.tokens_per_s / self.num_streams

    @property
    def limited_by(self) -> str | None:
        """What bounds generation."""
        return None if self.generation is None else self.generation.limited_by


def predict(info: ModelInfo, machine: Machine, way: Way, depth: int = 0, calibration: Calibration | None = None) -> Speed:
    """The speed with ``depth`` tokens before the prompt or the answer.

    Args:
        machine: see ``rates.machine_of``.
        way: the way it is run: threads, batch, streams, types of the cache, placement.
        calibration: what runs of this machine have shown; None: nothing.
    """
    streams = max(1, way.num_streams)
    prompt = prompt_work(info, way, way.prompt_tokens, depth)
    generation = generation_work(info, way, way.generated_tokens, depth)
    read = _rate("prompt", prompt, machine, way.num_threads, way.prompt_tokens, calibration)
    made = _rate("generation", generation, machine, way.num_threads, way.generated_tokens * streams, calibration)
    used = any(rate is not None and rate.is_calibrated for rate in (read, made))
    return Speed(depth, read, made, streams, calibration.num_samples if calibration is not None and used else 0)


def sample_of(phase: Phase, work: Sequence[Work], machine: Machine, num_threads: int, seconds: float) -> Sample | None:
    """A measured run, to learn from; None where nothing can be predicted to compare it with."""
    timed = _timed(phase, work, machine, num_threads)
    return None if timed is None else Sample(tuple(part for part, _ in timed), seconds)


def prompt_tokens_per_s(info: ModelInfo, num_threads: int) -> float | None:
    """Prompt tokens/s on the processor by the number of its cores alone, for choosing sizes; None: unknown parameters.

    2 operations per active parameter (Kaplan et al. 2020), and what a core without AVX-512 does in a second.
    """
    parameters = active_parameters(info)
    return num_threads * GFLOPS_PER_CORE * 1e9 / (2.0 * parameters) if parameters else None


def batch_size(info: ModelInfo, hardware: Hardware, num_threads: int) -> int:
    """The largest power of two of tokens that one batch finishes in about a second.

    The engine looks for clients that have left only between batches. With a GPU batches are short: the largest.
    """
    if usable_gpus(hardware):
        return MAX_BATCH
    speed = prompt_tokens_per_s(info, num_threads)
    if speed is None:
        return 512
    size = MIN_BATCH
    while size * 2 <= min(speed, MAX_BATCH):
        size *= 2
    return size


def _timed(phase: Phase, work: Sequence[Work], machine: Machine, num_threads: int) -> list[tuple[Part, str]] | None:
    """The parts with their seconds and bounds."""
    timed = []
    for item in work:
        found = machine.seconds(item, num_threads)
        if found is None:
            return None
        part = Part(phase, device_name(machine, item.device), item.what, item.family, found[0] * item.num_passes)
        timed.append((part, found[1]))
    return timed


def _rate(
    phase: Phase,
    work: Sequence[Work] | None,
    machine: Machine,
    num_threads: int,
    num_tokens: int,
    calibration: Calibration | None,
) -> Rate | None:
    timed = None if work is None else _timed(phase, work, machine, num_threads)
    if not timed or work is None or not any(part.seconds > 0 for part, _ in timed):
        return None
    parts = [part for part, _ in timed]
    is_calibrated = calibration is not None and calibration.knows(parts)
    if calibration is not None and is_calibrated:
        estimate = calibration.estimate(parts)
        seconds = [part.seconds * calibration.factor(part) for part in parts]
        low, high = num_tokens / estimate.high, num_tokens / estimate.low
    else:
        seconds = [part.seconds for part in parts]
        spreads = [machine.spread(item.device, phase) for item in work]
        speed = num_tokens / sum(seconds)
        low, high = speed * min(spread[0] for spread in spreads), speed * max(spread[1] for spread in spreads)
    return Rate(num_tokens / sum(seconds), low, high, _bound(seconds, [bound for _, bound in timed]), is_calibrated)


def _bound(seconds: Sequence[float], bounds: Sequence[str]) -> str:
    """What takes most of the time, where that is at least half of it."""
    by_bound: dict[str, float] = {}
    for taken, bound in zip(seconds, bounds, strict=True):
        by_bound[bound] = by_bound.get(bound, 0.0) + taken
    name, most = max(by_bound.items(), key=lambda item: item[1])
    return name if most >= sum(seconds) * _MAIN_SHARE else "mixed"
