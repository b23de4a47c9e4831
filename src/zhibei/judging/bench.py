"""A machine and an engine that questions about models are asked of: this machine, or a described one. I/O only here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from zhibei.engines.registry import AUTOMATIC, create
from zhibei.hardware import bandwidth
from zhibei.hardware.detect import detect
from zhibei.hardware.measured import Measured, fingerprint, with_measured
from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.calibration import Calibration
from zhibei.planner.imagined import as_hardware, imagine
from zhibei.planner.kernels import possible, usable
from zhibei.planner.plan import plan
from zhibei.planner.rates import machine_of
from zhibei.planner.space import space_of
from zhibei.plans import Change, EngineInfo, Hardware, Kernels, Plan, Task
from zhibei.runtime.measurements import Measurements
from zhibei.runtime.runs import Run


@dataclass(frozen=True, slots=True)
class Bench:
    """A machine and an engine. ``is_here``: the machine is this one, so that what its engine can do is known.

    ``devices`` None: whatever the machine's drivers allow. ``runs``: what was measured of models that ran here;
    ``calibration`` from those with the engine's own products, ``kernels_calibration`` from those with kernels of ours.
    ``kernels``: those that plans count on; of a described machine nobody said that they are installed.
    """

    hardware: Hardware
    engine: EngineInfo
    is_here: bool
    measured: Measured | None = None
    calibration: Calibration | None = None
    runs: tuple[Run, ...] = ()
    kernels_calibration: Calibration | None = None
    kernels: Kernels | None = None

    @property
    def possible_kernels(self) -> Kernels | None:
        """Those that compute, or would if they were installed; None: never, or it is not known."""
        if not self.is_here:
            return possible(self.hardware) if self.engine.name == AUTOMATIC[0] else None
        mine = self.engine.kernels
        if mine is None or mine.level is not None:
            return mine
        # What can be mended comes with a hint.
        return possible(self.hardware) if mine.hint is not None else None

    @property
    def devices(self) -> tuple[str, ...] | None:
        """What the engine at hand computes on; None for an engine that is yet to be installed."""
        return self.engine.devices if self.is_here and self.engine.installed else None

    def last_run(self, model: StoredModel) -> Run | None:
        """The newest measured run of a model."""
        return next((run for run in reversed(self.runs) if run.model == model.name and run.engine == self.engine.name), None)

    def elsewhere(self, hardware: Hardware) -> Bench:
        """The same engine on another machine, of which nothing was measured."""
        return Bench(hardware, self.engine, is_here=False)

    def untaught(self, kernels: Kernels | None) -> Bench:
        """The same with these kernels of ours or with none, and without what runs have shown: to compare like with like."""
        return replace(self, kernels=kernels, calibration=None, kernels_calibration=None)

    def plan(self, model: StoredModel, task: Task, wishes: LoadOptions, purpose: str, *, with_changes: bool = True) -> Plan:
        """How a model would run."""
        counts = self.kernels is not None and wishes.kernels is not False
        made = plan(
            model,
            self.hardware,
            self.engine.name,
            task,
            wishes,
            calibration=self.kernels_calibration if counts else self.calibration,
            measured=self.measured,
            devices=self.devices,
            purpose=purpose,
            kernels=self.kernels,
            with_changes=with_changes,
        )
        model_format = model.info.format if model.info is not None else "unknown"
        return _unsupported(made, model) if with_changes and model_format not in self.engine.formats else made


def described_bench(described: str, engine: str) -> Bench:
    """A machine in words.

    Raises:
        BadRequest: the description does not parse.
        BadSetting: there is no such engine.
    """
    return Bench(as_hardware(imagine(described)), probed(engine), is_here=False)


def this_machine(state: Path, engine: str, measure: Callable[[Hardware], Measured] | None = None) -> Bench:
    """This machine as it is now, with what was measured on it.

    Args:
        state: the directory where measurements are kept.
        measure: what to do if it was never measured; None: it stays unmeasured.

    Raises:
        BadSetting: there is no such engine.
    """
    known, hardware = probed(engine), detect()
    measured = bandwidth.kept(state, hardware)
    if measured is None and measure is not None:
        measured = measure(hardware)
    runs = Measurements(state)
    mark = fingerprint(hardware)
    hardware = with_measured(hardware, measured)
    found = Bench(hardware, known, is_here=True, measured=measured, runs=runs.runs_of(mark))
    gpus = space_of(hardware, devices=found.devices).gpus
    computing, kernels = replace(hardware, gpus=gpus), usable(known.kernels, gpus)
    found = replace(found, calibration=runs.calibration(mark, machine_of(computing, measured)))
    if kernels is None:
        return found
    learnt = runs.calibration(mark, machine_of(computing, measured, kernels), kernels)
    return replace(found, kernels=kernels, kernels_calibration=learnt)


def probed(engine: str) -> EngineInfo:
    """What an engine says of itself; ``auto``: the usual one."""
    return create(AUTOMATIC[0] if engine == "auto" else engine).probe()


def _unsupported(made: Plan, model: StoredModel) -> Plan:
    """The plan of a model in a format that the engine does not read: its memory is still worth knowing."""
    name = model.name.partition(":")[0].rpartition("/")[2]
    change = Change("engine", N_("Look for the same model as GGUF: zhibei search {name}"), {"name": name})
    return replace(made, changes=(change,))
