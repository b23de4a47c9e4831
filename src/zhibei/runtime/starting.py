"""How a model comes up: its engine is started as planned; what may help against what fails is tried. Knows no queue."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from zhibei.engines.base import Backend, Engine, LogSink
from zhibei.engines.endings import DEVICE_HINT, MEMORY_HINT, device_failure, device_missing
from zhibei.errors import DoesNotFit, EngineStartFailed, Unsupported, ZhibeiError
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.layers import CELLS
from zhibei.planner.sizing import MIN_CTX
from zhibei.plans import Hardware, Plan, Task
from zhibei.runtime.circuit import is_crash
from zhibei.runtime.naming import Wishes
from zhibei.runtime.shortage import lacks_memory, says_so
from zhibei.units import format_bytes

_log = logging.getLogger(__name__)
_NUM_HEARD = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be loaded: enough to start it. ``device_problem``: why it is without the graphics processor it was meant for."""

    model: StoredModel
    plan: Plan
    task: Task
    load: LoadOptions
    wishes: Wishes
    device_problem: str | None = None

    @property
    def gpu_bytes(self) -> tuple[int, ...]:
        """What the plan takes of each graphics processor, as far as that has memory of its own."""
        uses = [use for use in self.plan.devices if use.device != "cpu"]
        return tuple(0 if use.is_shared else use.num_bytes for use in uses)

    @property
    def is_on_device(self) -> bool:
        """Whether a graphics processor is to compute some of it."""
        return any(use.num_bytes for use in self.plan.devices if use.device != "cpu")


class _Heard:
    """What an engine said last, and to whom it is told."""

    def __init__(self, log: LogSink) -> None:
        self._log = log
        self.lines: deque[str] = deque(maxlen=_NUM_HEARD)

    def hear(self, line: str) -> None:
        self.lines.append(line)
        self._log(line)


class Starter:
    """Starts engines."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        hardware: Callable[[], Hardware],
        load_timeout_s: float,
        *,
        make_room: Callable[[str], Awaitable[bool]],
        replan: Callable[[str, Wanted, LoadOptions], Plan],
    ) -> None:
        """Starts nothing.

        Args:
            make_room: stops all idle models for the one with this key; tells whether there were any.
            replan: a plan for the one with this key, which is starting, with other options.
        """
        self._backends = backends
        self._hardware = hardware
        self._load_timeout_s = load_timeout_s
        self._make_room = make_room
        self._replan = replan

    async def started(self, key: str, wanted: Wanted, log: LogSink) -> tuple[Engine, Wanted]:
        """The engine of the plan; where memory runs out, once more without idle models, and once with a shorter context.

        Where a graphics processor fails, once more on it, and once without it; which is said wherever the model is shown.

        Returns:
            The engine, and what it was started for in the end.

        Raises:
            DoesNotFit, EngineMissing, EngineStartFailed: it did not come up.
        """
        has_made_room = has_shortened = has_failed = False
        while True:
            heard = _Heard(log)
            try:
                return await self._computing(wanted, heard), wanted
            except EngineStartFailed as error:
                problem = _device_problem(wanted, error, heard)
                if problem is not None:
                    # One that is not even found will not be found a moment later.
                    if is_crash(error) and not has_failed:
                        has_failed = True
                        continue
                    wanted = self._without_device(key, wanted, problem, error)
                    continue
                if not lacks_memory(error):
                    raise
                if not has_made_room:
                    has_made_room = True
                    if await self._make_room(key):
                        continue
                shorter = None if has_shortened else self._shortened(key, wanted)
                if shorter is None:
                    raise self._out_of_memory(wanted, error) from error
                wanted, has_shortened = shorter, True

    async def _computing(self, wanted: Wanted, heard: _Heard) -> Engine:
        """The engine, if it computes where the plan says: without a graphics processor it would just be slow."""
        engine = await self._start(wanted, heard.hear)
        used = engine.status().kernels
        if used is not None and used.problem is not None:
            _log.warning("%s is computed without zhibei-kernels: %s. %s", wanted.model.name, used.problem, used.hint or "")
        said = device_missing(heard.lines) if wanted.is_on_device else None
        if said is None:
            return engine
        await engine.close()
        raise EngineStartFailed(
            "{model} was to be computed on a graphics processor, and the engine finds none: {said}",
            hint=DEVICE_HINT,
            model=wanted.model.name,
            said=said,
        )

    async def _start(self, wanted: Wanted, log: LogSink) -> Engine:
        spec = wanted.plan.spec
        assert spec is not None
        try:
            return await asyncio.wait_for(self._backends[spec.engine].start(spec, log), self._load_timeout_s)
        except asyncio.TimeoutError:
            raise EngineStartFailed(
                "{model} did not finish loading within {seconds} seconds.",
                hint="Raise load_timeout_s in the configuration if the disk is slow.",
                model=wanted.model.name,
                seconds=int(self._load_timeout_s),
            ) from None

    def _shortened(self, key: str, wanted: Wanted) -> Wanted | None:
        """With half of a context that nobody asked for, and one answer at a time; None where that is not possible."""
        ctx_size = (wanted.plan.ctx_size or 0) // 2 // CELLS * CELLS
        if wanted.load.ctx_size is not None or wanted.task != "generate" or ctx_size < MIN_CTX:
            return None
        load = replace(wanted.load, ctx_size=ctx_size, parallel=wanted.load.parallel or 1)
        if wanted.device_problem is not None:
            load = replace(load, gpu_layers=0)
        shorter = self._replan(key, wanted, load)
        if shorter.spec is None:
            return None
        _log.warning("%s ran out of memory while it was loaded: its context is now %d.", wanted.model.name, ctx_size)
        return replace(wanted, plan=shorter)

    def _without_device(self, key: str, wanted: Wanted, problem: str, error: EngineStartFailed) -> Wanted:
        """On the processor alone, if nobody asked for anything else and it fits; else the error stands."""
        if wanted.load.gpu_layers is not None:
            raise error
        plan = self._replan(key, wanted, replace(wanted.load, gpu_layers=0))
        if plan.spec is None:
            raise error
        _log.warning("The graphics processor fails %s, which is computed without it: %s", wanted.model.name, problem)
        return replace(wanted, plan=plan, device_problem=problem)

    def _out_of_memory(self, wanted: Wanted, error: EngineStartFailed) -> ZhibeiError:
        available = self._hardware().available_bytes
        values = {
            "model": wanted.model.name,
            "needed": format_bytes(wanted.plan.needed_bytes),
            "available": "?" if available is None else format_bytes(available),
        }
        if says_so(error):
            return DoesNotFit(
                "{model} ran out of memory while it was loaded: it needs {needed}; {available} are free.",
                hint=MEMORY_HINT,
                **values,
            )
        return EngineStartFailed(
            "{model} could not be loaded: {how} ({code}). It needs {needed}; {available} are free.",
            hint=MEMORY_HINT,
            log_tail=error.log_tail,
            how=error.values["how"] if "how" in error.values else str(error),
            code=error.values.get("code", "?"),
            **values,
        )


def _device_problem(wanted: Wanted, error: EngineStartFailed, heard: _Heard) -> str | None:
    """What the engine said of the graphics processor that it failed for, if that was why."""
    if not wanted.is_on_device:
        return None
    return device_failure(heard.lines) if is_crash(error) else device_missing(heard.lines)


def refused(model: StoredModel, chosen: Plan) -> ZhibeiError:
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
