"""The order in which models were used."""

from __future__ import annotations

from zhibei.runtime.happenings import LoadBegan, LoadFailed, ModelLoaded, ModelUnloaded
from zhibei.runtime.last_used import MAX_NAMES, LastUsed


def test_the_last_that_came_or_left_is_first_and_those_of_before_come_after() -> None:
    used = LastUsed(lambda: ("old", "a"))
    assert used.names() == ("old", "a")
    for happening in (LoadBegan("x"), LoadFailed("x", "?"), ModelLoaded("a", 1.0, 1), ModelLoaded("b", 1.0, 1)):
        used.happened(happening)
    assert used.names() == ("b", "a", "old")
    used.happened(ModelUnloaded("b", "idle"))
    used.happened(ModelUnloaded("a", "idle"))
    assert used.names() == ("a", "b", "old")


def test_only_so_many_are_remembered() -> None:
    used = LastUsed()
    for number in range(MAX_NAMES + 3):
        used.happened(ModelLoaded(str(number), 1.0, 1))
    assert len(used.names()) == MAX_NAMES and used.names()[0] == str(MAX_NAMES + 2)
