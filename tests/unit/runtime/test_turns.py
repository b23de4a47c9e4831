"""Whose turn it is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.runtime.turns import MAX_REMEMBERED, in_turn, share, with_served


@dataclass(frozen=True)
class One:
    """``a1``: the first of the owner a."""

    text: str
    key: str = "m"

    @property
    def owner(self) -> str:
        return self.text[0]


def order(queue: str, running: dict[str, int] | None = None, served: dict[str, int] | None = None) -> str:
    found = in_turn([One(text) for text in queue.split()], lambda owner, _: (running or {}).get(owner, 0), served or {})
    return " ".join(one.text for one in found)


@pytest.mark.parametrize(
    ("queue", "running", "served", "expected"),
    [
        ("", {}, {}, ""),
        ("a1 a2 a3", {"a": 5}, {"a": 9}, "a1 a2 a3"),
        ("a1 a2 a3 b1", {}, {}, "a1 b1 a2 a3"),
        ("a1 a2 a3 b1", {}, {"a": 1}, "b1 a1 a2 a3"),
        ("a1 a2 b1 b2", {}, {"a": 2, "b": 1}, "b1 a1 b2 a2"),
        ("a1 a2 a3 b1", {"a": 2}, {}, "b1 a1 a2 a3"),
        ("a1 a2 b1 b2 b3", {"b": 1}, {"a": 8, "b": 7}, "a1 b1 a2 b2 b3"),
        ("a1 a2 b1 c1", {}, {"a": 3, "b": 2, "c": 1}, "c1 b1 a1 a2"),
    ],
)
def test_table(queue: str, running: dict[str, int], served: dict[str, int], expected: str) -> None:
    assert order(queue, running, served) == expected


def test_what_runs_on_other_models_does_not_count() -> None:
    queue = [One("a1", "x"), One("b1", "y")]
    found = in_turn(queue, lambda owner, key: 3 if (owner, key) == ("a", "y") else 0, {})
    assert [one.text for one in found] == ["a1", "b1"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), max_size=12), st.data())
def test_nobody_is_lost_and_an_owners_own_stay_in_order(asked: list[tuple[str, str]], data: st.DataObject) -> None:
    queue = [One(f"{owner}{number}", key) for number, (owner, key) in enumerate(asked)]
    running = data.draw(st.dictionaries(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), st.integers(0, 3)))
    served = data.draw(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)))
    found = in_turn(queue, lambda owner, key: running.get((owner, key), 0), served)
    assert sorted(one.text for one in found) == sorted(one.text for one in queue)
    for owner in "abc":
        assert [one for one in found if one.owner == owner] == [one for one in queue if one.owner == owner]


def test_who_was_served_last_is_remembered_and_who_was_not_for_long_is_forgotten() -> None:
    served: dict[str, int] = {}
    for number in range(MAX_REMEMBERED + 3):
        served = with_served(served, f"owner {number}", number)
    assert len(served) == MAX_REMEMBERED
    assert "owner 2" not in served and served[f"owner {MAX_REMEMBERED + 2}"] == MAX_REMEMBERED + 2
    assert len(with_served(served, "owner 3", 10**6)) == MAX_REMEMBERED


@pytest.mark.parametrize(("max_queue", "owner", "expected"), [(128, "", 128), (128, "key", 96), (1, "key", 1), (4, "key", 3)])
def test_share(max_queue: int, owner: str, expected: int) -> None:
    assert share(max_queue, owner) == expected
