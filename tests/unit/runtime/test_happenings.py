"""Those who watch are told in order, and cannot disturb who tells."""

from __future__ import annotations

import asyncio
from typing import Any

from zhibei.runtime.happenings import Happening, QueueLength, Watchers


async def turn() -> None:
    await asyncio.sleep(0)


async def test_all_are_told_in_order_until_they_leave() -> None:
    watchers, one, two = Watchers(), list[Happening](), list[Happening]()
    end, _ = watchers.add(one.append), watchers.add(two.append)
    watchers.tell(QueueLength(1))
    watchers.tell(QueueLength(2))
    assert one == [], "not while it happens"
    await turn()
    assert one == two == [QueueLength(1), QueueLength(2)]
    watchers.tell(QueueLength(3))
    end()
    end()
    await turn()
    assert len(one) == 2 and len(two) == 3


async def test_one_that_fails_disturbs_neither_the_teller_nor_the_others() -> None:
    watchers, told, problems = Watchers(), list[Happening](), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))

    def fail(happening: Happening) -> None:
        raise RuntimeError("mine")

    watchers.add(fail)
    watchers.add(told.append)
    watchers.tell(QueueLength(1))
    await turn()
    assert told == [QueueLength(1)]
    assert [str(problem["exception"]) for problem in problems] == ["mine"]


async def test_one_that_joins_or_leaves_while_it_is_told() -> None:
    watchers, told = Watchers(), list[Happening]()

    def once(happening: Happening) -> None:
        told.append(happening)
        end()
        watchers.add(told.append)

    end = watchers.add(once)
    watchers.tell(QueueLength(1))
    watchers.tell(QueueLength(2))
    await turn()
    assert told == [QueueLength(1)]
    watchers.tell(QueueLength(3))
    await turn()
    assert told == [QueueLength(1), QueueLength(3)]


def test_nobody_to_tell_needs_no_event_loop() -> None:
    Watchers().tell(QueueLength(1))
