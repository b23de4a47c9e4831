"""An engine that runs, what it was started for, what was seen of it, and how it is shown. Knows no pool."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

from zhibei.engines.base import Engine
from zhibei.events import Timings
from zhibei.plans import Resident
from zhibei.runtime.counted import CountedEngine
from zhibei.runtime.scheduler import Model
from zhibei.runtime.starting import Wanted

_NUM_REMEMBERED = 32
_MAX_LOAD_TIMES = 256
# The speed of a shorter answer says little.
MIN_TIMED_TOKENS = 8


@dataclass(slots=True)
class Running:
    """``engine`` is what requests get; ``counted`` is within it. ``timings`` of its last generation that says something."""

    wanted: Wanted
    engine: Engine
    counted: CountedEngine
    load_s: float
    timings: Timings | None = None
    num_requests: int = 0
    lease_times_s: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_REMEMBERED))

    def leased(self, seconds: float) -> None:
        """A request is done, after so long."""
        self.num_requests += 1
        self.lease_times_s.append(seconds)

    def keep_timings(self, timings: Timings) -> None:
        """A generation is done."""
        if timings.num_generated_tokens >= MIN_TIMED_TOKENS:
            self.timings = timings

    @property
    def usual_lease_s(self) -> float | None:
        """How long a request usually takes; None: there was none yet."""
        return statistics.median(self.lease_times_s) if self.lease_times_s else None


class LoadTimes:
    """When loads began, and how long the last one of each model took."""

    def __init__(self) -> None:
        self._began_s: dict[str, float] = {}
        self._took_s: dict[str, float] = {}

    def began(self, key: str, now_s: float) -> None:
        """A load has begun."""
        self._began_s[key] = now_s

    def ended(self, key: str, name: str, now_s: float) -> float:
        """A load of the model ``name`` has ended well; the seconds it took."""
        took_s = now_s - self._began_s[key]
        self._took_s.pop(name, None)
        self._took_s[name] = took_s
        if len(self._took_s) > _MAX_LOAD_TIMES:
            del self._took_s[next(iter(self._took_s))]
        return took_s

    def gone(self, key: str) -> None:
        """Nothing loads any more."""
        self._began_s.pop(key, None)

    def left_s(self, key: str, name: str, now_s: float) -> float | None:
        """How long the load will still take; None: not known, or nothing loads."""
        began_s, usual_s = self._began_s.get(key), self._took_s.get(name)
        return None if began_s is None or usual_s is None else max(0.0, began_s + usual_s - now_s)


def resident(model: Model, wanted: Wanted, running: Running | None, *, num_waiting: int, now_s: float) -> Resident:
    """A model as it is shown. ``now_s`` is on the scheduler's clock."""
    spec = wanted.plan.spec
    assert spec is not None
    status = running.engine.status() if running is not None else None
    expires = model.expires_at_s
    wait_s = None if expires is None else max(0.0, expires - now_s)
    state: str = model.phase
    if model.phase == "ready":
        state = "busy" if model.leases else status.state if status else state
    shown = Resident(
        name=wanted.model.name,
        engine=spec.engine,
        task=spec.task,
        state=state,
        pid=status.pid if status else None,
        ctx_size=spec.ctx_size,
        num_slots=model.num_slots or spec.num_slots,
        num_leases=len(model.leases),
        planned_bytes=wanted.plan.total_bytes,
        measured_bytes=status.memory_bytes if status else None,
        expires_at=None if wait_s is None else datetime.now(timezone.utc) + timedelta(seconds=wait_s),
        predicted_tokens_per_s=wanted.plan.speed.generation_tokens_per_s if wanted.plan.speed is not None else None,
        pinned=model.pinned,
        aliases=wanted.wishes.aliases,
        num_waiting=num_waiting,
        gpu_bytes=sum(model.gpu_bytes) if wanted.device_problem is None else 0,
        device_problem=wanted.device_problem,
        kernels=status.kernels if status else None,
    )
    return shown if running is None else _with_counts(shown, running)


def _with_counts(shown: Resident, running: Running) -> Resident:
    usage = running.counted.usage
    return replace(
        shown,
        measured_tokens_per_s=running.timings.generation_tokens_per_s if running.timings is not None else None,
        load_s=running.load_s,
        num_requests=running.num_requests,
        num_prompt_tokens=usage.num_prompt_tokens,
        num_generated_tokens=usage.num_generated_tokens,
        num_cached_tokens=usage.num_cached_tokens,
        num_crashes=running.counted.num_crashes,
    )
