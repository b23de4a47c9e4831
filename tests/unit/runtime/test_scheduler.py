"""The scheduler's answers, event by event. ``Desk`` keeps the state between events; its clock stands still unless it is set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from zhibei.runtime.scheduler import (
    MAX_GRACE_S,
    Broken,
    Cancelled,
    Draining,
    Effect,
    Event,
    Model,
    Refuse,
    Released,
    Requested,
    Serve,
    Start,
    StartCramped,
    Started,
    StartFailed,
    State,
    Stop,
    StopAsked,
    Stopped,
    Tick,
    Ticket,
    decide,
    next_expiry_s,
)
from zhibei.runtime.vacancy import room_bytes


def show(effect: Effect) -> str:
    match effect:
        case Serve(ticket):
            return f"serve {ticket.id}"
        case Start(ticket):
            return f"start {ticket.key}"
        case Stop(key):
            return f"stop {key}"
        case Refuse(ticket, reason):
            return f"refuse {ticket.id} {reason}"


class Desk:
    """A scheduler's state and what it has said; memory is known when ``free`` is set."""

    def __init__(self, *, slots: int = 1, max_queue: int = 10, max_models: int = 0, free: int | None = None) -> None:
        self.state = State(max_queue, max_models)
        self.slots, self.free, self.total = slots, free, None
        self.now_s = 100.0
        self.tickets: dict[int, Ticket] = {}

    def tell(self, event: Event) -> list[str]:
        self.state, effects = decide(self.state, event, now_s=self.now_s, free_bytes=self.free, total_bytes=self.total)
        return [show(effect) for effect in effects]

    def ask(self, number: int, key: str = "a", *, need: int = 4, keep_alive_s: float | None = 300.0, **more: Any) -> list[str]:
        self.tickets[number] = Ticket(number, key, need, keep_alive_s, **more)
        return self.tell(Requested(self.tickets[number]))

    def started(self, key: str = "a", load_s: float = 0.0) -> list[str]:
        return self.tell(Started(key, self.slots, load_s))

    def release(self, number: int) -> list[str]:
        return self.tell(Released(number, self.tickets[number].key))

    def waiting(self) -> list[int]:
        return [ticket.id for ticket in self.state.queue]

    def run(self, number: int, key: str, **how: object) -> None:
        """A model that is loaded and answers a request."""
        self.ask(number, key, **how)  # type: ignore[arg-type]
        self.started(key)
        assert number in self.state.models[key].leases


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_first_request_starts_its_model_and_is_served_when_it_is_ready(desk: Desk) -> None:
    assert desk.ask(1) == ["start a"]
    assert desk.started() == ["serve 1"]
    assert desk.release(1) == []


def test_a_ready_model_serves_at_once(desk: Desk) -> None:
    desk.run(1, "a")
    desk.release(1)
    assert desk.ask(2) == ["serve 2"]


def test_requests_wait_while_their_model_starts() -> None:
    desk = Desk(slots=2)
    assert desk.ask(1) == ["start a"]
    assert desk.ask(2) == []
    assert desk.ask(3) == []
    assert desk.started() == ["serve 1", "serve 2"]
    assert desk.waiting() == [3]


def test_a_released_slot_goes_to_the_first_that_waits(desk: Desk) -> None:
    desk.run(1, "a")
    assert [desk.ask(2), desk.ask(3)] == [[], []]
    assert desk.release(1) == ["serve 2"]
    assert desk.release(2) == ["serve 3"]
    assert desk.release(3) == []


def test_requests_for_other_models_do_not_wait_for_a_full_one() -> None:
    desk = Desk()
    desk.run(1, "a")
    desk.ask(2, "a")
    assert desk.ask(3, "b") == ["start b"]
    assert desk.started("b") == ["serve 3"]
    assert desk.waiting() == [2]


def test_two_models_start_at_the_same_time_where_memory_allows() -> None:
    desk = Desk(free=8)
    assert desk.ask(1, "a") == ["start a"]
    assert desk.ask(2, "b") == ["start b"]


def test_what_a_starting_model_will_take_is_not_given_away() -> None:
    desk = Desk(free=7)
    assert desk.ask(1, "a") == ["start a"]
    assert desk.ask(2, "b") == [], "it waits: three bytes are left beside the starting one"
    desk.free = 3
    assert desk.started("a") == ["serve 1"]
    assert desk.release(1) == ["stop a"]
    desk.free = 7
    assert desk.tell(Stopped("a")) == ["start b"]


def test_the_weights_of_running_models_are_not_free_though_the_system_says_so() -> None:
    desk = Desk(free=10)
    desk.total = 10
    desk.run(1, "a", need=6)
    assert desk.ask(2, "b", need=6) == [], "ten are free, as far as mapped files count as free; but a holds six of them"
    assert desk.release(1) == ["stop a"]
    assert desk.tell(Stopped("a")) == ["start b"]


def test_memory_is_made_by_the_least_recently_used_idle_model() -> None:
    desk = Desk(free=9)
    for number, key in enumerate("abc", 1):
        desk.now_s += 1
        desk.run(number, key, need=3)
    for number in (3, 1, 2):
        desk.now_s += 1
        desk.release(number)
    desk.free = 0
    assert desk.ask(4, "d", need=3) == ["stop c"]
    assert desk.ask(5, "e", need=3) == [], "it waits behind the one that waits for memory"
    assert desk.tell(Tick()) == [], "what comes free when c is gone is enough for d"
    desk.free = 3
    assert desk.tell(Stopped("c")) == ["start d", "stop a"]
    assert desk.tell(Tick()) == []


def test_a_busy_model_is_never_stopped_for_another() -> None:
    desk = Desk(free=4)
    desk.run(1, "a")
    desk.free = 0
    assert desk.ask(2, "b") == []
    assert desk.tell(Tick()) == []
    assert desk.waiting() == [2]
    assert desk.release(1) == ["stop a"]
    desk.free = 4
    assert desk.tell(Stopped("a")) == ["start b"]
    assert desk.started("b") == ["serve 2"]


def test_one_that_waits_for_memory_holds_back_all_later_ones() -> None:
    desk = Desk(slots=4, free=4)
    desk.run(1, "a")
    desk.free = 0
    assert desk.ask(2, "b") == []
    assert desk.ask(3, "a") == [], "a has a free slot, but a steady stream of requests for it would starve b"
    assert desk.release(1) == ["stop a"]
    desk.free = 4
    assert desk.tell(Stopped("a")) == ["start b"]
    desk.free = 0
    assert desk.started("b") == ["serve 2"]
    assert desk.release(2) == ["stop b"]
    desk.free = 4
    assert desk.tell(Stopped("b")) == ["start a"]
    assert desk.started("a") == ["serve 3"]


def test_earlier_ones_are_not_held_back() -> None:
    desk = Desk(slots=1, free=4)
    desk.run(1, "a")
    desk.ask(2, "a")
    desk.free = 0
    assert desk.ask(3, "b") == []
    assert desk.release(1) == ["serve 2"]
    assert desk.release(2) == ["stop a"]


def test_when_the_one_that_held_them_back_leaves_the_others_go_on() -> None:
    desk = Desk(slots=4, free=4)
    desk.run(1, "a")
    desk.free = 0
    desk.ask(2, "b")
    desk.ask(3, "a")
    assert desk.tell(Cancelled(2)) == ["serve 3"]


@pytest.mark.parametrize("running", ["", "idle", "busy"])
def test_what_can_never_fit_is_refused(running: str) -> None:
    desk = Desk(free=4)
    if running:
        desk.run(1, "a")
        desk.free = 0
    if running == "idle":
        desk.release(1)
    assert desk.ask(2, "b", need=5) == ["refuse 2 no_memory"]
    assert desk.waiting() == []


def test_a_refused_one_does_not_hold_back_those_behind_it() -> None:
    desk = Desk(free=8)
    desk.run(1, "a", need=8)
    desk.free = 0
    desk.ask(2, "b", need=8)
    desk.ask(3, "c", need=2)
    assert desk.release(1) == ["stop a"]
    desk.free = 6
    assert desk.tell(Stopped("a")) == ["refuse 2 no_memory", "start c"]


def test_unknown_memory_decides_nothing() -> None:
    desk = Desk(free=None)
    assert desk.ask(1, "a", need=10**15) == ["start a"]


def test_a_full_queue_refuses() -> None:
    desk = Desk(max_queue=2)
    desk.run(1, "a")
    assert [desk.ask(2), desk.ask(3), desk.ask(4)] == [[], [], ["refuse 4 queue_full"]]
    assert desk.release(1) == ["serve 2"]
    assert desk.ask(5) == []
    assert desk.ask(6) == ["refuse 6 queue_full"]


def test_a_full_queue_does_not_keep_others_from_a_free_slot() -> None:
    desk = Desk(max_queue=1)
    desk.run(1, "b")
    desk.release(1)
    desk.run(2, "a")
    desk.ask(3, "a")
    assert desk.ask(4, "b") == ["serve 4"]


def test_a_full_queue_stays_full_while_one_waits_for_memory() -> None:
    """A free slot is of no use to a request that is held back: it would wait in a queue that has no place."""
    desk = Desk(slots=2, max_queue=1, free=4)
    desk.run(1, "a")
    desk.free = 0
    desk.ask(2, "b")
    for number in range(3, 6):
        assert desk.ask(number, "a") == [f"refuse {number} queue_full"]
    assert desk.waiting() == [2]


def test_a_model_that_is_not_kept_stops_at_release(desk: Desk) -> None:
    desk.ask(1, keep_alive_s=0)
    desk.started()
    assert desk.release(1) == ["stop a"]


def test_unless_somebody_waits_for_it(desk: Desk) -> None:
    desk.ask(1, keep_alive_s=0)
    desk.started()
    desk.ask(2, keep_alive_s=0)
    assert desk.release(1) == ["serve 2"]
    assert desk.release(2) == ["stop a"]


def test_a_request_for_a_stopping_model_starts_it_again(desk: Desk) -> None:
    desk.ask(1, keep_alive_s=0)
    desk.started()
    desk.release(1)
    assert desk.ask(2) == []
    assert desk.tell(Stopped("a")) == ["start a"]
    assert desk.started() == ["serve 2"]


def test_an_idle_model_stops_when_its_time_is_over(desk: Desk) -> None:
    desk.ask(1, keep_alive_s=60)
    desk.started()
    assert next_expiry_s(desk.state) is None, "it is used"
    desk.now_s = 200.0
    desk.release(1)
    assert next_expiry_s(desk.state) == 260.0
    desk.now_s = 259.9
    assert desk.tell(Tick()) == []
    desk.now_s = 260.0
    assert desk.tell(Tick()) == ["stop a"]
    assert next_expiry_s(desk.state) is None


def test_use_prolongs_its_stay(desk: Desk) -> None:
    desk.run(1, "a", keep_alive_s=60)
    desk.release(1)
    desk.now_s += 59
    desk.ask(2, keep_alive_s=60)
    desk.now_s += 59
    assert desk.tell(Tick()) == []
    desk.release(2)
    assert next_expiry_s(desk.state) == desk.now_s + 60


def test_the_last_request_says_how_long_it_is_kept(desk: Desk) -> None:
    desk.run(1, "a", keep_alive_s=None)
    desk.release(1)
    assert next_expiry_s(desk.state) is None
    desk.ask(2, keep_alive_s=5)
    desk.release(2)
    assert next_expiry_s(desk.state) == desk.now_s + 5


def test_forever_never_expires(desk: Desk) -> None:
    desk.run(1, "a", keep_alive_s=None)
    desk.release(1)
    desk.now_s = 1e12
    assert desk.tell(Tick()) == []


def test_a_model_that_nobody_waited_for_expires_too(desk: Desk) -> None:
    desk.ask(1, keep_alive_s=60)
    desk.tell(Cancelled(1))
    assert desk.started() == []
    assert next_expiry_s(desk.state) == desk.now_s + 60


def test_one_that_is_not_kept_and_not_wanted_any_more_stops_as_soon_as_it_is_ready(desk: Desk) -> None:
    desk.ask(1, keep_alive_s=0)
    desk.tell(Cancelled(1))
    assert desk.started() == ["stop a"]


def test_stopping_an_idle_model(desk: Desk) -> None:
    desk.run(1, "a", keep_alive_s=None)
    desk.release(1)
    assert desk.tell(StopAsked("a")) == ["stop a"]
    assert desk.tell(StopAsked("a")) == [], "once is enough"
    assert desk.tell(Stopped("a")) == []
    assert desk.state.models == {}


def test_stopping_a_busy_model_waits_for_its_requests_and_then_serves_the_next_with_a_new_one() -> None:
    desk = Desk(slots=2)
    desk.run(1, "a")
    desk.ask(2)
    assert desk.tell(StopAsked("a")) == []
    assert desk.ask(3) == [], "a doomed model takes nothing new, though a slot is free"
    assert desk.release(1) == []
    assert desk.release(2) == ["stop a"]
    assert desk.tell(Stopped("a")) == ["start a"]
    assert desk.started() == ["serve 3"]
    assert not desk.state.models["a"].doomed


def test_stopping_a_starting_model_stops_it_when_it_is_ready(desk: Desk) -> None:
    desk.ask(1)
    assert desk.tell(StopAsked("a")) == []
    assert desk.started() == ["stop a"]
    assert desk.tell(Stopped("a")) == ["start a"]
    assert desk.started() == ["serve 1"]


def test_stopping_what_does_not_run_is_nothing(desk: Desk) -> None:
    assert desk.tell(StopAsked("a")) == []


def test_a_failed_start_refuses_those_who_wait_for_it_and_nobody_else() -> None:
    desk = Desk(free=4)
    desk.ask(1, "a")
    desk.ask(2, "a")
    desk.ask(3, "b")
    assert desk.tell(StartFailed("a")) == ["refuse 1 start_failed", "refuse 2 start_failed", "start b"]
    assert desk.ask(4, "a", need=1) == [], "what b takes is not there yet, but will be"


def test_after_a_failed_start_the_next_request_tries_again(desk: Desk) -> None:
    desk.ask(1)
    desk.tell(StartFailed("a"))
    assert desk.ask(2) == ["start a"]
    assert desk.started() == ["serve 2"]


def test_one_that_leaves_the_queue_is_forgotten(desk: Desk) -> None:
    desk.run(1, "a")
    desk.ask(2)
    desk.ask(3)
    assert desk.tell(Cancelled(2)) == []
    assert desk.release(1) == ["serve 3"]
    assert desk.tell(Cancelled(2)) == []


def test_a_release_counts_once_and_only_for_who_holds_a_lease(desk: Desk) -> None:
    desk.run(1, "a", keep_alive_s=60)
    desk.ask(2)
    desk.tickets[9] = Ticket(9, "a", 1, None)
    assert desk.release(9) == []
    assert desk.release(1) == ["serve 2"]
    assert desk.release(1) == []
    desk.release(2)
    before = next_expiry_s(desk.state)
    desk.now_s += 10
    desk.release(2)
    assert next_expiry_s(desk.state) == before
    assert desk.tell(Released(2, "gone")) == []


def test_draining_refuses_what_waits_and_what_comes_but_not_what_runs(desk: Desk) -> None:
    desk.run(1, "a")
    desk.ask(2)
    desk.ask(3, "b")
    assert desk.tell(Draining()) == ["refuse 2 draining"] or desk.waiting() == []
    assert desk.ask(4) == ["refuse 4 draining"]
    assert desk.started("b") == []
    assert desk.release(1) == []
    assert desk.ask(5) == ["refuse 5 draining"]


def test_no_more_models_than_allowed() -> None:
    desk = Desk(max_models=2)
    desk.run(1, "a")
    desk.run(2, "b")
    assert desk.ask(3, "c") == []
    assert desk.ask(4, "a") == []
    assert desk.release(2) == ["stop b"]
    assert desk.tell(Stopped("b")) == ["start c"]
    assert desk.waiting() == [3, 4]


def test_one_model_at_a_time() -> None:
    desk = Desk(max_models=1)
    desk.run(1, "a")
    desk.release(1)
    assert desk.ask(2, "b") == ["stop a"]
    assert desk.ask(3, "a") == []
    assert desk.tell(Stopped("a")) == ["start b"]
    assert desk.started("b") == ["serve 2"]
    assert desk.release(2) == ["stop b"]
    assert desk.tell(Stopped("b")) == ["start a"]
    assert desk.started("a") == ["serve 3"]


def test_memory_that_did_not_come_free_as_planned() -> None:
    """Another program took it: after the stop there is still too little, and nothing more to stop."""
    desk = Desk(free=4)
    desk.run(1, "a")
    desk.release(1)
    desk.free = 0
    assert desk.ask(2, "b") == ["stop a"]
    desk.free = 3
    assert desk.tell(Stopped("a")) == ["refuse 2 no_memory"]


def test_decide_does_not_change_what_it_was_given(desk: Desk) -> None:
    desk.run(1, "a")
    desk.ask(2)
    before = desk.state
    models, queue = dict(before.models), before.queue
    desk.release(1)
    assert (dict(before.models), before.queue) == (models, queue)


@pytest.mark.parametrize(
    ("free", "total", "phases", "room"),
    [
        (None, 10, ["ready"], None),
        (5, None, [], 5),
        (5, None, ["ready", "stopping"], 5),
        (5, None, ["starting"], 1),
        (3, None, ["starting"], 0),
        (10, 10, ["ready"], 6),
        (5, 10, ["ready"], 5),
        (10, 10, ["ready", "starting"], 2),
        (10, 7, ["ready", "starting"], 0),
    ],
)
def test_room(free: int | None, total: int | None, phases: list[str], room: int | None) -> None:
    models = [Model(str(number), phase, 4) for number, phase in enumerate(phases)]  # type: ignore[arg-type]
    assert room_bytes(models, free, total) == room


# Making room: what a load costs, what is pinned, what was measured


def test_what_takes_long_to_load_stays_longer() -> None:
    desk = Desk(free=8)
    for number, (key, load_s) in enumerate({"slow": 60.0, "quick": 2.0}.items(), 1):
        desk.ask(number, key)
        desk.started(key, load_s)
    desk.release(1)
    desk.now_s += 10
    desk.release(2)
    desk.free = 0
    desk.now_s += 1
    assert desk.ask(3, "c") == ["stop quick"], "slow was idle for 11 of its 60 seconds, quick for 1 of its 2"


def test_a_pinned_model_neither_makes_room_nor_expires() -> None:
    desk = Desk(free=8)
    desk.run(1, "a", pinned=True, keep_alive_s=0)
    assert desk.release(1) == []
    assert next_expiry_s(desk.state) is None
    desk.run(2, "b")
    desk.free = 0
    assert desk.ask(3, "c") == [], "it waits for b"
    assert desk.release(2) == ["stop b"]
    desk.free = 4
    assert desk.tell(Stopped("b")) == ["start c"]
    desk.free = 0
    assert desk.ask(4, "d", need=8) == ["refuse 4 no_memory"], "more than c will ever leave"
    assert desk.tell(StopAsked("a")) == ["stop a"], "by hand it goes"


def test_nobody_waits_for_a_pinned_model_to_leave() -> None:
    desk = Desk(free=4)
    desk.run(1, "a", pinned=True)
    desk.free = 0
    assert desk.ask(2, "b") == ["refuse 2 no_memory"]


def test_places_that_pinned_models_hold_are_named() -> None:
    desk = Desk(max_models=1)
    desk.run(1, "a", pinned=True)
    assert desk.ask(2, "b") == ["refuse 2 no_place"]
    desk = Desk(max_models=1)
    desk.run(1, "a")
    assert desk.ask(2, "b") == [], "this one will leave"


def test_a_cramped_start_leaves_pinned_models_alone() -> None:
    desk = Desk(free=12)
    desk.run(1, "a", pinned=True)
    desk.run(2, "b")
    assert desk.release(1) + desk.release(2) == []
    assert desk.ask(3, "c") == ["start c"]
    assert desk.tell(StartCramped("c")) == ["stop b"]


def test_a_model_counts_for_what_it_was_seen_to_take_where_that_is_more() -> None:
    state = State(10, models={"a": Model("a", "ready", 4, 1)})
    ticket = Ticket(1, "b", 5, None)
    for measured, expected in ((3, [Start]), (5, [Start]), (6, [Stop])):
        found, effects = decide(
            state, Requested(ticket), now_s=1.0, free_bytes=10, total_bytes=10, measured_bytes={"a": measured, "gone": 9}
        )
        assert [type(effect) for effect in effects] == expected
        assert found.models["a"].held_bytes == max(4, measured)


def test_what_takes_nothing_here_neither_waits_nor_makes_room_nor_counts() -> None:
    desk = Desk(slots=2, max_models=1, free=4)
    desk.run(1, "far", need=0, keep_alive_s=60)
    desk.release(1)
    desk.run(2, "a")
    desk.free = 0
    assert desk.ask(3, "b") == [], "it waits for a; far frees nothing"
    assert desk.ask(4, "far", need=0) == ["serve 4"], "it is not held back"
    assert desk.ask(5, "farther", need=0) == ["start farther"]
    assert desk.release(2) == ["stop a"]
    desk.free = 4
    assert desk.tell(Stopped("a")) == ["start b"]
    desk.release(4)
    desk.now_s += 1000
    assert desk.tell(Tick()) == ["stop far"], "idle ones still go when their time is over"


def test_what_takes_nothing_here_is_not_measured() -> None:
    state = State(10, models={"far": Model("far", "ready", 0, 1)})
    found, _ = decide(state, Tick(), now_s=1.0, free_bytes=1, measured_bytes={"far": 99})
    assert found.models["far"].held_bytes == 0


# Owners


def test_who_floods_does_not_starve_another() -> None:
    """The second owner waits for the request that runs, and for no other."""
    desk = Desk(max_queue=100)
    desk.run(1, "a", owner="flood")
    for number in range(2, 60):
        desk.ask(number, "a", owner="flood")
    desk.ask(60, "a", owner="other")
    assert desk.release(1) == ["serve 60"]
    desk.ask(61, "a", owner="other")
    assert desk.release(60) == ["serve 2"], "and now it is the turn of the first again"
    assert desk.release(2) == ["serve 61"]


def test_slots_are_shared_by_owners() -> None:
    desk = Desk(slots=2)
    for number in (1, 2, 3, 4):
        desk.ask(number, "a", owner="flood")
    desk.started("a")
    desk.ask(5, "a", owner="other")
    desk.ask(6, "a", owner="other")
    assert desk.release(1) == ["serve 5"]
    assert desk.release(2) == ["serve 3"], "other holds one of the two"
    assert desk.release(5) == ["serve 6"]


def test_one_who_waits_for_memory_is_not_starved_by_many_others() -> None:
    desk = Desk(slots=2, free=4)
    desk.run(1, "a", owner="x")
    desk.free = 0
    assert desk.ask(2, "b", owner="slow") == []
    desk.ask(3, "a", owner="y")
    desk.ask(4, "a", owner="z")
    assert desk.release(1) == ["stop a"], "y and z are held back, though a has a free slot"
    desk.free = 4
    assert desk.tell(Stopped("a")) == ["start b"]
    desk.free = 0
    assert desk.started("b") == ["serve 2"]


def test_no_owner_fills_the_queue_alone() -> None:
    desk = Desk(max_queue=8)
    desk.run(1, "a", owner="flood")
    answers = [desk.ask(number, "a", owner="flood") for number in range(2, 10)]
    assert answers == [[]] * 6 + [["refuse 8 share_full"], ["refuse 9 share_full"]]
    assert desk.ask(10, "a", owner="other") == []
    assert desk.ask(11, "a", owner="third") == []
    assert desk.ask(12, "a", owner="fourth") == ["refuse 12 queue_full"]


def test_a_full_share_does_not_keep_its_owner_from_a_free_slot() -> None:
    desk = Desk(max_queue=4)
    desk.run(1, "b", owner="x")
    desk.release(1)
    desk.run(2, "a", owner="x")
    for number in (3, 4, 5):
        desk.ask(number, "a", owner="x")
    assert desk.ask(6, "a", owner="x") == ["refuse 6 share_full"]
    assert desk.ask(7, "b", owner="x") == ["serve 7"]


# Deadlines and broken engines


def test_who_waited_too_long_is_turned_away_and_never_served() -> None:
    desk = Desk()
    desk.run(1, "a")
    desk.ask(2, "a", deadline_s=150.0)
    desk.ask(3, "a", deadline_s=160.0)
    assert next_expiry_s(desk.state) == 150.0
    desk.now_s = 149.9
    assert desk.tell(Tick()) == []
    desk.now_s = 150.0
    assert desk.tell(Tick()) == ["refuse 2 too_late"]
    assert next_expiry_s(desk.state) == 160.0
    desk.now_s = 170.0
    assert desk.release(1) == ["refuse 3 too_late"], "though the slot is free in this moment"
    assert desk.waiting() == []


def test_one_that_is_served_has_no_deadline_any_more() -> None:
    desk = Desk()
    desk.ask(1, "a", deadline_s=150.0)
    desk.started()
    desk.now_s = 1000.0
    assert desk.tell(Tick()) == []
    assert 1 in desk.state.models["a"].leases


def test_nobody_waits_for_a_broken_engine_and_it_stops_when_it_is_idle() -> None:
    desk = Desk()
    desk.run(1, "a", pinned=True)
    desk.ask(2, "a")
    desk.run(3, "b")
    assert desk.tell(Broken("a")) == ["refuse 2 unstable"]
    assert desk.release(1) == ["stop a"]
    assert desk.tell(Broken("gone")) == []


def test_why_a_model_stops() -> None:
    def why(event: Event, **changes: Any) -> str:
        model = Model("a", "ready", 4, 1, last_used_s=1.0, keep_alive_s=60.0)
        _, (effect,) = decide(State(9, 1, {"a": model}), event, now_s=changes.pop("now_s", 2.0), free_bytes=9)
        assert isinstance(effect, Stop)
        return effect.why

    assert why(Tick(), now_s=61.0) == "idle"
    assert why(StopAsked("a")) == "asked"
    assert why(Requested(Ticket(1, "b", 1, None))) == "evicted"


def test_a_load_is_not_in_vain() -> None:
    """Somebody whose turn it is before those it was loaded for does not have it unloaded before it has served them."""
    desk = Desk(max_models=1)
    desk.run(1, "a", owner="x")
    desk.ask(2, "b", owner="y")
    assert desk.release(1) == ["stop a"]
    assert desk.tell(Stopped("a")) == ["start b"]
    # One who was never served comes first in turn.
    desk.state = replace(desk.state, last_served={**desk.state.last_served, "y": 9})
    assert desk.ask(3, "c", owner="z") == []
    assert desk.started("b") == ["serve 2"]
    assert desk.release(2) == ["stop b"]
    assert desk.tell(Stopped("b")) == ["start c"]


def test_all_who_waited_for_a_load_are_served_before_the_next_one() -> None:
    desk = Desk(max_models=1)
    desk.run(1, "a", owner="x")
    for number in (2, 4):
        desk.ask(number, "b", owner="y")
        desk.ask(number + 1, "a", owner="x")
    assert desk.release(1) == ["stop a"]
    assert desk.tell(Stopped("a")) == ["start b"]
    assert desk.started("b") == ["serve 2"]
    # Who comes after it was loaded waits behind those who need the memory: nobody can keep a model for ever.
    desk.ask(6, "b", owner="y")
    assert desk.release(2) == ["serve 4"]
    assert desk.release(4) == ["stop b"]
    assert desk.tell(Stopped("b")) == ["start a"]
    assert desk.started("a") == ["serve 3"]
    assert desk.release(3) == ["serve 5"]
    assert desk.release(5) == ["stop a"]
    assert desk.waiting() == [6]


# Two models in turn with room for one


def contended(*, slots: int = 1, load_s: float = 5.0, **how: Any) -> Desk:
    """``a`` answers 1, and 2 has just begun to wait for its memory."""
    desk = Desk(slots=slots, max_models=1, **how)
    desk.ask(1, "a", owner="x")
    desk.started("a", load_s)
    assert desk.ask(2, "b", owner="y") == []
    return desk


def test_one_that_comes_soon_after_is_served_before_its_model_leaves() -> None:
    desk = contended()
    desk.now_s += 4.0
    assert desk.ask(3, "a", owner="x") == []
    assert desk.release(1) == ["serve 3"], "else its model would have to be loaded again for it"
    assert desk.release(3) == ["stop a"]
    assert desk.tell(Stopped("a")) == ["start b"]


def test_a_free_slot_is_used_even_where_the_queue_is_full() -> None:
    desk = contended(slots=2, max_queue=1)
    assert desk.ask(3, "a", owner="x") == ["serve 3"]
    assert desk.ask(4, "a", owner="x") == ["refuse 4 queue_full"]


@pytest.mark.parametrize(("load_s", "wait_s"), [(5.0, 5.0), (600.0, MAX_GRACE_S), (0.0, 0.0)])
def test_one_that_comes_later_is_held_back(load_s: float, wait_s: float) -> None:
    desk = contended(load_s=load_s)
    desk.now_s += wait_s
    assert desk.ask(3, "a", owner="x") == []
    assert desk.release(1) == ["stop a"]


def test_no_more_than_one_for_each_slot_may_go_before() -> None:
    desk = contended(slots=2)
    assert desk.ask(3, "a") == ["serve 3"]
    for number in (4, 5, 6):
        assert desk.ask(number, "a") == []
    assert desk.release(1) == ["serve 4"]
    assert desk.release(3) == ["serve 5"]
    assert desk.release(4) == []
    assert desk.release(5) == ["stop a"]
    assert desk.waiting() == [2, 6]


def test_a_steady_stream_holds_a_model_no_longer_than_the_grace_and_a_round() -> None:
    desk = contended(slots=1, load_s=3.0, max_queue=100)
    running, number, served = 1, 2, []
    for _ in range(20):
        number += 1
        desk.now_s += 1.0
        assert desk.ask(number, "a", owner="x") == []
        said = desk.release(running)
        if said == ["stop a"]:
            break
        running = int(said[0].removeprefix("serve "))
        served.append(running)
    assert served == [3, 4], "those that came in the first three seconds"


def test_when_nobody_waits_for_memory_any_more_the_grace_begins_anew() -> None:
    desk = contended()
    desk.now_s += 50.0
    desk.tell(Cancelled(2))
    assert desk.state.wanted_since_s is None
    desk.ask(3, "b", owner="y")
    assert desk.state.wanted_since_s == desk.now_s
    assert desk.ask(4, "a", owner="x") == []
    assert desk.release(1) == ["serve 4"]
