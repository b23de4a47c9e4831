"""When a process that is waited for is taken to hang."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zhibei.engines.liveness import BUSY_SHARE, SILENT_FACTOR, Activity, Liveness

LIMIT_S = 30.0
IDLE = Activity(5.0, 100)


def stalls_at(liveness: Liveness, activities: list[Activity | None]) -> float | None:
    """The first of the checks, one after the other, that finds it hung."""
    for number, activity in enumerate(activities, start=1):
        if liveness.is_stalled(number * liveness.check_every_s, activity):
            return number * liveness.check_every_s
    return None


def test_nothing_at_all_for_the_limit_is_a_stall() -> None:
    assert stalls_at(Liveness(LIMIT_S), [IDLE] * 100) == LIMIT_S
    assert stalls_at(Liveness(LIMIT_S), [None] * 100) == LIMIT_S, "nor where a process cannot be looked into"


def test_what_it_says_puts_the_end_off() -> None:
    liveness = Liveness(LIMIT_S)
    assert stalls_at(liveness, [IDLE] * 9) is None
    liveness.said(27.0)
    found = [second for second in range(30, 70) if liveness.is_stalled(second, IDLE)]
    assert found[0] == 57


def test_one_that_computes_or_reads_is_at_work_but_not_for_ever() -> None:
    computing = [Activity(number * 0.5, 0) for number in range(1, 400)]
    reading = [Activity(0.0, number * 4096) for number in range(1, 400)]
    for activities in (computing, reading):
        assert stalls_at(Liveness(LIMIT_S), list(activities)) == LIMIT_S * SILENT_FACTOR


def test_what_an_idle_server_takes_is_no_work() -> None:
    step = LIMIT_S / 10 * BUSY_SHARE / 2
    assert stalls_at(Liveness(LIMIT_S), [Activity(number * step, 0) for number in range(100)]) == LIMIT_S


def test_whoever_slept_does_not_blame_the_other() -> None:
    liveness = Liveness(LIMIT_S)
    assert not liveness.is_stalled(3.0, IDLE)
    assert not liveness.is_stalled(3000.0, IDLE), "a computer that was closed, a program that was stopped"
    assert not liveness.is_stalled(3003.0, IDLE)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_it_stalls_if_and_only_if_ten_checks_in_a_row_saw_nothing(works: list[bool]) -> None:
    liveness, cpu_s, idle, expected, found = Liveness(LIMIT_S), 0.0, 0, False, False
    liveness.is_stalled(0.0, Activity(0.0, 0))
    for number, is_working in enumerate(works[: SILENT_FACTOR * 10 - 1], start=1):
        cpu_s, idle = cpu_s + is_working, 0 if is_working else idle + 1
        expected = expected or idle >= 10
        found = found or liveness.is_stalled(number * 3.0, Activity(cpu_s, 0))
        if expected:
            break
    assert found == expected
