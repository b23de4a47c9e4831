"""Running engines and the requests that use them. Performs what ``scheduler.py`` decides; the one writer of its state.

All of it runs on one event loop. A lease is held from the moment a request is served until it is done, whatever ended it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from zhibei.engines import registry
from zhibei.engines.base import Backend, Engine
from zhibei.errors import (
    Busy,
    DoesNotFit,
    EngineStartFailed,
    ModelNotFound,
    ZhibeiError,
)
from zhibei.models import StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.plan import plan
from zhibei.plans import EngineInfo, Hardware, Plan, Resident, Task
from zhibei.runtime import scheduler
from zhibei.runtime.defaults import load_options, with_defaults
from zhibei.runtime.scheduler import Model, State, Ticket
from zhibei.settings import Settings
from zhibei.units import format_bytes, parse_keep_alive

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a key stands for: enough to start it."""

    model: StoredModel
    plan: Plan


@dataclass(slots=True)
class _Running:
    """An engine and what it was started for."""

    wanted: _Wanted
    engine: Engine


class Pool:
    """Load on request, share, wait, unload."""

    def __init__(
        self,
        settings: Settings,
        resolve: Callable[[str], StoredModel],
        hardware: Callable[[], Hardware],
        backends: Mapping[str, Backend],
    ) -> None:
        self._settings = settings
        self._resolve = resolve
        self._hardware = hardware
        self._backends = backends
        self._engines: dict[str, EngineInfo] = {}
        self._state = State(settings.server.max_queue, settings.max_models)
        self._wanted: dict[str, _Wanted] = {}
        self._running: dict[str, _Running] = {}
        self._waiting: dict[int, asyncio.Future[Engine]] = {}
        self._failures: dict[str, ZhibeiError] = {}
        self._starts: set[asyncio.Task[None]] = set()
        self._stops: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._ids = itertools.count(1)

    @asynccontextmanager
    async def lease(
        self, model: str, task: Task = "generate", load: LoadOptions = LoadOptions(), keep_alive: str | None = None
    ) -> AsyncIterator[Engine]:
        """Hold a running engine for ``model``, loading it first where needed. What requests leave open is filled in.

        Raises:
            ModelNotFound, ModelBroken: nothing to run.
            DoesNotFit: too large for this machine's memory.
            Busy: the queue is full, or the service is stopping.
            EngineMissing, EngineStartFailed: it did not come up.
        """
        stored = self._resolve(model)
        ticket = self._ticket(stored, task, self._load(stored, load), keep_alive)
        engine = await self._admit(ticket)
        try:
            yield with_defaults(engine, stored.defaults, self._settings.sampling)
        finally:
            self._decide(scheduler.Released(ticket.id, ticket.key))

    def is_loaded(self, model: str, task: Task = "generate", load: LoadOptions = LoadOptions()) -> bool:
        """Whether a lease would find the engine running already. Advisory."""
        stored = self._resolve(model)
        return self._key(stored, task, self._load(stored, load)) in self._running

    def plan(self, model: StoredModel, task: Task, load: LoadOptions) -> Plan:
        """How a model would be started now, if all idle models made room for it.

        Raises:
            EngineMissing: no engine here can run it.
            ModelNotFound: an adapter, projector or draft file of ``load`` does not exist.
        """
        idle = sum(m.num_bytes for m in self._state.models.values() if m.phase == "ready" and not m.leases)
        return self._plan(model, task, _with_absolute_paths(load), idle)

    def residents(self) -> tuple[Resident, ...]:
        """The models that are starting, running or stopping."""
        return tuple(self._resident(model) for model in self._state.models.values())

    async def stop(self, name: str) -> None:
        """Unload a model, whatever it was loaded for, once its requests are done.

        Raises:
            ModelNotFound: it is not running.
        """
        keys = [key for key in self._state.models if self._wanted[key].model.name == name]
        if not keys:
            raise ModelNotFound("Model {name} is not running.", hint="See what runs: zhibei ps", name=name)
        for key in keys:
            self._decide(scheduler.StopAsked(key))
        while any(key in self._state.models and self._state.models[key].doomed for key in keys):
            await self._next_change()

    async def drain(self) -> None:
        """Take no new requests, refuse the waiting ones, and wait until the running ones are done."""
        self._decide(scheduler.Draining())
        while any(model.leases for model in self._state.models.values()):
            await self._next_change()

    async def close(self) -> None:
        """Stop every engine. Running requests fail."""
        self._decide(scheduler.Draining())
        for task in list(self._starts):
            task.cancel()
        # A stop that is under way is waited for: only it knows its engine.
        while tasks := [task for task in self._starts | self._stops if not task.done()]:
            await asyncio.gather(*tasks, return_exceptions=True)
        self._state = replace(self._state, models={})
        running, self._running = self._running, {}
        self._set_timer()
        self._announce()
        await asyncio.gather(*(item.engine.close() for item in running.values()))

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a model."""
        return len(self._waiting)

    def _probed(self) -> Mapping[str, EngineInfo]:
        if not self._engines:
            self._engines = {name: backend.probe() for name, backend in self._backends.items()}
        return self._engines

    def _load(self, model: StoredModel, asked: LoadOptions) -> LoadOptions:
        return _with_absolute_paths(load_options(asked, model.defaults, self._settings.load))

    def _ticket(self, model: StoredModel, task: Task, load: LoadOptions, keep_alive: str | None) -> Ticket:
        keep_alive_s = parse_keep_alive(keep_alive) if keep_alive is not None else self._settings.keep_alive_s
        key = self._key(model, task, load)
        if key not in self._state.models and all(waiting.key != key for waiting in self._state.queue):
            self._wanted[key] = _Wanted(model, self._fitting_plan(model, task, load))
        chosen = self._wanted[key].plan
        need_bytes = sum(line.num_bytes for line in chosen.memory if line.what != "prompt cache")
        return Ticket(next(self._ids), key, need_bytes, keep_alive_s)

    def _key(self, model: StoredModel, task: Task, load: LoadOptions) -> str:
        return f"{model.name} {task} {load!r} {model.model_path}"

    def _fitting_plan(self, model: StoredModel, task: Task, load: LoadOptions) -> Plan:
        chosen = self.plan(model, task, load)
        if chosen.spec is None and self._state.models:
            # What is busy now is idle when the turn of this one comes: the scheduler makes it wait.
            chosen = self._plan(model, task, load, sum(m.num_bytes for m in self._state.models.values()))
        if chosen.spec is None:
            raise DoesNotFit(
                "{model} needs {needed} of memory; {available} are free.",
                hint="Close other programs, or choose a smaller model, a smaller quantisation or a smaller --ctx-size.",
                model=model.name,
                needed=format_bytes(chosen.total_bytes),
                available=format_bytes(chosen.available_bytes or 0),
            )
        return chosen

    def _plan(self, model: StoredModel, task: Task, load: LoadOptions, extra_bytes: int) -> Plan:
        engine = registry.choose(self._settings.engine, model.info, task, self._probed())
        hardware = self._hardware()
        room = scheduler.room_bytes(self._state.models.values(), hardware.available_bytes, hardware.total_bytes)
        return plan(_with_files(model, load), replace(hardware, available_bytes=room), engine.name, task, load, extra_bytes)

    async def _admit(self, ticket: Ticket) -> Engine:
        future: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        self._waiting[ticket.id] = future
        self._decide(scheduler.Requested(ticket))
        try:
            return await future
        except asyncio.CancelledError:
            # It may have been served between its cancelling and now.
            waits = ticket in self._state.queue
            self._decide(scheduler.Cancelled(ticket.id) if waits else scheduler.Released(ticket.id, ticket.key))
            raise
        finally:
            self._waiting.pop(ticket.id, None)

    def _decide(self, event: scheduler.Event) -> None:
        hardware = self._hardware() if self._needs_memory(event) else None
        self._state, effects = scheduler.decide(
            self._state,
            event,
            now_s=time.monotonic(),
            free_bytes=hardware.available_bytes if hardware else None,
            total_bytes=hardware.total_bytes if hardware else None,
        )
        for effect in effects:
            self._perform(effect)
        self._forget()
        self._set_timer()
        self._announce()

    def _forget(self) -> None:
        """Drop what is known of keys that neither run nor are waited for."""
        if len(self._wanted) > len(self._state.models) + len(self._state.queue):
            kept = self._state.models.keys() | {ticket.key for ticket in self._state.queue}
            self._wanted = {key: wanted for key, wanted in self._wanted.items() if key in kept}
            self._failures = {key: error for key, error in self._failures.items() if key in kept}

    def _needs_memory(self, event: scheduler.Event) -> bool:
        """Free memory is only asked for where a start may follow: asking costs time on every request."""
        keys = {ticket.key for ticket in self._state.queue}
        if isinstance(event, scheduler.Requested):
            keys.add(event.ticket.key)
        return not keys <= self._state.models.keys() or isinstance(event, scheduler.Stopped)

    def _perform(self, effect: scheduler.Effect) -> None:
        match effect:
            case scheduler.Serve(ticket):
                future = self._waiting[ticket.id]
                if not future.done():
                    future.set_result(self._running[ticket.key].engine)
            case scheduler.Start(ticket):
                _spawn(self._starts, self._start(ticket.key))
            case scheduler.Stop(key):
                _spawn(self._stops, self._stop(key))
            case scheduler.Refuse(ticket, reason):
                future = self._waiting[ticket.id]
                if not future.done():
                    future.set_exception(self._refusal(ticket, reason))

    def _refusal(self, ticket: Ticket, reason: str) -> ZhibeiError:
        name = self._wanted[ticket.key].model.name
        if reason == "start_failed":
            return self._failures.get(ticket.key) or EngineStartFailed("{model} could not be loaded.", model=name)
        if reason == "draining":
            return Busy("The service is stopping.", hint="Try again when it is back.", retry_after_s=5)
        if reason == "no_memory":
            return DoesNotFit(
                "{model} needs {needed} of memory, which is not free now.",
                hint="Close other programs, or stop other models: zhibei ps, zhibei stop NAME.",
                model=name,
                needed=format_bytes(ticket.need_bytes),
            )
        return Busy(
            "Too many requests are waiting ({max_queue}).",
            hint="Try again in a moment, or raise server.max_queue.",
            max_queue=self._settings.server.max_queue,
        )

    async def _start(self, key: str) -> None:
        wanted = self._wanted[key]
        spec = wanted.plan.spec
        assert spec is not None
        outcome: scheduler.Event = scheduler.StartFailed(key)
        self._failures.pop(key, None)
        try:
            starting = self._backends[spec.engine].start(spec, _log.debug)
            engine = await asyncio.wait_for(starting, self._settings.load_timeout_s)
            self._running[key] = _Running(wanted, engine)
            outcome = scheduler.Started(key, engine.num_slots)
        except (ZhibeiError, asyncio.TimeoutError) as error:
            self._failures[key] = error if isinstance(error, ZhibeiError) else _too_slow(wanted, self._settings)
        finally:
            self._decide(outcome)

    async def _stop(self, key: str) -> None:
        running = self._running.pop(key)
        try:
            await running.engine.close()
        finally:
            self._decide(scheduler.Stopped(key))

    def _set_timer(self) -> None:
        due = scheduler.next_expiry_s(self._state)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            wait_s = max(0.0, due - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._decide, scheduler.Tick())

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next_change(self) -> None:
        await self._changed.wait()

    def _resident(self, model: Model) -> Resident:
        wanted, running = self._wanted[model.key], self._running.get(model.key)
        spec = wanted.plan.spec
        assert spec is not None
        status = running.engine.status() if running is not None else None
        expires = model.expires_at_s
        wait_s = None if expires is None else max(0.0, expires - time.monotonic())
        return Resident(
            name=wanted.model.name,
            engine=spec.engine,
            task=spec.task,
            state=("busy" if model.leases else status.state if status else model.phase)
            if model.phase == "ready"
            else model.phase,
            pid=status.pid if status else None,
            ctx_size=spec.ctx_size,
            num_slots=model.num_slots or spec.num_slots,
            num_leases=len(model.leases),
            planned_bytes=wanted.plan.total_bytes,
            measured_bytes=status.memory_bytes if status else None,
            expires_at=None if wait_s is None else datetime.now(timezone.utc) + timedelta(seconds=wait_s),
        )


def _spawn(tasks: set[asyncio.Task[None]], work: Coroutine[object, None, None]) -> None:
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _with_absolute_paths(load: LoadOptions) -> LoadOptions:
    """An engine's process has a working directory of its own."""
    return replace(
        load,
        lora=tuple((_absolute(path), scale) for path, scale in load.lora),
        mmproj=load.mmproj and _absolute(load.mmproj),
        draft_model=load.draft_model and _absolute(load.draft_model),
    )


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _with_files(model: StoredModel, load: LoadOptions) -> StoredModel:
    """The model with the files that the load options name among its own, so that the plan counts them."""
    named = [("adapter", path) for path, _ in load.lora]
    named += [("projector", load.mmproj)] if load.mmproj else []
    named += [("draft", load.draft_model)] if load.draft_model else []
    replaced = {role for role, _ in named}
    kept = tuple(file for file in model.files if file.role not in replaced)
    return replace(model, files=kept + tuple(_option_file(role, Path(path)) for role, path in named))


def _option_file(role: str, path: Path) -> StoredFile:
    try:
        return StoredFile(role, path, path.stat().st_size)
    except OSError:
        raise ModelNotFound("There is no file {path} (asked for as {role}).", path=path, role=role) from None


def _too_slow(wanted: _Wanted, settings: Settings) -> ZhibeiError:
    return EngineStartFailed(
        "{model} did not finish loading within {seconds} seconds.",
        hint="Raise load_timeout_s in the configuration if the disk is slow.",
        model=wanted.model.name,
        seconds=int(settings.load_timeout_s),
    )
