"""Who is turned away at the door."""

from __future__ import annotations

import asyncio

import pytest

from zhibei.errors import Busy
from zhibei.server.crowd import Crowd


def test_as_many_as_there_are_places_and_no_more() -> None:
    crowd = Crowd(lambda: 2)
    with crowd.request(), crowd.request():
        with pytest.raises(Busy) as refused, crowd.request():
            raise AssertionError("nobody gets in")
        assert refused.value.retry_after_s == 1 and "(2)" in str(refused.value)
    with crowd.request():
        pass


def test_who_failed_has_left() -> None:
    crowd = Crowd(lambda: 1)
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"), crowd.request():
            raise ValueError("inside")
    with crowd.request():
        pass


def test_places_come_and_go() -> None:
    places = [1]
    crowd = Crowd(lambda: places[0])
    with crowd.request():
        places[0] = 2
        with crowd.request():
            places[0] = 1
            with pytest.raises(Busy), crowd.request():
                raise AssertionError("nobody gets in")


async def test_between_two_who_come_in_the_loop_looks_at_everything_else() -> None:
    crowd, seen = Crowd(lambda: 9), []

    async def come(name: str) -> None:
        await crowd.turn()
        seen.append(name)

    async def look() -> None:
        for _ in range(8):
            await asyncio.sleep(0)
            seen.append("-")

    await asyncio.gather(*map(come, "abc"), look())
    assert "-" in seen[seen.index("a") : seen.index("b")] and "-" in seen[seen.index("b") : seen.index("c")]
