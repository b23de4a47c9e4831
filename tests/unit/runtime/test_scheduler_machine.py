"""The scheduler under any order of events, with a tiny simulated pool that performs its effects and checks each one."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zhibei.runtime.scheduler import (
    Broken,
    Cancelled,
    Draining,
    Event,
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
)
from zhibei.runtime.turns import share

# The last one takes nothing here; p is pinned.
NEEDS = {"a": 3, "b": 3, "c": 5, "d": 8, "e": 20, "p": 3, "far": 0}
PINNED = {"p"}
OWNERS = ["", "x", "y"]
WAIT_S = 30.0


class SimulatedPool(RuleBasedStateMachine):
    """``total`` units of memory, of which other programs hold ``foreign``; a model holds its own from its start to its stop."""

    @initialize(
        total=st.sampled_from([8, 8, 16]),
        max_queue=st.integers(1, 4),
        max_models=st.integers(0, 2),
        slots=st.integers(1, 3),
        knows_memory=st.sampled_from([True, True, False]),
        maps_files=st.booleans(),
    )
    def begin(self, total: int, max_queue: int, max_models: int, slots: int, knows_memory: bool, maps_files: bool) -> None:
        self.state = State(max_queue, max_models)
        self.total, self.slots, self.knows_memory, self.maps_files = total, slots, knows_memory, maps_files
        self.foreign = 0
        self.foreign_grew = False
        self.now_s = 0.0
        self.num_tickets = 0
        self.draining = False
        self.waiting: dict[int, Ticket] = {}
        self.served: dict[int, Ticket] = {}
        self.starting: set[str] = set()
        self.ready: set[str] = set()
        self.stopping: set[str] = set()
        self.measured: dict[str, int] = {}

    def free_bytes(self) -> int | None:
        if not self.knows_memory:
            return None
        # A system that maps model files reports them as free.
        held = 0 if self.maps_files else sum(self.held_bytes(key) for key in self.ready | self.stopping)
        return max(0, self.total - self.foreign - held)

    def tell(self, event: Event) -> None:
        total = self.total if self.knows_memory else None
        measured = self.measured if self.knows_memory else {}
        self.state, effects = decide(
            self.state, event, now_s=self.now_s, free_bytes=self.free_bytes(), total_bytes=total, measured_bytes=measured
        )
        owners_served: set[str] = set()
        for effect in effects:
            match effect:
                case Serve(ticket):
                    assert self.waiting.pop(ticket.id) is ticket, "served once, and only who waits"
                    assert ticket.deadline_s is None or ticket.deadline_s > self.now_s, "never too late"
                    self.check_turn(ticket, owners_served)
                    owners_served.add(ticket.owner)
                    assert ticket.key in self.ready, "by a model that is ready"
                    self.served[ticket.id] = ticket
                    assert len(self.leases(ticket.key)) <= self.slots
                case Start(ticket):
                    assert ticket.id in self.waiting and not self.draining
                    assert ticket.key not in self.starting | self.ready | self.stopping, "one start at a time, none beside a stop"
                    self.starting.add(ticket.key)
                    if self.knows_memory and not self.foreign_grew:
                        held = sum(self.held_bytes(key) for key in self.all_models())
                        assert held + self.foreign <= self.total or NEEDS[ticket.key] == 0, "never more than there is"
                case Stop(key, why):
                    assert key not in PINNED or why == "asked", "a pinned model goes by hand alone"
                    assert NEEDS[key] or why != "evicted", "what takes nothing makes no room"
                    assert key in self.ready and not self.leases(key), "only idle models are stopped"
                    self.ready.remove(key)
                    self.stopping.add(key)
                case Refuse(ticket, reason):
                    assert self.waiting.pop(ticket.id) is ticket, "refused once, and only who waits"
                    assert reason != "draining" or self.draining
                    if reason == "no_memory":
                        assert self.knows_memory
                        pinned = sum(self.held_bytes(key) for key in self.all_models() & PINNED)
                        room = self.total - (pinned if ticket.key not in PINNED else 0)
                        has_grown = self.foreign_grew or any(self.measured.values())
                        assert has_grown or NEEDS[ticket.key] > room, "it would have fitted, had it waited"
                    if reason == "too_late":
                        assert ticket.deadline_s is not None and ticket.deadline_s <= self.now_s
                    if reason == "share_full":
                        own = [one for one in self.waiting.values() if one.owner == ticket.owner]
                        assert ticket.owner and len(own) >= share(self.state.max_queue, ticket.owner)
                    if reason == "no_place":
                        assert self.all_models() & PINNED and self.state.max_models

    def check_turn(self, served: Ticket, served_before: set[str]) -> None:
        """Nobody else's first request waits for this model who has fewer running on it, and had no turn in this decision."""

        def num_running(owner: str) -> int:
            return sum(one.owner == owner for one in self.served.values() if one.key == served.key)

        for other in {one.owner for one in self.waiting.values()} - served_before - {served.owner}:
            first = next(one for one in self.waiting.values() if one.owner == other)
            assert first.key != served.key or num_running(other) >= num_running(served.owner)

    def held_bytes(self, key: str) -> int:
        return max(NEEDS[key], self.measured.get(key, 0)) if NEEDS[key] else 0

    def all_models(self) -> set[str]:
        return self.starting | self.ready | self.stopping

    def leases(self, key: str) -> list[int]:
        return [number for number, ticket in self.served.items() if ticket.key == key]

    @rule(
        key=st.sampled_from(sorted(NEEDS)),
        keep_alive_s=st.sampled_from([None, 0.0, 5.0]),
        owner=st.sampled_from(OWNERS),
        hurries=st.booleans(),
    )
    def request(self, key: str, keep_alive_s: float | None, owner: str, hurries: bool) -> None:
        self.num_tickets += 1
        deadline_s = self.now_s + WAIT_S if hurries else None
        ticket = self.waiting[self.num_tickets] = Ticket(
            self.num_tickets, key, NEEDS[key], keep_alive_s, (), owner, key in PINNED, deadline_s
        )
        self.tell(Requested(ticket))

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def request_what_is_ready(self, data: st.DataObject) -> None:
        self.request(data.draw(st.sampled_from(sorted(self.ready))), 5.0, data.draw(st.sampled_from(OWNERS)), False)

    @precondition(lambda self: self.ready & {"a", "c"})
    @rule(more=st.integers(0, 2))
    def one_takes_more_than_planned(self, more: int) -> None:
        for key in self.ready & {"a", "c"}:
            self.measured[key] = NEEDS[key] + more if more else 0

    @precondition(lambda self: self.starting)
    @rule(data=st.data(), fails=st.sampled_from([False, False, True]), load_s=st.sampled_from([0.0, 5.0, 60.0]))
    def start_ends(self, data: st.DataObject, fails: bool, load_s: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.starting)))
        self.starting.remove(key)
        if fails:
            self.tell(StartFailed(key))
            assert all(ticket.key != key for ticket in self.waiting.values()), "nobody waits for a start that failed"
        else:
            self.ready.add(key)
            self.tell(Started(key, self.slots, load_s))

    @precondition(lambda self: self.stopping)
    @rule(data=st.data())
    def stop_ends(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.stopping)))
        self.stopping.remove(key)
        self.measured.pop(key, None)
        self.tell(Stopped(key))

    @precondition(lambda self: self.served)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ticket = self.served.pop(data.draw(st.sampled_from(sorted(self.served))))
        self.tell(Released(ticket.id, ticket.key))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[number]
        self.tell(Cancelled(number))

    @precondition(lambda self: self.starting | self.ready)
    @rule(data=st.data())
    def ask_to_stop(self, data: st.DataObject) -> None:
        self.tell(StopAsked(data.draw(st.sampled_from(sorted(self.starting | self.ready)))))

    @precondition(lambda self: self.starting | self.ready | set(self.waiting))
    @rule(data=st.data())
    def the_engine_is_broken(self, data: st.DataObject) -> None:
        keys = self.all_models() | {ticket.key for ticket in self.waiting.values()}
        if keys:
            key = data.draw(st.sampled_from(sorted(keys)))
            self.tell(Broken(key))
            assert all(ticket.key != key for ticket in self.waiting.values())

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.tell(Tick())
        for model in self.state.models.values():
            assert model.expires_at_s is None or model.expires_at_s > self.now_s

    @precondition(lambda self: self.num_tickets > 5)
    @rule(foreign=st.integers(0, 4))
    def other_programs_change(self, foreign: int) -> None:
        self.foreign_grew = self.foreign_grew or foreign > self.foreign
        self.foreign = foreign

    @precondition(lambda self: self.num_tickets > 20)
    @rule()
    def drain(self) -> None:
        self.draining = True
        self.tell(Draining())
        assert not self.waiting

    @invariant()
    def the_state_is_what_really_is(self) -> None:
        if not hasattr(self, "state"):
            return
        models = self.state.models
        for phase, keys in (("starting", self.starting), ("ready", self.ready), ("stopping", self.stopping)):
            assert {key for key, model in models.items() if model.phase == phase} == keys
        assert all(model.leases == frozenset(self.leases(key)) for key, model in models.items())
        assert [ticket.id for ticket in self.state.queue] == sorted(self.waiting), "nobody is lost, and first come first"
        assert len(self.state.queue) <= self.state.max_queue
        assert not self.state.max_models or sum(NEEDS[key] > 0 for key in models) <= self.state.max_models
        assert all(frozenset(model.owners) == model.leases for model in models.values())
        assert all(model.expires_at_s is None for key, model in models.items() if key in PINNED)
        for owner in OWNERS[1:]:
            assert sum(one.owner == owner for one in self.state.queue) <= share(self.state.max_queue, owner)

    @invariant()
    def whoever_waits_waits_for_something(self) -> None:
        """No deadlock: some event that must come is still to come."""
        if getattr(self, "waiting", None):
            assert self.starting or self.stopping or self.served

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        for _ in range(1000):
            if not (self.starting or self.stopping or self.served):
                break
            if self.starting:
                key = min(self.starting)
                self.starting.remove(key)
                self.ready.add(key)
                self.tell(Started(key, self.slots))
            elif self.stopping:
                key = min(self.stopping)
                self.stopping.remove(key)
                self.tell(Stopped(key))
            else:
                ticket = self.served.pop(min(self.served))
                self.tell(Released(ticket.id, ticket.key))
            self.the_state_is_what_really_is()
        assert not self.waiting, "in the end everybody is served or refused"


SimulatedPool.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestScheduler = SimulatedPool.TestCase
