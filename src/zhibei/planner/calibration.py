"""Learning from measured runs how fast this machine really is. Pure; knows seconds and their parts, not models.

A run has parts, each with the seconds that were predicted, and the seconds that all took together. What is learnt is a factor
for each part: of the machine (by phase and device), times what this kind of work differs, times what this type of weights
differs. Little is believed of a difference until several runs show it, so two runs already place the machine, and types
that were never run share what the others showed. Runs that contradict the rest are given less weight.

The method is regularised least squares of relative errors, reweighted (Huber): a dozen unknowns, solved by elimination.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# Standard deviations of what is believed before any run: of the machine's factor around the runs' median, of a kind of work,
# of a type of weights; and of one run's measurement. All relative.
MACHINE_SPREAD, FAMILY_SPREAD = 0.1, 0.2
# How a cache is read differs most between machines: its rows lie apart, so latency counts, which nobody measured.
KIND_SPREADS = {"weights": 0.15, "experts": 0.25, "cache": 1.0, "layers": 0.7, "transfer": 0.5}
RUN_SPREAD = 0.08
_OUTLIER = 1.5
_ROUNDS = 12
_LEAST_FACTOR = 0.1
# Of the distribution, what lies inside the range that is told: nine cases of ten.
_RANGE = 1.64
_LEAST_RANGE = 0.05
MAX_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a run: its phase, device, kind of work, type of weights, and the seconds predicted for it."""

    phase: str
    device: str
    what: str
    family: str
    seconds: float

    @property
    def machine(self) -> str:
        """The factor it shares with all work of its phase on its device."""
        return f"{self.phase}/{self.device}"

    @property
    def factors(self) -> tuple[tuple[str, float], ...]:
        """Names of the factors that it depends on, with what they are believed to deviate."""
        kind = f"{self.machine}/{self.what}"
        found = ((self.machine, MACHINE_SPREAD), (kind, KIND_SPREADS.get(self.what, 0.5)))
        return (*found, (f"{kind}/{self.family}", FAMILY_SPREAD)) if self.family else found


@dataclass(frozen=True, slots=True)
class Sample:
    """A run: its parts as they were predicted without calibration, and the seconds that it took."""

    parts: tuple[Part, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds with their range."""

    seconds: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was learnt. ``base``: factors of machines; ``deviation`` of the others, added to 1; ``covariance`` of those."""

    num_samples: int = 0
    base: Mapping[str, float] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    deviation: tuple[float, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()
    noise: float = RUN_SPREAD

    def knows(self, parts: Sequence[Part]) -> bool:
        """Whether runs have been seen for the device and phase of every part."""
        return bool(parts) and all(part.machine in self.base for part in parts)

    def estimate(self, parts: Sequence[Part]) -> Estimate:
        """Seconds for parts, of which ``knows`` holds."""
        total = sum(part.seconds * self.factor(part) for part in parts)
        spread = math.sqrt(self._variance(parts, total) + self.noise**2) if total > 0 else self.noise
        range_ = max(_LEAST_RANGE, _RANGE * spread)
        return Estimate(total, total / (1 + range_), total * (1 + range_))

    def factor(self, part: Part) -> float:
        """By how much a part takes longer than was predicted."""
        known = dict(zip(self.names, self.deviation, strict=True))
        deviation = sum(known.get(name, 0.0) for name, _ in part.factors)
        return self.base.get(part.machine, 1.0) * max(_LEAST_FACTOR, 1.0 + deviation)

    def _variance(self, parts: Sequence[Part], total: float) -> float:
        """Of the relative error, from what is not known well yet; factors never seen are as uncertain as at first."""
        place = {name: number for number, name in enumerate(self.names)}
        row = [0.0] * len(self.names)
        unknown: dict[str, tuple[float, float]] = {}
        for part in parts:
            weight = part.seconds * self.base.get(part.machine, 1.0) / total
            for name, spread in part.factors:
                if name in place:
                    row[place[name]] += weight
                else:
                    unknown[name] = (unknown.get(name, (0.0, spread))[0] + weight, spread)
        seen = sum(row[i] * row[j] * self.covariance[i][j] for i in range(len(row)) for j in range(len(row)))
        return max(0.0, seen) + sum((weight * spread) ** 2 for weight, spread in unknown.values())


def fit(samples: Iterable[Sample]) -> Calibration:
    """Learn from runs, of which the last ``MAX_SAMPLES`` count; runs without a time or parts are passed over."""
    usable = [
        sample
        for sample in samples
        if 0 < sample.seconds < math.inf and sample.parts and 0 < sum(part.seconds for part in sample.parts) < math.inf
    ][-MAX_SAMPLES:]
    base = _base(usable)
    rows, spreads = _rows(usable, base)
    names = tuple(spreads)
    weights, deviation = [1.0] * len(rows), [0.0] * len(names)
    covariance: list[list[float]] = []
    for _ in range(_ROUNDS if rows else 0):
        matrix, right = _normal(rows, weights, names, spreads)
        covariance = _inverse(matrix)
        deviation = [sum(value * right[j] for j, value in enumerate(line)) for line in covariance]
        weights = [_weight(_residual(row, offset, names, deviation)) for row, offset in rows]
    residuals = [_residual(row, offset, names, deviation) for row, offset in rows]
    return Calibration(
        len(usable), base, names, tuple(deviation), tuple(map(tuple, covariance)), _noise(residuals) if rows else RUN_SPREAD
    )


def _base(samples: Sequence[Sample]) -> dict[str, float]:
    """For each phase and device the median of measured over predicted, of the runs that it took most of."""
    ratios: dict[str, list[float]] = {}
    others: dict[str, list[float]] = {}
    for sample in samples:
        predicted = sum(part.seconds for part in sample.parts)
        by_machine: dict[str, float] = {}
        for part in sample.parts:
            by_machine[part.machine] = by_machine.get(part.machine, 0.0) + part.seconds
        for name, seconds in by_machine.items():
            target = ratios if seconds * 2 >= predicted else others
            target.setdefault(name, []).append(sample.seconds / predicted)
    return {name: statistics.median(ratios.get(name) or others[name]) for name in (*ratios, *others)}


def _rows(samples: Sequence[Sample], base: Mapping[str, float]) -> tuple[list[tuple[dict[str, float], float]], dict[str, float]]:
    """Of each run, the share of its time that each factor moves, and what is left to explain; and the factors' spreads."""
    rows, spreads = [], {}
    for sample in samples:
        row: dict[str, float] = {}
        expected = sum(part.seconds * base[part.machine] for part in sample.parts)
        # Relative to the larger, so that a run much too fast says no more than one much too slow.
        whole = max(sample.seconds, expected)
        for part in sample.parts:
            share = part.seconds * base[part.machine] / whole
            for name, spread in part.factors:
                spreads[name] = spread
                row[name] = row.get(name, 0.0) + share
        rows.append((row, (sample.seconds - expected) / whole))
    return rows, spreads


def _normal(
    rows: Sequence[tuple[dict[str, float], float]], weights: Sequence[float], names: Sequence[str], spreads: Mapping[str, float]
) -> tuple[list[list[float]], list[float]]:
    place = {name: number for number, name in enumerate(names)}
    matrix = [[0.0] * len(names) for _ in names]
    right = [0.0] * len(names)
    for number, name in enumerate(names):
        matrix[number][number] = 1.0 / spreads[name] ** 2
    for (row, offset), weight in zip(rows, weights, strict=True):
        scale = weight / RUN_SPREAD**2
        for first, share in row.items():
            right[place[first]] += scale * share * offset
            for second, other in row.items():
                matrix[place[first]][place[second]] += scale * share * other
    return matrix, right


def _residual(row: Mapping[str, float], offset: float, names: Sequence[str], deviation: Sequence[float]) -> float:
    known = dict(zip(names, deviation, strict=True))
    return offset - sum(share * known[name] for name, share in row.items())


def _weight(residual: float) -> float:
    """Huber's: full for what is near, less the further off."""
    size = abs(residual) / RUN_SPREAD
    return 1.0 if size <= _OUTLIER else _OUTLIER / size


def _noise(residuals: Sequence[float]) -> float:
    """What runs scatter, by their middle one, as if some runs had already scattered as is believed at first."""
    believed = 4
    found = 1.48 * statistics.median(abs(residual) for residual in residuals)
    return math.sqrt((believed * RUN_SPREAD**2 + len(residuals) * found**2) / (believed + len(residuals)))


def _inverse(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Of a symmetric matrix that is positive, by elimination; no row is exchanged, for none needs to be."""
    size = len(matrix)
    work = [[*line, *(float(i == j) for j in range(size))] for i, line in enumerate(matrix)]
    for i in range(size):
        pivot = work[i][i]
        work[i] = [value / pivot for value in work[i]]
        for j in range(size):
            if j != i and work[j][i]:
                factor = work[j][i]
                work[j] = [value - factor * top for value, top in zip(work[j], work[i], strict=True)]
    return [line[size:] for line in work]
