"""Decide what happens to requests and models. Pure: (state, event) → (state, effects); no clock, no I/O.

A request is a ticket for a model key. Tickets are served first come, first served, as far as their model has free slots.
A ticket whose model must wait for memory holds back all later ones, so that it is not starved by a busy neighbour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from zhibei.runtime import eviction


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that waits or runs. ``keep_alive_s`` None: the model stays for ever after it.

    ``need_bytes`` of main memory, ``gpu_bytes`` of each graphics processor.
    """

    id: int
    key: str
    need_bytes: int
    keep_alive_s: float | None
    gpu_bytes: tuple[int, ...] = ()
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is starting, ready or stopping. ``doomed``: it stops as soon as it is idle."""

    key: str
    phase: Literal["starting", "ready", "stopping"]
    num_bytes: int
    num_slots: int = 0
    leases: frozenset[int] = frozenset()
    last_used_s: float = 0.0
    keep_alive_s: float | None = None
    doomed: bool = False
    gpu_bytes: tuple[int, ...] = ()

    @property
    def expires_at_s(self) -> float | None:
        """When it is to be unloaded; None while it is used, or for ever."""
        if self.phase != "ready" or self.leases or self.keep_alive_s is None:
            return None
        return self.last_used_s + self.keep_alive_s


@dataclass(frozen=True, slots=True)
class State:
    """Everything the scheduler knows. ``max_models`` 0: as memory allows."""

    max_queue: int
    max_models: int = 0
    models: Mapping[str, Model] = field(default_factory=dict)
    queue: tuple[Ticket, ...] = ()
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Requested:
    """A new ticket."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Started:
    """A start succeeded."""

    key: str
    num_slots: int


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
class Draining:
    """The service is stopping: nothing new is taken, what waits is refused."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Requested | Started | StartFailed | StartCramped | Stopped | Released | Cancelled | StopAsked | Draining | Tick


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


@dataclass(frozen=True, slots=True)
class Refuse:
    """Turn the ticket away."""

    ticket: Ticket
    reason: Literal["queue_full", "draining", "no_memory", "start_failed"]


Effect = Serve | Start | Stop | Refuse


def decide(
    state: State,
    event: Event,
    *,
    now_s: float,
    free_bytes: int | None,
    total_bytes: int | None = None,
    free_gpu_bytes: tuple[int, ...] = (),
) -> tuple[State, tuple[Effect, ...]]:
    """The next state and what must be done.

    Args:
        now_s: on any clock that only goes forward.
        free_bytes: memory a new program could take now; None: not known.
        total_bytes: all the memory there is; None: not known.
        free_gpu_bytes: of each graphics processor that models are placed on.
    """
    work = _Work(state, now_s, free_bytes, total_bytes, free_gpu_bytes)
    work.absorb(event)
    work.serve_queue()
    work.stop_idle()
    return work.state(), tuple(work.effects)


def next_expiry_s(state: State) -> float | None:
    """When a Tick is due; None: nothing will expire."""
    return min((at for model in state.models.values() if (at := model.expires_at_s) is not None), default=None)


def room_bytes(models: Iterable[Model], free_bytes: int | None, total_bytes: int | None) -> int | None:
    """Memory that one more model could take beside ``models``; None: not known.

    What starting models will take is still free; and the system calls the weights of running models free, as far as they are
    mapped from their files, because it could drop and read them again. So no more is given than is left of the total.
    """
    if free_bytes is None:
        return None
    running = tuple(models)
    room = free_bytes - sum(model.num_bytes for model in running if model.phase == "starting")
    if total_bytes is not None:
        room = min(room, total_bytes - sum(model.num_bytes for model in running))
    return max(0, room)


def room_gpu_bytes(models: Iterable[Model], free_bytes: Iterable[int]) -> tuple[int, ...]:
    """Memory of each graphics processor that one more model could take beside those that are starting."""
    starting = [model.gpu_bytes for model in models if model.phase == "starting"]
    return tuple(
        max(0, free - sum(taken[number] for taken in starting if number < len(taken))) for number, free in enumerate(free_bytes)
    )


class _Work:
    """One decision in the making."""

    def __init__(
        self, state: State, now_s: float, free_bytes: int | None, total_bytes: int | None, free_gpu_bytes: tuple[int, ...]
    ) -> None:
        self._state = state
        self._models = dict(state.models)
        self._queue = list(state.queue)
        self._draining = state.draining
        self._now_s = now_s
        self._free_bytes = free_bytes
        self._total_bytes = total_bytes
        self._free_gpu_bytes = free_gpu_bytes
        self.effects: list[Effect] = []

    def state(self) -> State:
        return replace(self._state, models=self._models, queue=tuple(self._queue), draining=self._draining)

    def absorb(self, event: Event) -> None:
        match event:
            case Requested(ticket):
                self._enqueue(ticket)
            case Started(key, num_slots):
                self._set(key, phase="ready", num_slots=num_slots, last_used_s=self._now_s)
            case StartFailed(key):
                self._models.pop(key, None)
                self._refuse([ticket for ticket in self._queue if ticket.key == key], "start_failed")
            case StartCramped(key):
                self._stop_others(key)
            case Stopped(key):
                self._models.pop(key, None)
            case Released(ticket_id, key):
                self._release(ticket_id, key)
            case Cancelled(ticket_id):
                self._queue = [ticket for ticket in self._queue if ticket.id != ticket_id]
            case StopAsked(key):
                if key in self._models:
                    self._set(key, doomed=True)
            case Draining():
                self._draining = True
                self._refuse(list(self._queue), "draining")
            case Tick():
                pass

    def _release(self, ticket_id: int, key: str) -> None:
        if key in self._models and ticket_id in self._models[key].leases:
            leases = self._models[key].leases - {ticket_id}
            self._set(key, leases=leases, last_used_s=self._now_s)

    def _stop_others(self, key: str) -> None:
        for model in list(self._models.values()):
            if model.phase == "ready" and not model.leases and model.key != key:
                self._stop(model.key)

    def _enqueue(self, ticket: Ticket) -> None:
        if self._draining:
            self.effects.append(Refuse(ticket, "draining"))
        elif len(self._queue) >= self._state.max_queue and (self._is_held_back() or not self._can_serve(ticket)):
            self.effects.append(Refuse(ticket, "queue_full"))
        else:
            self._queue.append(ticket)

    def _is_held_back(self) -> bool:
        """Whether a ticket waits for memory, and all later ones with it."""
        return any(ticket.key not in self._models for ticket in self._queue)

    def serve_queue(self) -> None:
        held: list[Ticket] = []
        memory_wanted = False
        for ticket in self._queue:
            if memory_wanted:
                held.append(ticket)
            elif self._can_serve(ticket):
                self._serve(ticket)
            elif ticket.key in self._models:
                held.append(ticket)
            else:
                memory_wanted = not self._try_start(ticket, held)
        self._queue = held

    def _can_serve(self, ticket: Ticket) -> bool:
        model = self._models.get(ticket.key)
        return model is not None and model.phase == "ready" and not model.doomed and len(model.leases) < model.num_slots

    def _serve(self, ticket: Ticket) -> None:
        leases = self._models[ticket.key].leases | {ticket.id}
        self._set(ticket.key, leases=leases, last_used_s=self._now_s, keep_alive_s=ticket.keep_alive_s)
        self.effects.append(Serve(ticket))

    def _try_start(self, ticket: Ticket, held: list[Ticket]) -> bool:
        """Start the ticket's model or make room for it; False if it must wait for memory."""
        free = room_bytes(self._models.values(), self._free_bytes, self._total_bytes)
        places = self._state.max_models - len(self._models) if self._state.max_models else None
        gpus = room_gpu_bytes(self._models.values(), self._free_gpu_bytes)
        decision = eviction.choose(ticket.need_bytes, free, places, self._candidates(), ticket.gpu_bytes, gpus)
        if not decision.fits and not decision.wait:
            # What others hold of a graphics processor is estimated: where all is gone, the engine shall see for itself.
            decision = eviction.choose(ticket.need_bytes, free, places, self._candidates())
        if decision.fits and not decision.stop and not decision.wait:
            self._models[ticket.key] = Model(
                ticket.key,
                "starting",
                ticket.need_bytes,
                last_used_s=self._now_s,
                keep_alive_s=ticket.keep_alive_s,
                gpu_bytes=ticket.gpu_bytes,
            )
            self.effects.append(Start(ticket))
            held.append(ticket)
            return True
        if not decision.fits and not decision.wait:
            self.effects.append(Refuse(ticket, "no_memory"))
            return True
        for key in decision.stop:
            self._stop(key)
        held.append(ticket)
        return False

    def _candidates(self) -> list[eviction.Candidate]:
        return [
            eviction.Candidate(
                model.key,
                model.num_bytes,
                model.last_used_s,
                idle=model.phase == "ready" and not model.leases,
                leaving=model.phase == "stopping",
                gpu_bytes=model.gpu_bytes,
            )
            for model in self._models.values()
        ]

    def stop_idle(self) -> None:
        for model in list(self._models.values()):
            expired = model.expires_at_s is not None and model.expires_at_s <= self._now_s
            if model.phase == "ready" and not model.leases and (model.doomed or expired):
                self._stop(model.key)

    def _stop(self, key: str) -> None:
        self._set(key, phase="stopping")
        self.effects.append(Stop(key))

    def _refuse(self, tickets: list[Ticket], reason: Literal["draining", "start_failed"]) -> None:
        self._queue = [ticket for ticket in self._queue if ticket not in tickets]
        self.effects += [Refuse(ticket, reason) for ticket in tickets]

    def _set(self, key: str, **changes: object) -> None:
        self._models[key] = replace(self._models[key], **changes)  # type: ignore[arg-type]
