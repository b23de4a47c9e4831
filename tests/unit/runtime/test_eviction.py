"""Which models must stop so that another fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.runtime.eviction import Candidate, Eviction, choose


def idle(key: str, num_bytes: int, used_s: float = 0.0) -> Candidate:
    return Candidate(key, num_bytes, used_s, True)


def busy(key: str, num_bytes: int) -> Candidate:
    return Candidate(key, num_bytes, 0.0, False)


def leaving(key: str, num_bytes: int) -> Candidate:
    return Candidate(key, num_bytes, 0.0, False, leaving=True)


@pytest.mark.parametrize(
    ("need", "free", "places", "running", "expected"),
    [
        (5, 5, None, [], Eviction()),
        (5, None, None, [idle("a", 9)], Eviction()),
        (5, 4, None, [], Eviction(fits=False)),
        (5, 9, None, [idle("a", 9)], Eviction()),
        (5, 4, None, [idle("a", 1)], Eviction(("a",))),
        (5, 4, None, [idle("a", 9, 2.0), idle("b", 9, 1.0)], Eviction(("b",))),
        (5, 0, None, [idle("a", 3, 1.0), idle("b", 3, 2.0), idle("c", 3, 3.0)], Eviction(("a", "b"))),
        (5, 0, None, [idle("small", 1, 1.0), idle("large", 9, 2.0)], Eviction(("large",))),
        (5, 0, None, [busy("a", 9)], Eviction(fits=False, wait=True)),
        (5, 0, None, [busy("a", 4)], Eviction(fits=False)),
        (5, 0, None, [busy("a", 3), idle("b", 2)], Eviction(fits=False, wait=True)),
        (5, 0, None, [busy("a", 2), idle("b", 2)], Eviction(fits=False)),
        (5, 9, 1, [busy("a", 2)], Eviction()),
        (5, 9, 0, [busy("a", 2)], Eviction(fits=False, wait=True)),
        (5, 9, 0, [idle("a", 2)], Eviction(("a",))),
        (5, None, 0, [idle("a", 2, 1.0), idle("b", 2, 0.5)], Eviction(("b",))),
        (5, 0, 0, [idle("a", 1, 1.0), idle("b", 5, 2.0)], Eviction(("b",))),
        (5, 5, None, [leaving("a", 9)], Eviction()),
        (5, 0, None, [leaving("a", 5), idle("b", 9)], Eviction(wait=True)),
        (5, 0, None, [leaving("a", 3), idle("b", 9)], Eviction(("b",), wait=True)),
        (5, 0, None, [leaving("a", 3)], Eviction(fits=False)),
        (5, 0, None, [leaving("a", 3), busy("b", 2)], Eviction(fits=False, wait=True)),
        (5, 9, 0, [leaving("a", 1), idle("b", 9)], Eviction(wait=True)),
    ],
)
def test_table(need: int, free: int | None, places: int | None, running: list[Candidate], expected: Eviction) -> None:
    assert choose(need, free, places, running) == expected


candidates = st.lists(
    st.builds(
        lambda key, num_bytes, used_s, state: Candidate(key, num_bytes, used_s, state == "idle", leaving=state == "leaving"),
        st.uuids().map(str),
        st.integers(0, 20),
        st.floats(0, 100),
        st.sampled_from(["idle", "busy", "leaving"]),
    ),
    max_size=6,
    unique_by=lambda candidate: candidate.key,
)


@given(st.integers(0, 40), st.none() | st.integers(0, 40), st.none() | st.integers(-2, 3), candidates)
def test_only_idle_models_stop_and_none_in_vain(
    need: int, free: int | None, places: int | None, running: list[Candidate]
) -> None:
    found = choose(need, free, places, running)
    stopped = [candidate for candidate in running if candidate.key in found.stop]
    leaving_now = [candidate for candidate in running if candidate.leaving]
    assert all(candidate.idle for candidate in stopped)

    def fits(gone: list[Candidate]) -> bool:
        has_memory = free is None or free + sum(candidate.num_bytes for candidate in gone) >= need
        return has_memory and (places is None or places + len(gone) >= 1)

    assert found.fits == fits([candidate for candidate in running if candidate.idle or candidate.leaving])
    if found.fits:
        assert fits(stopped + leaving_now)
        assert not any(fits([other for other in stopped if other is not candidate] + leaving_now) for candidate in stopped)
        assert fits([]) == (not stopped and not found.wait)
    else:
        assert found.stop == ()
        assert found.wait == fits(running)


@pytest.mark.parametrize(
    ("ages_and_loads", "order"),
    [
        ({"a": (10, 0), "b": (20, 0), "c": (15, 0)}, "bca"),
        ({"a": (10, 0.2), "b": (9, 0.9)}, "ab"),
        ({"a": (59, 60), "b": (2, 2)}, "ba"),
        ({"a": (61, 60), "b": (2, 2)}, "ab"),
        ({"a": (100, 50), "b": (100, 10), "c": (100, 20)}, "bca"),
        ({"a": (40, 20), "b": (20, 10)}, "ab"),
    ],
)
def test_the_stalest_go_first(ages_and_loads: dict[str, tuple[float, float]], order: str) -> None:
    """Idle seconds by load seconds, the latter no less than one; of equals the least recently used."""
    now_s = 1000.0
    running = [Candidate(key, 1, now_s - age, True, load_s=load_s) for key, (age, load_s) in ages_and_loads.items()]
    for num in range(1, len(order) + 1):
        assert choose(num, 0, None, running, now_s=now_s).stop == tuple(order[:num])
