"""Running engines and the requests that use them. Performs what ``scheduler.py`` decides; the one writer of its state.

All of it runs on one event loop. A lease is held from the moment a request is served until it is done, whatever ended it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

from zhibei.engines import registry
from zhibei.engines.base import Backend, Engine
from zhibei.errors import EngineStartFailed, ModelNotFound, ZhibeiError
from zhibei.events import Timings
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.fit import task_of
from zhibei.planner.plan import plan
from zhibei.planner.upstream import plan_upstream
from zhibei.plans import EngineInfo, Hardware, Plan, Resident, Task
from zhibei.runtime import happenings, scheduler
from zhibei.runtime.alike import suiting
from zhibei.runtime.asking import Asked, Names
from zhibei.runtime.circuit import Circuits, is_crash
from zhibei.runtime.counted import CountedEngine
from zhibei.runtime.defaults import with_defaults
from zhibei.runtime.logbook import Logbook
from zhibei.runtime.measurements import Circumstances, is_telling
from zhibei.runtime.named_files import with_absolute_paths, with_files
from zhibei.runtime.own_limit import own_limit_told
from zhibei.runtime.recorder import Answer, Knowledge, Recorder
from zhibei.runtime.refusals import Bounds, Outlook, refusal
from zhibei.runtime.room import free_gpu_bytes, left_on
from zhibei.runtime.running import LoadTimes, Running, resident
from zhibei.runtime.scheduler import Model, State, Ticket
from zhibei.runtime.starting import Starter, Wanted, refused
from zhibei.runtime.timed import TimedEngine
from zhibei.settings import Settings
from zhibei.units import parse_keep_alive

_log = logging.getLogger(__name__)


class Pool:
    """Load on request, share, wait, unload. ``logs``: what the engines wrote."""

    def __init__(
        self,
        settings: Settings,
        resolve: Callable[[str], StoredModel],
        hardware: Callable[[], Hardware],
        backends: Mapping[str, Backend],
        recorder: Recorder | None = None,
    ) -> None:
        """Starts nothing.

        Args:
            recorder: tells what speeds are predicted from, and is told what was measured; None: nothing is known or kept.

        Raises:
            BadSetting: an alias stands for two models.
        """
        self.logs = Logbook()
        self._recorder = recorder
        self._settings = settings
        self._names = Names(settings, resolve)
        self._hardware = hardware
        self._backends = backends
        self._starter = Starter(backends, hardware, settings.load_timeout_s, make_room=self._stop_idle, replan=self._replanned)
        self._engines: dict[str, EngineInfo] = {}
        self._state = State(settings.server.max_queue, settings.max_models)
        self._circuits = Circuits(time.monotonic)
        self._watchers = happenings.Watchers()
        self._wanted: dict[str, Wanted] = {}
        self._running: dict[str, Running] = {}
        self._waiting: dict[int, asyncio.Future[Engine]] = {}
        self._failures: dict[str, ZhibeiError] = {}
        self._loads = LoadTimes()
        self._starts: set[asyncio.Task[None]] = set()
        self._stops: set[asyncio.Task[None]] = set()
        self._recordings: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._ids = itertools.count(1)

    @asynccontextmanager
    async def lease(
        self,
        model: str,
        task: Task = "generate",
        load: LoadOptions = LoadOptions(),
        keep_alive: str | None = None,
        *,
        owner: str = "",
    ) -> AsyncIterator[Engine]:
        """Hold a running engine for ``model``, loading it first where needed. What requests leave open is filled in.

        Args:
            model: a name, an alias or another reference that the library resolves.
            owner: who asks; those who wait are served in turn by owner.

        Raises:
            ModelNotFound, ModelBroken: nothing to run.
            DoesNotFit: too large for this machine's memory.
            Unsupported: the engine cannot run it so.
            Busy: the queue is full, it took too long, the engine died too often, or the service is stopping.
            EngineMissing, EngineStartFailed: it did not come up.
        """
        asked = self._names.asked(model, task, load)
        name = asked.model.name
        if self._circuits.is_open(name):
            self._watchers.tell(happenings.Refused(name, "unstable"))
        with self._circuits.passing(name), own_limit_told(asked.model):
            ticket = self._ticket(asked, keep_alive, owner)
            engine = await self._admit(ticket)
            began_s = time.monotonic()
            try:
                yield with_defaults(engine, asked.defaults, asked.wishes.sampling)
            finally:
                if (running := self._running.get(ticket.key)) is not None:
                    running.leased(time.monotonic() - began_s)
                self._decide(scheduler.Released(ticket.id, ticket.key))

    def find(self, name: str) -> StoredModel:
        """The model that a lease of ``name`` would run: of that name, else the one that it is an alias of.

        Raises:
            UserError, StoreError, SourceError, ModelFileError: as the library has it.
        """
        return self._names.find(name)

    def is_loaded(self, model: str, task: Task = "generate", load: LoadOptions = LoadOptions()) -> bool:
        """Whether a lease would find the engine running already. Advisory."""
        return self._names.asked(model, task, load).key in self._running

    def suited(self, model: str, task: Task, load: LoadOptions) -> LoadOptions:
        """Options under which a lease finds a running engine whose context is long enough; else ``load``, and shorter ones go."""
        running = [(key, self._wanted[key]) for key, each in self._state.models.items() if not each.doomed]
        if all(wanted.load.ctx_size == (load.ctx_size or self._settings.load.ctx_size) for _, wanted in running):
            return load
        asked = self._names.asked(model, task, load)
        found, superseded = suiting(asked, running)
        if found is not None:
            return found.load
        with suppress(ZhibeiError):
            # Nothing leaves for one that cannot come; why it cannot, the lease will say.
            self._fitting_plan(asked.model, task, asked.load)
            for key in superseded:
                self._decide(scheduler.StopAsked(key))
        return load

    def plan(self, model: StoredModel, task: Task, load: LoadOptions) -> Plan:
        """How a model would be started now, if all idle models made room for it.

        Raises:
            EngineMissing: no engine here can run it.
            ModelNotFound: an adapter, projector or draft file of ``load`` does not exist.
        """
        idle = [m for m in self._state.models.values() if m.can_make_room]
        return self._plan(model, task, with_absolute_paths(load), idle)

    def residents(self) -> tuple[Resident, ...]:
        """The models that are starting, running or stopping."""
        now_s, waiting = time.monotonic(), Counter(ticket.key for ticket in self._state.queue)
        return tuple(
            resident(model, self._wanted[key], self._running.get(key), num_waiting=waiting[key], now_s=now_s)
            for key, model in self._state.models.items()
        )

    def watch(self, callback: happenings.Watcher) -> Callable[[], None]:
        """Tell of what happens from now on, soon after it did; what is returned ends that."""
        return self._watchers.add(callback)

    async def preload(self) -> None:
        """Load the models that the settings want loaded from the start, one after the other. What fails is logged."""
        for name, wanted in self._settings.models.items():
            if wanted.preload:
                try:
                    async with self.lease(name, task_of(self.find(name).info, None)[0]):
                        _log.info("%s is preloaded.", name)
                except ZhibeiError as error:
                    _log.warning("%s could not be preloaded: %s", name, error)

    async def stop(self, name: str) -> None:
        """Unload a model, whatever it was loaded for, once its requests are done; one that died too often may be tried again.

        Raises:
            ModelNotFound: it is not running.
        """
        name = self._running_name(name)
        keys = [key for key in self._state.models if self._wanted[key].model.name == name]
        was_open = self.forgive(name)
        if not keys and not was_open:
            raise ModelNotFound("Model {name} is not running.", hint="See what runs: zhibei ps", name=name)
        for key in keys:
            self._decide(scheduler.StopAsked(key))
        while any(key in self._state.models and self._state.models[key].doomed for key in keys):
            await self._next_change()

    def forgive(self, name: str) -> bool:
        """Let a model be tried again at once whose engine died too often; whether that was so."""
        was_open = self._circuits.is_open(name)
        self._circuits.close(name)
        return was_open

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
        await asyncio.gather(*self._recordings, return_exceptions=True)
        await asyncio.gather(*(item.engine.close() for item in running.values()))
        for item in running.values():
            self._watchers.tell(happenings.ModelUnloaded(item.wanted.model.name, "closing"))

    @property
    def max_under_way(self) -> int:
        """Requests that can be answered or wait at once; one more would be refused, whatever model it is for."""
        return self._settings.server.max_queue + sum(model.num_slots for model in self._state.models.values())

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a model."""
        return len(self._waiting)

    def _running_name(self, name: str) -> str:
        """The name under which a model runs that was given by it or by an alias; it may be gone from the disk."""
        if any(wanted.model.name == name for wanted in self._wanted.values()):
            return name
        with suppress(ZhibeiError):
            return self.find(name).name
        return name

    def _probed(self) -> Mapping[str, EngineInfo]:
        if not self._engines:
            self._engines = {name: backend.probe() for name, backend in self._backends.items()}
        return self._engines

    def _ticket(self, asked: Asked, keep_alive: str | None, owner: str) -> Ticket:
        key, pinned = asked.key, asked.wishes.pin and not self._is_pinned_otherwise(asked)
        keep_alive_s = parse_keep_alive(keep_alive if keep_alive is not None else asked.wishes.keep_alive)
        if key not in self._state.models and all(waiting.key != key for waiting in self._state.queue):
            self._unload_dead()
            chosen = self._fitting_plan(asked.model, asked.task, asked.load)
            self._wanted[key] = Wanted(asked.model, chosen, asked.task, asked.load, asked.wishes)
        wanted, deadline_s = self._wanted[key], time.monotonic() + self._settings.server.max_wait_s
        need_bytes = wanted.plan.needed_main_bytes
        return Ticket(next(self._ids), key, need_bytes, keep_alive_s, wanted.gpu_bytes, owner, pinned, deadline_s)

    def _unload_dead(self) -> None:
        """Engines that ended while nobody used them hold no memory: they go before any that would have to be stopped."""
        for key in [model.key for model in self._state.models.values() if model.can_make_room]:
            if self._running[key].engine.status().state == "failed":
                self._decide(scheduler.StopAsked(key))

    def _is_pinned_otherwise(self, asked: Asked) -> bool:
        """Whether a copy of the model with other options is pinned: that one stays, and further ones come and go."""
        others = ((key, model) for key, model in self._state.models.items() if key != asked.key and not model.doomed)
        return any(model.pinned and self._wanted[key].model.name == asked.model.name for key, model in others)

    def _fitting_plan(self, model: StoredModel, task: Task, load: LoadOptions) -> Plan:
        chosen = self.plan(model, task, load)
        if chosen.spec is None and self._state.models:
            # What is busy now is idle when the turn of this one comes: the scheduler makes it wait.
            leaving = [m for m in self._state.models.values() if not m.pinned]
            chosen = self._plan(model, task, load, leaving)
        if chosen.spec is None:
            raise refused(model, chosen)
        return chosen

    def _plan(self, model: StoredModel, task: Task, load: LoadOptions, freed: Sequence[Model]) -> Plan:
        """A plan for the moment when the models in ``freed`` are gone."""
        engine = registry.choose(self._settings.engine, model.info, task, self._probed())
        if engine.name == "upstream":
            return plan_upstream(model, task, load, with_absolute_paths(self._settings.load))
        known = Knowledge() if (kept := self._recorder) is None else kept.knowledge(engine, kernels=load.kernels is not False)
        return plan(
            with_files(model, load),
            left_on(self._hardware(), self._state.models.values(), freed, engine.devices, known.measured),
            engine.name,
            task,
            load,
            sum(model.held_bytes for model in freed),
            calibration=known.calibration,
            measured=known.measured,
            devices=engine.devices,
            kernels=engine.kernels,
            with_changes=False,
        )

    def _replanned(self, key: str, wanted: Wanted, load: LoadOptions) -> Plan:
        # It is starting itself: what it will take is not missing for it.
        own = [self._state.models[key]] if key in self._state.models else []
        return self._plan(wanted.model, wanted.task, load, own)

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
        num_waiting = len(self._state.queue)
        self._state, effects = scheduler.decide(
            self._state,
            event,
            now_s=time.monotonic(),
            free_bytes=hardware.available_bytes if hardware else None,
            total_bytes=hardware.total_bytes if hardware else None,
            free_gpu_bytes=self._free_gpus(hardware) if hardware else (),
            measured_bytes=self._measured() if hardware else None,
        )
        for effect in effects:
            self._perform(effect)
        if len(self._state.queue) != num_waiting:
            self._watchers.tell(happenings.QueueLength(len(self._state.queue)))
        self._forget()
        self._set_timer()
        self._announce()

    def _measured(self) -> dict[str, int]:
        """What the running engines take of main memory, as far as they know."""
        return {key: running.engine.status().memory_bytes or 0 for key, running in self._running.items()}

    def _free_gpus(self, hardware: Hardware) -> tuple[int, ...]:
        """Of the graphics processors that plans of now speak of."""
        names = {wanted.plan.spec.engine for wanted in self._wanted.values() if wanted.plan.spec is not None}
        devices = [info.devices for name in sorted(names) if (info := self._probed().get(name)) is not None]
        return free_gpu_bytes(hardware, max(devices, key=len)) if devices else ()

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
            case scheduler.Stop(key, why):
                _spawn(self._stops, self._stop(key, why))
            case scheduler.Refuse(ticket, reason):
                self._watchers.tell(happenings.Refused(self._wanted[ticket.key].model.name, reason))
                future = self._waiting[ticket.id]
                if not future.done():
                    future.set_exception(self._refusal(ticket, reason))

    def _refusal(self, ticket: Ticket, reason: scheduler.RefuseReason) -> ZhibeiError:
        name, server = self._wanted[ticket.key].model.name, self._settings.server
        if reason == "start_failed":
            return self._failures.get(ticket.key) or EngineStartFailed("{model} could not be loaded.", model=name)
        if reason == "unstable":
            return self._circuits.refusal(name)
        bounds = Bounds(server.max_queue, self._settings.max_models, server.max_wait_s)
        return refusal(name, reason, ticket.need_bytes, bounds, self._outlook(ticket.key))

    def _outlook(self, key: str) -> Outlook:
        running = self._running.get(key)
        if running is None:
            return Outlook(load_left_s=self._loads.left_s(key, self._wanted[key].model.name, time.monotonic()))
        return Outlook(request_s=running.usual_lease_s, num_slots=running.engine.num_slots)

    async def _start(self, key: str) -> None:
        outcome: scheduler.Event = scheduler.StartFailed(key)
        name, problem = self._wanted[key].model.name, None
        self._failures.pop(key, None)
        self._loads.began(key, time.monotonic())
        self._watchers.tell(happenings.LoadBegan(name))
        try:
            engine, self._wanted[key] = await self._starter.started(key, self._wanted[key], partial(self._note, name))
            load_s = self._loads.ended(key, name, time.monotonic())
            self._keep_running(key, engine, load_s)
            outcome = scheduler.Started(key, engine.num_slots, load_s)
        except ZhibeiError as error:
            self._failures[key] = problem = error
            self._watchers.tell(happenings.LoadFailed(name, str(error)))
        finally:
            self._loads.gone(key)
            self._decide(outcome)
            if problem is not None and is_crash(problem):
                self._crashed(name, problem)

    def _keep_running(self, key: str, engine: Engine, load_s: float) -> None:
        wanted = self._wanted[key]
        counted = CountedEngine(engine, partial(self._died, key))
        self._running[key] = Running(wanted, TimedEngine(counted, partial(self._keep_timings, key)), counted, load_s)
        num_bytes = engine.status().memory_bytes or wanted.plan.total_bytes
        self._watchers.tell(happenings.ModelLoaded(wanted.model.name, load_s, num_bytes))

    def _note(self, name: str, line: str) -> None:
        self.logs.write(name, line)
        _log.debug("%s", line)

    def _died(self, key: str, error: ZhibeiError) -> None:
        """The engine ended under its requests. One that is being closed has left the table."""
        if (running := self._running.get(key)) is not None:
            self._crashed(running.wanted.model.name, error)

    def _crashed(self, name: str, error: ZhibeiError) -> None:
        """An engine of the model has died; too often, and it is given up for a while."""
        self._watchers.tell(happenings.EngineCrashed(name, str(error)))
        if self._circuits.crashed(name, str(error)):
            _log.warning("The engine of %s died too often: it is left alone for a while.", name)
            for key in [key for key, wanted in self._wanted.items() if wanted.model.name == name]:
                self._decide(scheduler.Broken(key))

    async def _stop_idle(self, key: str) -> bool:
        """Make room: all idle models stop. Whether there were any."""
        idle = [m.key for m in self._state.models.values() if m.can_make_room]
        if not idle:
            return False
        _log.warning("%s ran out of memory while it was loaded: idle models are stopped.", self._wanted[key].model.name)
        self._decide(scheduler.StartCramped(key))
        while any(other in self._state.models and self._state.models[other].phase == "stopping" for other in idle):
            await self._next_change()
        return True

    def _keep_timings(self, key: str, timings: Timings, circumstances: Circumstances) -> None:
        if (running := self._running.get(key)) is None:
            return
        running.keep_timings(timings)
        spec = running.wanted.plan.spec
        # Most answers tell nothing: to find that out elsewhere would cost more than all the rest of a short one.
        if self._recorder is None or spec is None or not is_telling(spec, timings, circumstances):
            return
        now, engine, ran = running.engine.status(), self._probed()[spec.engine], running.wanted
        answer = Answer(ran.model, ran.plan, engine, timings, circumstances, now.memory_bytes, now.kernels)
        _spawn(self._recordings, self._recorder.record_beside(answer))

    async def _stop(self, key: str, why: scheduler.StopReason) -> None:
        running = self._running.pop(key)
        try:
            await running.engine.close()
        finally:
            self._watchers.tell(happenings.ModelUnloaded(running.wanted.model.name, why))
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


def _spawn(tasks: set[asyncio.Task[None]], work: Coroutine[object, None, None]) -> None:
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
