"""``zhibei hardware``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zhibei.cli import machine_text
from zhibei.cli.invocation import Invocation
from zhibei.cli.sections import lines
from zhibei.cli.wording import command, json_option, option
from zhibei.i18n import N_

if TYPE_CHECKING:
    from zhibei.hardware.measured import Measured
    from zhibei.plans import EngineInfo, Hardware


@command(
    "hardware",
    N_(
        "Show what this machine has for models.\n"
        "What is not known is not invented. Measuring takes some seconds and all cores; it is done once, and kept."
    ),
)
@option("--measure", help=N_("Measure memory, matrix products and disk now, even if that was done before."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, measure: bool, as_json: bool) -> None:
    """Print the machine, with what was measured on it."""
    from zhibei.hardware import disk
    from zhibei.hardware.detect import detect
    from zhibei.hardware.document import document

    hardware = detect()
    measured = _measured(invocation, hardware, measure=measure)
    room = disk.room(invocation.settings.home)
    engines = engines_here()
    if as_json:
        found = document(hardware, measured)
        found["disk"] = None if room is None else {"total_bytes": room.total_bytes, "free_bytes": room.free_bytes}
        found["engines"] = [
            {"name": engine.name, "installed": engine.installed, "version": engine.version, "devices": list(engine.devices)}
            for engine in engines
        ]
        invocation.printer.json(found)
        return
    printer = invocation.printer
    sections = machine_text.sections(hardware, measured, room, engines, invocation.text)
    for line in lines(sections, printer.width, lambda title: printer.styled(title, "bold")):
        printer.data(line)
    if measured is None:
        invocation.note("Nothing was measured here yet. Measure: zhibei hardware --measure")


def engines_here() -> tuple[EngineInfo, ...]:
    """What the engines say of themselves; those for tests are left out."""
    from zhibei.engines.registry import AUTOMATIC, create

    return tuple(create(name).probe() for name in AUTOMATIC)


def _measured(invocation: Invocation, hardware: Hardware, *, measure: bool) -> Measured | None:
    from zhibei.hardware import bandwidth

    state = invocation.settings.home / "state"
    if not measure:
        return bandwidth.kept(state, hardware)
    invocation.printer.transient(invocation.text("Measuring …"))
    try:
        return bandwidth.measured(state, hardware, file=_largest_file(invocation.settings.home), again=True)
    finally:
        invocation.printer.clear_transient()


def _largest_file(home: Path) -> Path | None:
    """The largest model file here: reading it tells the disk's speed."""
    from zhibei.store.library import Library

    files = [file for model in Library(home).list() if model.problem is None for file in model.files]
    return max(files, key=lambda file: file.size_bytes).path if files else None
