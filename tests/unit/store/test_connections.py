"""How many connections are opened: more while it pays, never more than is allowed. The clock is the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.store.connections import FIRST, ConnectionPlan

MIB = 1 << 20


class Line:
    """A line whose rate follows from how many connections are open, looked at four times a second."""

    def __init__(self, plan: ConnectionPlan, rate: Callable[[int], float]) -> None:
        self.plan = plan
        self.rate = rate
        self.now_s = 100.0
        self.num_bytes = 0.0
        self.seen = [plan.wanted(self.now_s, 0)]

    def run(self, seconds: float) -> list[int]:
        """What was wanted, without repetitions."""
        for _ in range(int(seconds * 4)):
            self.now_s += 0.25
            self.num_bytes += self.rate(self.seen[-1]) / 4
            wanted = self.plan.wanted(self.now_s, int(self.num_bytes))
            if wanted != self.seen[-1]:
                self.seen.append(wanted)
        return self.seen


@pytest.mark.parametrize(("most", "first"), [(1, 1), (2, 2), (FIRST, FIRST), (100, FIRST), (0, 1), (-5, 1)])
def test_it_begins_with_a_few(most: int, first: int) -> None:
    assert ConnectionPlan(most).wanted(5.0, 0) == first


def test_it_grows_to_the_limit_where_each_connection_brings_its_own() -> None:
    assert Line(ConnectionPlan(50), lambda count: count * MIB).run(60) == [4, 8, 16, 32, 50]


def test_it_goes_back_to_what_was_as_fast() -> None:
    line = Line(ConnectionPlan(128), lambda count: min(count, 8) * MIB)
    assert line.run(5) == [4, 8, 16, 8]


def test_it_does_not_judge_before_a_second_is_over() -> None:
    plan = ConnectionPlan(64)
    plan.wanted(0.0, 0)
    assert plan.wanted(0.99, 50 * MIB) == FIRST
    assert plan.wanted(1.0, 50 * MIB) == FIRST * 2


def test_new_connections_that_start_slowly_get_a_second_look() -> None:
    plan, counts = ConnectionPlan(64), []
    for now_s, num_bytes in ((0.0, 0), (1.0, 4), (2.0, 8), (3.0, 16), (4.0, 32)):
        counts.append(plan.wanted(now_s, num_bytes * MIB))
    assert counts == [4, 8, 8, 16, 32]


def test_after_a_rest_it_tries_again() -> None:
    line = Line(ConnectionPlan(128), lambda count: 4 * MIB)
    assert line.run(5) == [4, 8, 4]
    line.run(5)
    assert line.seen == [4, 8, 4]
    line.rate = lambda count: count * MIB
    assert line.run(30)[3:] == [8, 16, 32, 64, 128]


def test_a_line_that_stands_still_is_not_stormed() -> None:
    assert max(Line(ConnectionPlan(128), lambda count: 0.0).run(120)) <= 128


def test_bytes_that_are_taken_back_begin_a_new_window() -> None:
    plan = ConnectionPlan(64)
    plan.wanted(0.0, 100)
    assert plan.wanted(2.0, 50) == FIRST
    assert plan.wanted(2.5, 80) == FIRST
    assert plan.wanted(3.0, 90) == FIRST * 2


def test_the_other_sides_limit_holds_for_good() -> None:
    line = Line(ConnectionPlan(128), lambda count: count * MIB)
    assert line.run(4)[-1] > 6
    line.plan.hold_at(6)
    assert max(line.run(60)[-1:]) == 6
    line.plan.hold_at(20)
    assert line.run(30)[-1] == 6
    line.plan.hold_at(0)
    assert line.run(30)[-1] == 1


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.floats(0, 5), st.integers(-(1 << 20), 1 << 30)), max_size=60),
    st.lists(st.integers(0, 300), max_size=3),
)
def test_whatever_the_line_does_it_stays_between_one_and_the_limit(
    most: int, steps: list[tuple[float, int]], holds: list[int]
) -> None:
    plan, now_s, num_bytes, limit = ConnectionPlan(most), 0.0, 0, most
    for number, (elapsed_s, more) in enumerate(steps):
        now_s, num_bytes = now_s + elapsed_s, max(0, num_bytes + more)
        if number % 20 == 19 and holds:
            held = holds.pop()
            plan.hold_at(held)
            limit = max(1, min(limit, held))
        assert 1 <= plan.wanted(now_s, num_bytes) <= limit
