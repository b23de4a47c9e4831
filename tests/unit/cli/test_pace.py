"""Rates and times left: what counts as speed, and what is not known."""

from __future__ import annotations

import pytest

from zhibei.cli.pace import Figures, Pace, Tally
from zhibei.events import Progress


def test_the_rate_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    done = 0
    for second in range(30):
        done += 1000 if second < 15 else 10
        pace.note(float(second), done)
    assert pace.rate() == pytest.approx(10)


def test_too_little_time_says_nothing() -> None:
    pace = Pace()
    assert pace.rate() is None
    pace.note(0.0, 0)
    pace.note(0.4, 4000)
    assert pace.rate() is None
    pace.note(0.5, 5000)
    assert pace.rate() == 10_000


def test_many_looks_in_a_short_time_do_not_pile_up() -> None:
    pace = Pace()
    for count in range(100_000):
        pace.note(count / 10_000, count)
    assert pace.rate() == pytest.approx(10_000)
    assert len(pace._samples) < 100


def test_what_was_there_before_does_not_count_as_speed() -> None:
    tally = Tally(3000)
    tally.take(Progress("there", 1000, 1000), 0.0)
    tally.take(Progress("resumed", 500, 2000), 0.0)
    tally.take(Progress("resumed", 1000, 2000), 1.0)
    assert tally.file("resumed") == Figures(1000, 2000, 500.0, 2.0)
    assert tally.whole == Figures(2000, 3000, 500.0, 2.0)


def test_work_that_is_begun_again() -> None:
    tally = Tally(1000)
    tally.take(Progress("file", 0, 1000), 0.0)
    tally.take(Progress("file", 900, 1000), 1.0)
    tally.take(Progress("file", 0, 1000), 2.0)
    assert tally.file("file") == Figures(0, 1000, None, None)
    tally.take(Progress("file", 100, 1000), 3.0)
    assert tally.file("file") == Figures(100, 1000, 100.0, 9.0)
    assert tally.whole == Figures(100, 1000, 100.0, 9.0)


def test_a_stall_has_no_end_in_sight() -> None:
    tally = Tally(1000)
    for second in range(20):
        tally.take(Progress("file", 10, 1000), float(second))
    assert tally.file("file") == Figures(10, 1000, 0.0, None)


def test_the_end() -> None:
    tally = Tally(1000)
    tally.take(Progress("file", 1000, 1000), 0.0)
    assert tally.whole == Figures(1000, 1000, None, 0.0)
    assert tally.whole.is_complete


def test_no_whole_is_told_where_it_is_not_known() -> None:
    unknown = Tally()
    unknown.take(Progress("file", 10, None), 0.0)
    assert unknown.whole is None
    assert unknown.file("file") == Figures(10, None)
    # A package that is unpacked afterwards comes twice, so to speak.
    packed = Tally(1000)
    packed.take(Progress("package", 600, 600), 0.0)
    assert packed.whole == Figures(600, 1000)
    packed.take(Progress("file", 0, 1000), 0.0)
    assert packed.whole is None


def test_whether_there_are_several() -> None:
    tally = Tally(1000)
    tally.take(Progress("file", 0, 1000), 0.0)
    assert not tally.has_several
    tally.take(Progress("other", 0, 3, unit="files"), 0.0)
    assert not tally.has_several
    tally = Tally(1000)
    tally.take(Progress("file", 0, 500), 0.0)
    assert tally.has_several
