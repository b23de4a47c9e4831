"""What a question about models is asked of: this machine or a described one, an engine, and what was measured. I/O only.

Owns the options that these questions share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import OneOf, Words
from zhibei.cli.wording import option
from zhibei.errors import BadRequest, StoreError
from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.options import CacheType, LoadOptions
from zhibei.plans import Change, EngineInfo, Hardware, Plan, Task

if TYPE_CHECKING:
    from zhibei.hardware.measured import Measured
    from zhibei.planner.calibration import Calibration
    from zhibei.runtime.runs import Run

PURPOSES = ("chat", "code", "translate", "rag", "embed", "roleplay", "vision", "reasoning", "rerank")
_LEAST_CTX, _MOST_CTX = 256, 1 << 24
CACHE_TYPES = OneOf(get_args(CacheType))


@dataclass(frozen=True, slots=True)
class Tokens:
    """A number of tokens: ``8192``, ``8k`` (8 × 1024), ``1m``."""

    metavar: str = "TOKENS"

    def read(self, text: str, name: str) -> int:
        """The number."""
        lowered = text.strip().lower()
        factor = {"k": 1 << 10, "m": 1 << 20}.get(lowered[-1:], 1)
        digits = lowered[:-1] if factor > 1 else lowered
        count = int(digits) * factor if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0
        if not _LEAST_CTX <= count <= _MOST_CTX:
            raise BadRequest(
                "{name} takes a number of tokens from {low} to {high}, not {text!r}.",
                hint="Write it like 8192 or 32k.",
                param=name,
                name=name,
                low=_LEAST_CTX,
                high=_MOST_CTX,
                text=text[:40],
            )
        return count


HARDWARE_OPTION = option(
    "--hardware",
    "described",
    kind=Words("MACHINE"),
    help=N_("Another machine than this one, as in rtx4090x2,ram=64g,ddr5-5600x2 or m2-max-64g."),
)
CTX_OPTION = option("--ctx", "-c", "ctx_size", kind=Tokens(), help=N_("Context in tokens, as in 8192 or 32k."))


LANGUAGE_OPTION = option("--language", kind=Words("CODE"), help=N_("Only models that know this language: zh, en, …"))
LICENCE_OPTION = option(
    "--licence",
    kind=OneOf(("commercial", "any")),
    default="any",
    help=N_("commercial: only models that are known to be free for business use."),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """A machine and an engine. ``is_here``: the machine is this one, so that what its engine can do is known.

    ``devices`` None: whatever the machine's drivers allow. ``runs``: what was measured of models that ran here.
    """

    hardware: Hardware
    engine: EngineInfo
    is_here: bool
    measured: Measured | None = None
    calibration: Calibration | None = None
    runs: tuple[Run, ...] = ()

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

    def plan(self, model: StoredModel, task: Task, wishes: LoadOptions, purpose: str, *, with_changes: bool = True) -> Plan:
        """How a model would run."""
        from zhibei.planner.plan import plan

        made = plan(
            model,
            self.hardware,
            self.engine.name,
            task,
            wishes,
            calibration=self.calibration,
            measured=self.measured,
            devices=self.devices,
            purpose=purpose,
            with_changes=with_changes,
        )
        model_format = model.info.format if model.info is not None else "unknown"
        return _unsupported(made, model) if with_changes and model_format not in self.engine.formats else made


def bench(invocation: Invocation, described: str | None, engine: str | None = None, *, may_measure: bool = False) -> Bench:
    """The machine that was described, else this one as it is now; the engine that was named, else the usual one.

    ``may_measure``: what this machine can do is measured if it never was, which takes a few seconds.

    Raises:
        BadRequest: the description does not parse.
        BadSetting: there is no such engine.
    """
    from zhibei.engines.registry import AUTOMATIC, create

    wanted = engine or invocation.settings.engine
    known = create(AUTOMATIC[0] if wanted == "auto" else wanted).probe()
    if described is not None:
        from zhibei.planner.imagined import as_hardware, imagine

        return Bench(as_hardware(imagine(described)), known, is_here=False)
    from zhibei.hardware import bandwidth
    from zhibei.hardware.detect import detect
    from zhibei.hardware.measured import fingerprint, with_measured
    from zhibei.planner.rates import machine_of
    from zhibei.runtime.measurements import Measurements

    hardware, state = detect(), invocation.settings.home / "state"
    measured = bandwidth.kept(state, hardware)
    if measured is None and may_measure:
        measured = _measure(invocation, hardware)
    runs = Measurements(state)
    mark = fingerprint(hardware)
    hardware = with_measured(hardware, measured)
    calibration = runs.calibration(mark, machine_of(hardware, measured))
    return Bench(hardware, known, is_here=True, measured=measured, calibration=calibration, runs=runs.runs_of(mark))


def _measure(invocation: Invocation, hardware: Hardware) -> Measured:
    """Measure this machine once; where that cannot be kept, it is done again the next time."""
    from zhibei.hardware import bandwidth

    invocation.printer.transient(invocation.text("Measuring this machine, once: a few seconds …"))
    try:
        return bandwidth.measured(invocation.settings.home / "state", hardware)
    except StoreError:
        return bandwidth.measure(hardware)
    finally:
        invocation.printer.clear_transient()


def _unsupported(made: Plan, model: StoredModel) -> Plan:
    """The plan of a model in a format that the engine does not read: its memory is still worth knowing."""
    name = model.name.partition(":")[0].rpartition("/")[2]
    change = Change("engine", N_("Look for the same model as GGUF: zhibei search {name}"), {"name": name})
    return replace(made, changes=(change,))
