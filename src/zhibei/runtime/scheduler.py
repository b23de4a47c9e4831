"""Decide what happens to requests and models. Pure: (state, event) → (state, effects); no clock, no I/O.

A request is a ticket for a model key. Tickets are served as far as their model has free slots: an owner's in the order in
which they came, and owners in turn (turns.py). A ticket whose model must wait for memory holds back all later ones, so that
it is not starved by a busy neighbour; but those that waited for a model while it loaded are served before it leaves, so that
no load is in vain. So are a few that come soon after another wanted its memory: its load would have to be repeated for them.
A model that takes nothing of this machine is never waited for, nor made to leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from zhibei.runtime import eviction, turns
from zhibei.runtime.vacancy import room_bytes, room_gpu_bytes

MAX_GRACE_S = 10.0
"""As long as a model's load took, but no longer, others wait for its memory while it still takes requests."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that waits or runs. ``keep_alive_s`` None: the model stays for ever after it.

    ``need_bytes`` of main memory, ``gpu_bytes`` of each graphics processor. ``pinned``: its model never makes room.
    ``deadline_s``: when it is turned away if it still waits; None: never.
    """

    id: int
    key: str
    need_bytes: int
    keep_alive_s: float | None
    gpu_bytes: tuple[int, ...] = ()
    owner: str = ""
    pinned: bool = False
    deadline_s: float | None = None

    @property
    def is_weightless(self) -> bool:
        """Whether its model takes nothing of this machine."""
        return self.need_bytes == 0 and not any(self.gpu_bytes)


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is starting, ready or stopping. ``doomed``: it stops as soon as it is idle.

    ``num_bytes`` and ``gpu_bytes``: as planned; ``measured_bytes``: of main memory, 0 where not known. ``owners`` of leases.
    ``kept_for``: the tickets that it serves before it leaves for another.
    """

    key: str
    phase: Literal["starting", "ready", "stopping"]
    num_bytes: int
    num_slots: int = 0
    leases: frozenset[int] = frozenset()
    last_used_s: float = 0.0
    keep_alive_s: float | None = None
    doomed: bool = False
    gpu_bytes: tuple[int, ...] = ()
    measured_bytes: int = 0
    load_s: float = 0.0
    pinned: bool = False
    owners: Mapping[int, str] = field(default_factory=dict)
    kept_for: frozenset[int] = frozenset()

    @property
    def expires_at_s(self) -> float | None:
        """When it is to be unloaded; None while it is used, or for ever."""
        if self.phase != "ready" or self.leases or self.keep_alive_s is None or self.pinned:
            return None
        return self.last_used_s + self.keep_alive_s

    @property
    def held_bytes(self) -> int:
        """What it counts for: the plan's number, until it was seen to take more."""
        return max(self.num_bytes, self.measured_bytes)

    @property
    def is_weightless(self) -> bool:
        """Whether it takes nothing of this machine."""
        return self.num_bytes == 0 and not any(self.gpu_bytes)

    @property
    def can_make_room(self) -> bool:
        """Whether it may be stopped for another one now."""
        return self.phase == "ready" and not self.leases and not self.pinned and not self.is_weightless


@dataclass(frozen=True, slots=True)
class State:
    """Everything the scheduler knows. ``max_models`` 0: as memory allows. ``last_served``: owner → number of that serving.

    ``wanted_since_s``: since when somebody has waited for memory; None: nobody does.
    """

    max_queue: int
    max_models: int = 0
    models: Mapping[str, Model] = field(default_factory=dict)
    queue: tuple[Ticket, ...] = ()
    draining: bool = False
    last_served: Mapping[str, int] = field(default_factory=dict)
    num_served: int = 0
    wanted_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Requested:
    """A new ticket."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Started:
    """A start succeeded, after ``load_s`` seconds."""

    key: str
    num_slots: int
    load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A start failed; its tickets fail with it."""

    key: str


@dataclass(frozen=True, slots=True)
class StartCramped:
    """A start ran out of memory; it is tried again when no idle model is left."""

    key: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A stop is complete: its memory is free."""

    key: str


@dataclass(frozen=True, slots=True)
class Released:
    """A served ticket is done."""

    ticket_id: int
    key: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A waiting ticket's client has left."""

    ticket_id: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody wants the model unloaded, as soon as it is idle."""

    key: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The model's engine dies again and again: nobody shall wait for it, and it stops as soon as it is idle."""

    key: str


@dataclass(frozen=True, slots=True)
class Draining:
    """The service is stopping: nothing new is taken, what waits is refused."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Requested | Started | StartFailed | StartCramped | Stopped | Released | Cancelled | StopAsked | Broken | Draining | Tick
StopReason = Literal["idle", "evicted", "asked"]
RefuseReason = Literal["queue_full", "share_full", "draining", "no_memory", "no_place", "start_failed", "too_late", "unstable"]


@dataclass(frozen=True, slots=True)
class Serve:
    """Let the ticket run."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Start:
    """Start the model that this ticket is for."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the model."""

    key: str
    why: StopReason = "asked"


@dataclass(frozen=True, slots=True)
class Refuse:
    """Turn the ticket away."""

    ticket: Ticket
    reason: RefuseReason


Effect = Serve | Start | Stop | Refuse


def decide(
    state: State,
    event: Event,
    *,
    now_s: float,
    free_bytes: int | None,
    total_bytes: int | None = None,
    free_gpu_bytes: tuple[int, ...] = (),
    measured_bytes: Mapping[str, int] | None = None,
) -> tuple[State, tuple[Effect, ...]]:
    """The next state and what must be done.

    Args:
        now_s: on any clock that only goes forward.
        free_bytes: memory a new program could take now; None: not known.
        total_bytes: all the memory there is; None: not known.
        free_gpu_bytes: of each graphics processor that models are placed on.
        measured_bytes: key → main memory that a running model was seen to take; those of which nothing is said stay as they are.
    """
    work = _Work(state, now_s, free_bytes, total_bytes, free_gpu_bytes)
    work.measure(measured_bytes or {})
    work.absorb(event)
    work.refuse_late()
    work.serve_queue()
    work.stop_idle()
    return work.state(), tuple(work.effects)


def next_expiry_s(state: State) -> float | None:
    """When a Tick is due; None: nothing will expire."""
    models = (model.expires_at_s for model in state.models.values())
    tickets = (ticket.deadline_s for ticket in state.queue)
    return min((at for at in (*models, *tickets) if at is not None), default=None)


class _Work:
    """One decision in the making."""

    def __init__(
        self, state: State, now_s: float, free_bytes: int | None, total_bytes: int | None, free_gpu_bytes: tuple[int, ...]
    ) -> None:
        self._state = state
        self._models = dict(state.models)
        self._queue = list(state.queue)
        self._draining = state.draining
        self._last_served = state.last_served
        self._num_served = state.num_served
        self._now_s = now_s
        self._free_bytes = free_bytes
        self._total_bytes = total_bytes
        self._free_gpu_bytes = free_gpu_bytes
        self.effects: list[Effect] = []

    def state(self) -> State:
        since_s = self._state.wanted_since_s
        return replace(
            self._state,
            models=self._models,
            queue=tuple(self._queue),
            draining=self._draining,
            last_served=self._last_served,
            num_served=self._num_served,
            wanted_since_s=(self._now_s if since_s is None else since_s) if self._is_memory_wanted() else None,
        )

    def measure(self, measured_bytes: Mapping[str, int]) -> None:
        for key, num_bytes in measured_bytes.items():
            # What takes nothing by its plan is somebody else's memory.
            if key in self._models and not self._models[key].is_weightless:
                self._set(key, measured_bytes=num_bytes)

    def absorb(self, event: Event) -> None:
        match event:
            case Requested(ticket):
                self._enqueue(ticket)
            case Started(key, num_slots, load_s):
                waiting = frozenset(ticket.id for ticket in self._queue if ticket.key == key)
                self._set(key, phase="ready", num_slots=num_slots, last_used_s=self._now_s, load_s=load_s, kept_for=waiting)
            case StartFailed(key):
                self._models.pop(key, None)
                self._refuse_all(key, "start_failed")
            case StartCramped(key):
                self._stop_others(key)
            case Stopped(key):
                self._models.pop(key, None)
            case Released(ticket_id, key):
                self._release(ticket_id, key)
            case Cancelled(ticket_id):
                self._queue = [ticket for ticket in self._queue if ticket.id != ticket_id]
            case StopAsked(key):
                self._doom(key)
            case Broken(key):
                self._doom(key)
                self._refuse_all(key, "unstable")
            case Draining():
                self._draining = True
                self._refuse(list(self._queue), "draining")
            case Tick():
                pass

    def _doom(self, key: str) -> None:
        if key in self._models:
            self._set(key, doomed=True)

    def _refuse_all(self, key: str, reason: RefuseReason) -> None:
        self._refuse([ticket for ticket in self._queue if ticket.key == key], reason)

    def _release(self, ticket_id: int, key: str) -> None:
        if key in self._models and ticket_id in self._models[key].leases:
            leases = self._models[key].leases - {ticket_id}
            owners = {other: owner for other, owner in self._models[key].owners.items() if other != ticket_id}
            self._set(key, leases=leases, owners=owners, last_used_s=self._now_s)

    def _stop_others(self, key: str) -> None:
        for model in list(self._models.values()):
            if model.can_make_room and model.key != key:
                self._stop(model.key, "evicted")

    def _enqueue(self, ticket: Ticket) -> None:
        self._keep_for(ticket)
        num_own = sum(waiting.owner == ticket.owner for waiting in self._queue)
        is_full = len(self._queue) >= self._state.max_queue
        has_share = num_own >= turns.share(self._state.max_queue, ticket.owner)
        if self._draining:
            self.effects.append(Refuse(ticket, "draining"))
        elif (is_full or has_share) and (self._is_held_back(ticket) or not self._can_serve(ticket)):
            self.effects.append(Refuse(ticket, "share_full" if has_share and ticket.owner else "queue_full"))
        else:
            self._queue.append(ticket)

    def _is_held_back(self, ticket: Ticket) -> bool:
        """Whether another ticket waits for memory, and this one with it."""
        return not ticket.is_weightless and not self._is_kept_for(ticket) and self._is_memory_wanted()

    def _is_memory_wanted(self) -> bool:
        return any(waiting.key not in self._models and not waiting.is_weightless for waiting in self._queue)

    def _keep_for(self, ticket: Ticket) -> None:
        """If somebody has only just begun to wait for memory, the ticket's model takes it before it leaves.

        No more than one for each slot may wait so: who wants the memory waits for the grace and one more round at most.
        """
        model, since_s = self._models.get(ticket.key), self._state.wanted_since_s
        if model is None or model.phase != "ready" or since_s is None:
            return
        waiting = model.kept_for & {other.id for other in self._queue}
        if self._now_s - since_s < min(model.load_s, MAX_GRACE_S) and len(waiting) < model.num_slots:
            self._set(ticket.key, kept_for=waiting | {ticket.id})

    def refuse_late(self) -> None:
        late = [ticket for ticket in self._queue if ticket.deadline_s is not None and ticket.deadline_s <= self._now_s]
        if late:
            self._refuse(late, "too_late")

    def serve_queue(self) -> None:
        held: list[Ticket] = []
        memory_wanted = False
        for ticket in turns.in_turn(self._queue, self._num_running, self._last_served):
            if memory_wanted and not ticket.is_weightless and not self._is_kept_for(ticket):
                held.append(ticket)
            elif self._can_serve(ticket):
                self._serve(ticket)
            elif ticket.key in self._models:
                held.append(ticket)
            else:
                memory_wanted = not self._try_start(ticket, held) or memory_wanted
        kept = {ticket.id for ticket in held}
        self._queue = [ticket for ticket in self._queue if ticket.id in kept]

    def _is_kept_for(self, ticket: Ticket) -> bool:
        model = self._models.get(ticket.key)
        return model is not None and ticket.id in model.kept_for

    def _num_running(self, owner: str, key: str) -> int:
        model = self._models.get(key)
        return sum(other == owner for other in model.owners.values()) if model is not None else 0

    def _can_serve(self, ticket: Ticket) -> bool:
        model = self._models.get(ticket.key)
        return model is not None and model.phase == "ready" and not model.doomed and len(model.leases) < model.num_slots

    def _serve(self, ticket: Ticket) -> None:
        model = self._models[ticket.key]
        leases, owners = model.leases | {ticket.id}, {**model.owners, ticket.id: ticket.owner}
        self._set(ticket.key, leases=leases, owners=owners, last_used_s=self._now_s, keep_alive_s=ticket.keep_alive_s)
        self._num_served += 1
        self._last_served = turns.with_served(self._last_served, ticket.owner, self._num_served)
        self.effects.append(Serve(ticket))

    def _try_start(self, ticket: Ticket, held: list[Ticket]) -> bool:
        """Start the ticket's model or make room for it; False if it must wait for memory."""
        decision, reason = self._room_for(ticket)
        if decision.fits and not decision.stop and not decision.wait:
            self._models[ticket.key] = Model(
                ticket.key,
                "starting",
                ticket.need_bytes,
                last_used_s=self._now_s,
                keep_alive_s=ticket.keep_alive_s,
                gpu_bytes=ticket.gpu_bytes,
                pinned=ticket.pinned,
            )
            self.effects.append(Start(ticket))
            held.append(ticket)
            return True
        if not decision.fits and not decision.wait:
            self.effects.append(Refuse(ticket, reason))
            return True
        for key in decision.stop:
            self._stop(key, "evicted")
        held.append(ticket)
        return False

    def _room_for(self, ticket: Ticket) -> tuple[eviction.Eviction, Literal["no_memory", "no_place"]]:
        """What must happen before the ticket's model can start, and why it never can if so."""
        if ticket.is_weightless:
            return eviction.Eviction(), "no_memory"
        running, now_s = self._candidates(), self._now_s
        free = room_bytes(self._models.values(), self._free_bytes, self._total_bytes)
        num_models = sum(not model.is_weightless for model in self._models.values())
        places = self._state.max_models - num_models if self._state.max_models else None
        gpus = room_gpu_bytes(self._models.values(), self._free_gpu_bytes)
        decision = eviction.choose(ticket.need_bytes, free, places, running, ticket.gpu_bytes, gpus, now_s=now_s)
        if not decision.fits and not decision.wait:
            # What others hold of a graphics processor is estimated: where all is gone, the engine shall see for itself.
            decision = eviction.choose(ticket.need_bytes, free, places, running, now_s=now_s)
        has_place = places is None or places + len(running) > 0
        return decision, "no_memory" if has_place else "no_place"

    def _candidates(self) -> list[eviction.Candidate]:
        """Who may leave, now or when it is idle, or is leaving."""
        awaited = {ticket.key for ticket in self._queue if self._is_kept_for(ticket)}
        return [
            eviction.Candidate(
                model.key,
                model.held_bytes,
                model.last_used_s,
                idle=model.can_make_room and model.key not in awaited,
                leaving=model.phase == "stopping",
                gpu_bytes=model.gpu_bytes,
                load_s=model.load_s,
            )
            for model in self._models.values()
            if model.phase == "stopping" or not (model.pinned or model.is_weightless)
        ]

    def stop_idle(self) -> None:
        for model in list(self._models.values()):
            expired = model.expires_at_s is not None and model.expires_at_s <= self._now_s
            if model.phase == "ready" and not model.leases and (model.doomed or expired):
                self._stop(model.key, "asked" if model.doomed else "idle")

    def _stop(self, key: str, why: StopReason) -> None:
        self._set(key, phase="stopping")
        self.effects.append(Stop(key, why))

    def _refuse(self, tickets: list[Ticket], reason: RefuseReason) -> None:
        gone = {ticket.id for ticket in tickets}
        self._queue = [ticket for ticket in self._queue if ticket.id not in gone]
        self.effects += [Refuse(ticket, reason) for ticket in tickets]

    def _set(self, key: str, **changes: object) -> None:
        self._models[key] = replace(self._models[key], **changes)  # type: ignore[arg-type]
