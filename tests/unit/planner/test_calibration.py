"""Learning from runs: a machine that is consistent is learnt, one that is not is not believed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.planner.calibration import MAX_SAMPLES, Calibration, Part, Sample, fit

KINDS = (("weights", "Q4_K"), ("weights", "Q8_0"), ("cache", "f16"), ("layers", ""))


def parts(*seconds: float, phase: str = "generation", device: str = "cpu") -> tuple[Part, ...]:
    return tuple(Part(phase, device, what, family, taken) for (what, family), taken in zip(KINDS, seconds, strict=True) if taken)


def took(sample: tuple[Part, ...], factors: tuple[float, ...]) -> float:
    """What the parts take on a machine with these factors for the four kinds."""
    by_kind = dict(zip(KINDS, factors, strict=True))
    return sum(part.seconds * by_kind[part.what, part.family] for part in sample)


def test_nothing_is_known_without_runs() -> None:
    assert fit([]) == Calibration()
    assert not Calibration().knows(parts(1.0, 0, 0, 0))
    assert not fit([Sample(parts(1.0, 0, 0, 0), 2.0)]).knows(parts(1.0, 0, 0, 0, phase="prompt"))
    assert not fit([Sample(parts(1.0, 0, 0, 0), 2.0)]).knows(())


def test_one_run_moves_everything_of_its_phase_and_device() -> None:
    found = fit([Sample(parts(1.0, 0, 0, 0.1), 2.2)])
    for other in (parts(1.0, 0, 0, 0.1), parts(0, 3.0, 0.5, 0.1)):
        assert found.knows(other)
        assert found.estimate(other).seconds == pytest.approx(2 * sum(part.seconds for part in other), rel=0.01)
    assert not found.knows((*parts(1.0, 0, 0, 0.1), *parts(1.0, 0, 0, 0, device="gpu")))


def test_types_are_told_apart_by_runs() -> None:
    four, eight = parts(1.0, 0, 0, 0), parts(0, 1.0, 0, 0)
    found = fit([Sample(four, 1.3), Sample(eight, 0.9)] * 6)
    assert found.estimate(four).seconds == pytest.approx(1.3, rel=0.02)
    assert found.estimate(eight).seconds == pytest.approx(0.9, rel=0.02)


def test_the_range_narrows_and_what_was_never_run_stays_less_certain() -> None:
    known, other = parts(1.0, 0, 0, 0), parts(0, 1.0, 0, 0)
    widths = []
    for count in (1, 2, 4, 16):
        found = fit([Sample(known, 1.5)] * count)
        estimate = found.estimate(known)
        assert estimate.low < estimate.seconds < estimate.high
        widths.append(estimate.high / estimate.low)
        unsure = found.estimate(other)
        assert unsure.high / unsure.low > widths[-1]
    assert widths == sorted(widths, reverse=True) and widths[-1] < widths[0]


@pytest.mark.parametrize("wrong", [0.1, 8.0, 1000.0])
def test_a_run_that_contradicts_the_others_changes_little(wrong: float) -> None:
    made = parts(1.0, 0, 0.2, 0.1)
    found = fit([Sample(made, 1.95), *[Sample(made, 2.6 + number / 50) for number in range(-3, 4)], Sample(made, 2.6 * wrong)])
    assert found.estimate(made).seconds == pytest.approx(2.6, rel=0.08)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_runs_without_a_time_are_passed_over(seconds: float) -> None:
    good = Sample(parts(1.0, 0, 0, 0), 2.0)
    bad = [Sample(parts(1.0, 0, 0, 0), seconds), Sample((), 1.0), Sample(parts(seconds or 0.0, 0, 0, 0), 1.0)]
    assert fit([good, *bad]) == fit([good])


def test_only_the_last_runs_count() -> None:
    made = parts(1.0, 0, 0, 0)
    found = fit([Sample(made, 9.0)] * 50 + [Sample(made, 2.0)] * MAX_SAMPLES)
    assert found.num_samples == MAX_SAMPLES
    assert found.estimate(made).seconds == pytest.approx(2.0, rel=0.01)


factor = st.floats(0.7, 1.4)
amounts = st.tuples(st.floats(0.3, 3), st.floats(0.3, 3), st.floats(0.01, 0.5), st.floats(0.01, 0.3))


@given(st.floats(0.2, 8), st.tuples(factor, factor, factor, factor), st.lists(amounts, min_size=1, max_size=12), amounts)
def test_a_consistent_machine_is_learnt(
    speed: float, factors: tuple[float, ...], runs: list[tuple[float, ...]], asked: tuple[float, ...]
) -> None:
    """However many runs, and whatever they were of: no prediction is further off than its kinds differ among each other."""
    scaled = tuple(speed * value for value in factors)
    found = fit(Sample(parts(*run), took(parts(*run), scaled)) for run in runs)
    truth = took(parts(*asked), scaled)
    worst = max(factors) / min(factors)
    assert 1 / (worst * 1.1) <= found.estimate(parts(*asked)).seconds / truth <= worst * 1.1


@given(st.floats(0.2, 8), st.tuples(factor, factor, factor, factor), st.lists(amounts, min_size=1, max_size=6))
def test_what_was_run_is_predicted_the_better_the_oftener(
    speed: float, factors: tuple[float, ...], runs: list[tuple[float, ...]]
) -> None:
    scaled = tuple(speed * value for value in factors)
    samples = [Sample(parts(*run), took(parts(*run), scaled)) for run in runs]
    often = fit(samples * 8)
    for sample in samples:
        assert often.estimate(sample.parts).seconds == pytest.approx(sample.seconds, rel=0.08)


@given(st.lists(st.tuples(amounts, st.floats(1e-6, 1e6)), max_size=12), amounts)
def test_any_runs_give_finite_positive_estimates(runs: list[tuple[tuple[float, ...], float]], asked: tuple[float, ...]) -> None:
    found = fit(Sample(parts(*run), seconds) for run, seconds in runs)
    estimate = found.estimate(parts(*asked))
    assert 0 < estimate.low < estimate.seconds < estimate.high < math.inf
