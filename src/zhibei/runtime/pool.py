"""Running engines and the requests that use them. Performs what ``scheduler.py`` decides; the one writer of its state.

All of it runs on one event loop. A lease is held from the moment a request is served until it is done, whatever ended it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial

from zhibei.engines import registry
from zhibei.engines.base import Backend, Engine
from zhibei.errors import Busy, DoesNotFit, EngineStartFailed, ModelNotFound, Unsupported, ZhibeiError
from zhibei.events import Timings
from zhibei.hardware.measured import with_measured
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.layers import CELLS
from zhibei.planner.plan import plan
from zhibei.planner.sizing import MIN_CTX
from zhibei.planner.space import space_of
from zhibei.plans import EngineInfo, Gpu, Hardware, Plan, Resident, Task
from zhibei.runtime import scheduler
from zhibei.runtime.defaults import load_options, with_defaults
from zhibei.runtime.measurements import Circumstances
from zhibei.runtime.named_files import with_absolute_paths, with_files
from zhibei.runtime.recorder import Answer, Knowledge, Recorder
from zhibei.runtime.scheduler import Model, State, Ticket
from zhibei.runtime.shortage import lacks_memory
from zhibei.runtime.timed import TimedEngine
from zhibei.settings import Settings
from zhibei.units import format_bytes, parse_keep_alive

_log = logging.getLogger(__name__)
# What may help a start that lacks memory; tells whether it could be done.
_Remedy = Callable[[str], Awaitable[bool]]
# The speed of a shorter answer says little.
MIN_TIMED_TOKENS = 8


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a key stands for: enough to start it."""

    model: StoredModel
    plan: Plan
    task: Task
    load: LoadOptions


@dataclass(slots=True)
class _Running:
    """An engine and what it was started for; ``timings`` of its last generation."""

    wanted: _Wanted
    engine: Engine
    timings: Timings | None = None


class Pool:
    """Load on request, share, wait, unload."""

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
        """
        self._recorder = recorder
        self._recordings: set[asyncio.Task[None]] = set()
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
            owner: who asks; those who wait are served in turn by owner.

        Raises:
            ModelNotFound, ModelBroken: nothing to run.
            DoesNotFit: too large for this machine's memory.
            Unsupported: the engine cannot run it so.
            Busy: the queue is full, or the service is stopping.
            EngineMissing, EngineStartFailed: it did not come up.
        """
        stored = self._resolve(model)
        ticket = replace(self._ticket(stored, task, self._load(stored, load), keep_alive), owner=owner)
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
        idle = [m for m in self._state.models.values() if m.phase == "ready" and not m.leases]
        return self._plan(model, task, with_absolute_paths(load), idle)

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
        await asyncio.gather(*self._recordings, return_exceptions=True)
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
        return with_absolute_paths(load_options(asked, model.defaults, self._settings.load))

    def _ticket(self, model: StoredModel, task: Task, load: LoadOptions, keep_alive: str | None) -> Ticket:
        keep_alive_s = parse_keep_alive(keep_alive) if keep_alive is not None else self._settings.keep_alive_s
        key = self._key(model, task, load)
        if key not in self._state.models and all(waiting.key != key for waiting in self._state.queue):
            self._wanted[key] = _Wanted(model, self._fitting_plan(model, task, load), task, load)
        chosen = self._wanted[key].plan
        return Ticket(next(self._ids), key, chosen.needed_main_bytes, keep_alive_s, _gpu_bytes(chosen))

    def _key(self, model: StoredModel, task: Task, load: LoadOptions) -> str:
        return f"{model.name} {task} {load!r} {model.model_path}"

    def _fitting_plan(self, model: StoredModel, task: Task, load: LoadOptions) -> Plan:
        chosen = self.plan(model, task, load)
        if chosen.spec is None and self._state.models:
            # What is busy now is idle when the turn of this one comes: the scheduler makes it wait.
            chosen = self._plan(model, task, load, list(self._state.models.values()))
        if chosen.spec is None:
            raise _refused(model, chosen)
        return chosen

    def _plan(self, model: StoredModel, task: Task, load: LoadOptions, freed: Sequence[Model]) -> Plan:
        """A plan for the moment when the models in ``freed`` are gone."""
        engine = registry.choose(self._settings.engine, model.info, task, self._probed())
        hardware, known = self._hardware(), self._recorder.knowledge(engine) if self._recorder is not None else Knowledge()
        running = self._state.models.values()
        room = scheduler.room_bytes(running, hardware.available_bytes, hardware.total_bytes)
        used = space_of(hardware, devices=engine.devices).gpus
        free = scheduler.room_gpu_bytes(running, _free_gpu_bytes(used))
        gone = [sum(m.gpu_bytes[number] for m in freed if number < len(m.gpu_bytes)) for number in range(len(used))]
        # Starting models have not taken theirs yet: it was never missing from what is free.
        now = {id(gpu): free[number] + gone[number] for number, gpu in enumerate(used) if gpu.free_bytes is not None}
        gpus = tuple(replace(gpu, free_bytes=now[id(gpu)]) if id(gpu) in now else gpu for gpu in hardware.gpus)
        return plan(
            with_files(model, load),
            replace(with_measured(hardware, known.measured), available_bytes=room, gpus=gpus),
            engine.name,
            task,
            load,
            sum(model.num_bytes for model in freed),
            calibration=known.calibration,
            measured=known.measured,
            devices=engine.devices,
            with_changes=False,
        )

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
            free_gpu_bytes=self._free_gpus(hardware) if hardware else (),
        )
        for effect in effects:
            self._perform(effect)
        self._forget()
        self._set_timer()
        self._announce()

    def _free_gpus(self, hardware: Hardware) -> tuple[int, ...]:
        """Of the graphics processors that plans of now speak of."""
        devices = {wanted.plan.spec.engine for wanted in self._wanted.values() if wanted.plan.spec is not None}
        known = [self._probed()[name].devices for name in devices if name in self._probed()]
        return _free_gpu_bytes(space_of(hardware, devices=known[0]).gpus) if known else ()

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
        outcome: scheduler.Event = scheduler.StartFailed(key)
        self._failures.pop(key, None)
        try:
            engine = await self._started(key)
            self._running[key] = _Running(self._wanted[key], TimedEngine(engine, partial(self._keep_timings, key)))
            outcome = scheduler.Started(key, engine.num_slots)
        except (ZhibeiError, asyncio.TimeoutError) as error:
            self._failures[key] = error if isinstance(error, ZhibeiError) else _too_slow(self._wanted[key], self._settings)
        finally:
            self._decide(outcome)

    async def _started(self, key: str) -> Engine:
        """The engine of the plan; where memory runs out, once more without idle models, and once with a shorter context."""
        remedies: list[_Remedy] = [self._stop_idle, self._shorten]
        while True:
            spec = self._wanted[key].plan.spec
            assert spec is not None
            try:
                starting = self._backends[spec.engine].start(spec, _log.debug)
                return await asyncio.wait_for(starting, self._settings.load_timeout_s)
            except EngineStartFailed as error:
                if not lacks_memory(error):
                    raise
                if not await _remedied(key, remedies):
                    raise self._out_of_memory(key) from error

    async def _stop_idle(self, key: str) -> bool:
        """Make room: all idle models stop. Whether there were any."""
        idle = [m.key for m in self._state.models.values() if m.phase == "ready" and not m.leases]
        if not idle:
            return False
        _log.warning("%s ran out of memory while it was loaded: idle models are stopped.", self._wanted[key].model.name)
        self._decide(scheduler.StartCramped(key))
        while any(other in self._state.models and self._state.models[other].phase == "stopping" for other in idle):
            await self._next_change()
        return True

    async def _shorten(self, key: str) -> bool:
        """Halve a context that nobody asked for, and answer one request at a time. Whether that was possible."""
        wanted = self._wanted[key]
        ctx_size = (wanted.plan.ctx_size or 0) // 2 // CELLS * CELLS
        if wanted.load.ctx_size is not None or wanted.task != "generate" or ctx_size < MIN_CTX:
            return False
        load = replace(wanted.load, ctx_size=ctx_size, parallel=wanted.load.parallel or 1)
        # It is starting itself: what it will take is not missing for it.
        own = [self._state.models[key]] if key in self._state.models else []
        shorter = self._plan(wanted.model, wanted.task, load, own)
        if shorter.spec is None:
            return False
        _log.warning("%s ran out of memory while it was loaded: its context is now %d.", wanted.model.name, ctx_size)
        self._wanted[key] = replace(wanted, plan=shorter)
        return True

    def _out_of_memory(self, key: str) -> DoesNotFit:
        wanted, available = self._wanted[key], self._hardware().available_bytes
        return DoesNotFit(
            "{model} ran out of memory while it was loaded: it needs {needed}; {available} are free.",
            hint="Close other programs, or choose a smaller model, a smaller quantisation or a smaller --ctx-size.",
            model=wanted.model.name,
            needed=format_bytes(wanted.plan.needed_bytes),
            available="?" if available is None else format_bytes(available),
        )

    def _keep_timings(self, key: str, timings: Timings, circumstances: Circumstances) -> None:
        running = self._running.get(key)
        if running is None:
            return
        if timings.num_generated_tokens >= MIN_TIMED_TOKENS:
            running.timings = timings
        spec = running.wanted.plan.spec
        if self._recorder is None or spec is None:
            return
        measured, engine = running.engine.status().memory_bytes, self._probed()[spec.engine]
        answer = Answer(running.wanted.model, running.wanted.plan, engine, timings, circumstances, measured)
        _spawn(self._recordings, _recorded(self._recorder, answer))

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
            predicted_tokens_per_s=wanted.plan.speed.generation_tokens_per_s if wanted.plan.speed is not None else None,
            measured_tokens_per_s=running.timings.generation_tokens_per_s if running is not None and running.timings else None,
        )


def _spawn(tasks: set[asyncio.Task[None]], work: Coroutine[object, None, None]) -> None:
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _refused(model: StoredModel, chosen: Plan) -> ZhibeiError:
    """The error for a plan without a spec: what it says first."""
    message, values = chosen.reasons[0]
    if chosen.verdict == "unsupported":
        return Unsupported(message, **values)
    if "gpu" in values:
        return DoesNotFit(message, hint="Ask for fewer --gpu-layers, or leave their number to the plan.", **values)
    return DoesNotFit(
        "{model} needs {needed} of memory; {available} are free.",
        hint="Close other programs, or choose a smaller model, a smaller quantisation or a smaller --ctx-size.",
        model=model.name,
        needed=values["needed"],
        available=values["available"],
    )


async def _recorded(recorder: Recorder, answer: Answer) -> None:
    await asyncio.to_thread(recorder.record, answer)


async def _remedied(key: str, remedies: list[_Remedy]) -> bool:
    """Whether one of the remedies that are left could be used; each is tried once."""
    while remedies:
        if await remedies.pop(0)(key):
            return True
    return False


def _gpu_bytes(chosen: Plan) -> tuple[int, ...]:
    """What a plan takes of each graphics processor that has memory of its own."""
    uses = [use for use in chosen.devices if use.device != "cpu"]
    return tuple(0 if use.is_shared else use.num_bytes for use in uses)


def _free_gpu_bytes(gpus: Sequence[Gpu]) -> tuple[int, ...]:
    return tuple(gpu.free_bytes or gpu.total_bytes or gpu.shared_bytes or 0 for gpu in gpus)


def _too_slow(wanted: _Wanted, settings: Settings) -> ZhibeiError:
    return EngineStartFailed(
        "{model} did not finish loading within {seconds} seconds.",
        hint="Raise load_timeout_s in the configuration if the disk is slow.",
        model=wanted.model.name,
        seconds=int(settings.load_timeout_s),
    )
