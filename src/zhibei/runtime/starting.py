"""How a model comes up: its engine is started as planned; where memory runs out, what may help is tried. Knows no queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from zhibei.engines.base import Backend, Engine, LogSink
from zhibei.errors import DoesNotFit, EngineStartFailed, Unsupported, ZhibeiError
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.layers import CELLS
from zhibei.planner.sizing import MIN_CTX
from zhibei.plans import Hardware, Plan, Task
from zhibei.runtime.naming import Wishes
from zhibei.runtime.shortage import lacks_memory
from zhibei.units import format_bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be loaded: enough to start it."""

    model: StoredModel
    plan: Plan
    task: Task
    load: LoadOptions
    wishes: Wishes

    @property
    def gpu_bytes(self) -> tuple[int, ...]:
        """What the plan takes of each graphics processor, as far as that has memory of its own."""
        uses = [use for use in self.plan.devices if use.device != "cpu"]
        return tuple(0 if use.is_shared else use.num_bytes for use in uses)


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

        Returns:
            The engine, and what it was started for in the end.

        Raises:
            DoesNotFit, EngineMissing, EngineStartFailed: it did not come up.
        """
        has_made_room = has_shortened = False
        while True:
            try:
                return await self._start(wanted, log), wanted
            except EngineStartFailed as error:
                if not lacks_memory(error):
                    raise
                if not has_made_room:
                    has_made_room = True
                    if await self._make_room(key):
                        continue
                shorter = None if has_shortened else self._shortened(key, wanted)
                if shorter is None:
                    raise self._out_of_memory(wanted) from error
                wanted, has_shortened = shorter, True

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
        shorter = self._replan(key, wanted, load)
        if shorter.spec is None:
            return None
        _log.warning("%s ran out of memory while it was loaded: its context is now %d.", wanted.model.name, ctx_size)
        return replace(wanted, plan=shorter)

    def _out_of_memory(self, wanted: Wanted) -> DoesNotFit:
        available = self._hardware().available_bytes
        return DoesNotFit(
            "{model} ran out of memory while it was loaded: it needs {needed}; {available} are free.",
            hint="Close other programs, or choose a smaller model, a smaller quantisation or a smaller --ctx-size.",
            model=wanted.model.name,
            needed=format_bytes(wanted.plan.needed_bytes),
            available="?" if available is None else format_bytes(available),
        )


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
