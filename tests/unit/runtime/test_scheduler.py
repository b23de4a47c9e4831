"""The scheduler's answers, event by event. ``Desk`` keeps the state between events; its clock stands still unless it is set."""

from __future__ import annotations

import pytest

from zhibei.runtime.scheduler import (
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
    room_bytes,
)


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

    def ask(self, number: int, key: str = "a", *, need: int = 4, keep_alive_s: float | None = 300.0) -> list[str]:
        self.tickets[number] = Ticket(number, key, need, keep_alive_s)
        return self.tell(Requested(self.tickets[number]))

    def started(self, key: str = "a") -> list[str]:
        return self.tell(Started(key, self.slots))

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
