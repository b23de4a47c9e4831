"""The limit on what is taken from the line. The clock is the test's own: waiting moves it on."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.store import rate_limit
from zhibei.store.rate_limit import RateLimit


class Clock:
    """Stands in for both modules that the limit uses."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.num_waits = 0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.num_waits += 1
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rate_limit, "time", made)
    monkeypatch.setattr(rate_limit, "asyncio", made)
    return made


async def test_without_a_limit_nobody_waits(clock: Clock) -> None:
    limit = RateLimit(None)
    for _ in range(100):
        await limit.take(1 << 40)
    assert clock.num_waits == 0


async def test_over_time_it_is_kept(clock: Clock) -> None:
    limit = RateLimit(1000)
    for _ in range(50):
        await limit.take(200)
    elapsed_s = clock.now_s - 1000
    assert 50 * 200 / 1000 - 0.25 <= elapsed_s <= 50 * 200 / 1000


async def test_who_takes_little_never_waits(clock: Clock) -> None:
    limit = RateLimit(1000)
    for _ in range(100):
        clock.now_s += 0.1
        await limit.take(90)
    assert clock.num_waits == 0


async def test_what_was_not_taken_is_saved_up_for_a_moment_only(clock: Clock) -> None:
    limit = RateLimit(1000)
    await limit.take(10)
    clock.now_s += 3600
    await limit.take(250)
    assert clock.num_waits == 0
    before_s = clock.now_s
    await limit.take(1000)
    assert clock.now_s - before_s == pytest.approx(1.0)


async def test_one_large_piece_is_made_good(clock: Clock) -> None:
    limit = RateLimit(1000)
    await limit.take(10_000)
    assert clock.now_s - 1000 == pytest.approx(9.75)


async def test_who_share_it_get_together_what_one_would(clock: Clock) -> None:
    limit = RateLimit(1000)

    async def worker() -> None:
        for _ in range(10):
            await limit.take(100)

    for _ in range(4):
        await worker()
    assert clock.now_s - 1000 >= 4 * 10 * 100 / 1000 - 0.25


@given(st.integers(1, 10**9), st.lists(st.integers(0, 10**8), max_size=30))
def test_it_is_never_exceeded_by_more_than_the_burst(bytes_per_s: int, pieces: list[int]) -> None:
    clock = Clock()

    async def take_all() -> None:
        limit, taken = RateLimit(bytes_per_s), 0
        for piece in pieces:
            await limit.take(piece)
            taken += piece
            assert taken <= bytes_per_s * (clock.now_s - 1000 + 0.25) * 1.0001 + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rate_limit, "time", clock)
        patch.setattr(rate_limit, "asyncio", clock)
        asyncio.run(take_all())
