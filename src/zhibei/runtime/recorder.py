"""What speeds are predicted from, and how it grows: measured runs in, calibration out. Its file is measurements.py's.

``record`` blocks on a file and on arithmetic: an event loop calls it in a thread. ``knowledge`` is quick after the first call.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from zhibei.events import Timings
from zhibei.hardware import bandwidth
from zhibei.hardware.measured import Measured, fingerprint
from zhibei.models import StoredModel
from zhibei.planner.calibration import Calibration
from zhibei.planner.kernels import usable
from zhibei.planner.plan import way_of
from zhibei.planner.rates import Machine, machine_of
from zhibei.planner.space import space_of
from zhibei.plans import EngineInfo, Hardware, Kernels, Plan
from zhibei.runtime.measurements import Circumstances, Measurements, run_of
from zhibei.runtime.runs import kernels_mark


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of this machine's speed: what was measured of it, and what its runs have shown."""

    measured: Measured | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a running model, and what it ran as. ``kernels``: those of ours that it was computed with."""

    model: StoredModel
    plan: Plan
    engine: EngineInfo
    timings: Timings
    circumstances: Circumstances
    measured_bytes: int | None
    kernels: Kernels | None = None


class Recorder:
    """Keeps what runs have shown of this machine."""

    def __init__(self, state_directory: Path, hardware: Callable[[], Hardware]) -> None:
        """Nothing is read or made yet."""
        self._directory = state_directory
        self._hardware = hardware
        self._measurements = Measurements(state_directory)
        self._lock = threading.Lock()
        self._machine: Hardware | None = None
        self._known: dict[tuple[tuple[str, ...], str | None], Knowledge] = {}

    def knowledge(self, engine: EngineInfo, *, kernels: bool = True) -> Knowledge:
        """What is known now, of the devices that the engine uses, and of it with kernels of ours or (``kernels``) without."""
        expected = self._expected(engine) if kernels else None
        found = self._known.get((engine.devices, kernels_mark(expected)))
        return found if found is not None else self._learn(engine, expected)

    def record(self, answer: Answer) -> bool:
        """Keep an answer and learn from it; False where it tells nothing, or could not be kept."""
        spec, info = answer.plan.spec, answer.model.info
        # What another server takes its time for says nothing of this machine.
        if spec is None or spec.engine == "upstream":
            return False
        hardware, known = self._lasting(), self.knowledge(answer.engine)
        mark = kernels_mark(answer.kernels)
        run = run_of(
            machine=fingerprint(hardware),
            model=answer.model.name,
            digest=next((file.digest for file in answer.model.files), None),
            info=info,
            spec=spec,
            way=way_of(answer.plan),
            timings=answer.timings,
            circumstances=answer.circumstances,
            engine_version=answer.engine.version,
            kernels=hardware.cpu_features if mark is None else (*hardware.cpu_features, mark),
            planned_bytes=answer.plan.total_bytes,
            measured_bytes=answer.measured_bytes,
            figures=self._figures(hardware, answer.engine, known.measured, answer.kernels),
        )
        if run is None:
            return False
        with suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
        is_kept = self._measurements.record(run)
        self._learn(answer.engine, answer.kernels)
        return is_kept

    async def record_beside(self, answer: Answer) -> None:
        """``record``, without keeping the event loop waiting."""
        await asyncio.to_thread(self.record, answer)

    def _expected(self, engine: EngineInfo) -> Kernels | None:
        return usable(engine.kernels, space_of(self._lasting(), devices=engine.devices).gpus)

    def _learn(self, engine: EngineInfo, kernels: Kernels | None) -> Knowledge:
        with self._lock:
            hardware = self._lasting()
            measured = bandwidth.kept(self._directory, hardware)
            figures = self._figures(hardware, engine, measured, kernels)
            learnt = self._measurements.calibration(fingerprint(hardware), figures, kernels)
            found = Knowledge(measured, learnt if learnt.num_samples else None)
            self._known[engine.devices, kernels_mark(kernels)] = found
            return found

    def _lasting(self) -> Hardware:
        """The machine as it was when it was first asked for: nothing that is kept depends on what is free at the moment."""
        if self._machine is None:
            self._machine = self._hardware()
        return self._machine

    def _figures(self, hardware: Hardware, engine: EngineInfo, measured: Measured | None, kernels: Kernels | None) -> Machine:
        gpus = space_of(hardware, devices=engine.devices).gpus
        return machine_of(replace(hardware, gpus=gpus), measured, kernels)
