"""Which quantisations fit a machine, by size alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zhibei.planner.choose import fitting

GIB = 1 << 30
SIZES = st.lists(st.none() | st.integers(0, 10**13), max_size=20)


def test_weights_leave_room_for_themselves_and_a_context() -> None:
    sizes = [1 * GIB, 4 * GIB, 5 * GIB, 30 * GIB]
    assert fitting(sizes, 6 * GIB) == (0, 1)
    assert fitting(sizes, 34 * GIB) == (0, 1, 2, 3)
    assert fitting(sizes, GIB) == ()


def test_the_border() -> None:
    assert fitting([10 * GIB], 12 * GIB) == (0,)
    assert fitting([10 * GIB], 12 * GIB - 10) == ()
    assert fitting([0], GIB) == (0,)


def test_what_is_not_known_is_no_reason_to_refuse() -> None:
    assert fitting([None, 500 * GIB], 2 * GIB) == (0,)
    assert fitting([None, 500 * GIB], None) == (0, 1)
    assert fitting([], 2 * GIB) == ()


@given(SIZES, st.none() | st.integers(0, 10**14), st.integers(0, 10**13))
def test_more_memory_never_fits_less(sizes: list[int | None], available_bytes: int | None, more_bytes: int) -> None:
    found = fitting(sizes, available_bytes)
    assert list(found) == sorted(set(found)) and all(0 <= index < len(sizes) for index in found)
    assert set(found) <= set(fitting(sizes, None if available_bytes is None else available_bytes + more_bytes))


@given(SIZES, st.integers(0, 10**14))
def test_what_fits_does_not_depend_on_the_others(sizes: list[int | None], available_bytes: int) -> None:
    assert fitting(sizes, available_bytes) == tuple(
        index for index, size in enumerate(sizes) if fitting([size], available_bytes) == (0,)
    )
