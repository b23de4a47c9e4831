"""When a model whose engine keeps dying is left alone, and when it is tried again."""

from __future__ import annotations

import pytest

from zhibei.errors import EngineDied, EngineMissing, EngineStartFailed, ModelUnstable, ZhibeiError
from zhibei.runtime.circuit import MAX_CIRCUITS, Circuit, Circuits, is_crash


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuits(clock: Clock) -> Circuits:
    return Circuits(clock)


@pytest.mark.parametrize(
    ("crashes", "is_open"),
    [
        ([], False),
        ([0], False),
        ([0, 1], False),
        ([0, 1, 2], True),
        ([0, 100, 299.9], True),
        ([0, 100, 300], False),
        ([0, 100, 301, 399], True),
        ([0, 200, 400, 600], False),
    ],
)
def test_three_within_five_minutes_open_it(crashes: list[float], is_open: bool) -> None:
    circuit = Circuit()
    for at in crashes:
        circuit = circuit.crashed(at)
    assert (circuit.opened_s is not None) == is_open
    assert circuit.wait_s(crashes[-1] if crashes else 0) == (300 if is_open else 0)


def crash(circuits: Circuits, clock: Clock, num: int = 3) -> list[bool]:
    return [circuits.crashed("m", f"problem {number}") for number in range(num)]


def test_while_it_is_open_nothing_passes_and_the_reason_is_said(circuits: Circuits, clock: Clock) -> None:
    assert crash(circuits, clock) == [False, False, True]
    clock.now_s += 100.5
    with pytest.raises(ModelUnstable) as caught, circuits.passing("m"):
        pytest.fail("it passed")
    assert caught.value.retry_after_s == 200
    assert "problem 2" in str(caught.value) and "3 times" in str(caught.value) and "zhibei stop m" in str(caught.value.hint_text)
    with circuits.passing("other"):
        pass


def test_then_one_tries_and_its_success_closes_it(circuits: Circuits, clock: Clock) -> None:
    crash(circuits, clock)
    clock.now_s += 300
    with circuits.passing("m"):
        assert circuits.is_open("m")
        with pytest.raises(ModelUnstable), circuits.passing("m"):
            pytest.fail("a second one passed")
    assert not circuits.is_open("m")
    assert crash(circuits, clock, 2) == [False, False], "what was is forgotten"


def test_a_crash_of_the_one_that_tries_opens_it_anew(circuits: Circuits, clock: Clock) -> None:
    crash(circuits, clock)
    clock.now_s += 300
    with pytest.raises(EngineDied), circuits.passing("m"):
        clock.now_s += 10
        assert circuits.crashed("m", "again")
        raise EngineDied("It died.")
    clock.now_s += 299
    assert circuits.is_open("m")
    clock.now_s += 1
    assert not circuits.is_open("m")


def test_one_that_tries_and_shows_nothing_leaves_it_to_the_next(circuits: Circuits, clock: Clock) -> None:
    crash(circuits, clock)
    clock.now_s += 300
    with pytest.raises(GeneratorExit), circuits.passing("m"):
        raise GeneratorExit
    assert not circuits.is_open("m")
    with circuits.passing("m"):
        assert circuits.is_open("m"), "it is still only one that may try"


def test_by_hand_it_is_closed_at_once(circuits: Circuits, clock: Clock) -> None:
    crash(circuits, clock)
    circuits.close("m")
    with circuits.passing("m"):
        pass
    circuits.close("never seen")


def test_crashes_of_those_that_passed_before_do_not_open_what_was_closed_by_hand(circuits: Circuits, clock: Clock) -> None:
    with circuits.passing("m"):
        crash(circuits, clock)
        circuits.close("m")
    assert circuits.crashed("m", "once") is False


def test_it_does_not_grow_for_ever(circuits: Circuits) -> None:
    for number in range(MAX_CIRCUITS + 10):
        circuits.crashed(str(number), "x")
    assert len(circuits._circuits) == len(circuits._problems) == MAX_CIRCUITS


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EngineStartFailed("x", code="signal 11"), True),
        (EngineStartFailed("x", code="exit code 1"), True),
        (EngineStartFailed("x", code="unknown architecture"), False),
        (EngineStartFailed("x"), False),
        (EngineMissing("x", code="signal 11"), False),
    ],
)
def test_which_failed_starts_are_crashes(error: ZhibeiError, expected: bool) -> None:
    assert is_crash(error) is expected
