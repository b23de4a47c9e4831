"""``zhibei hardware``."""

from __future__ import annotations

from pathlib import Path

import click

from zhibei.cli import documents, machine_text
from zhibei.cli.connect import ask_server, elsewhere
from zhibei.cli.invocation import Invocation
from zhibei.cli.sections import lines
from zhibei.cli.wording import command, json_option, option
from zhibei.errors import BadRequest
from zhibei.i18n import N_


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
    from zhibei.hardware.document import document
    from zhibei.judging.machine import machine

    server = elsewhere(invocation)
    if server is not None and measure:
        raise BadRequest("A server measures nothing for others.", hint="Run it on that machine.", param="--measure")
    if measure:
        _measure(invocation)
    found_machine = ask_server(server, lambda there: there.machine()) if server is not None else machine(invocation.settings.home)
    hardware, measured = found_machine.hardware, found_machine.measured
    room, engines = found_machine.room, found_machine.engines
    if as_json:
        found = document(hardware, measured)
        found["disk"] = None if room is None else {"total_bytes": room.total_bytes, "free_bytes": room.free_bytes}
        found["engines"] = [
            {
                "name": engine.name,
                "installed": engine.installed,
                "version": engine.version,
                "devices": list(engine.devices),
                "kernels": None if engine.kernels is None else documents.kernels(engine.kernels),
            }
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


def _measure(invocation: Invocation) -> None:
    from zhibei.hardware import bandwidth
    from zhibei.hardware.detect import detect

    home = invocation.settings.home
    invocation.printer.transient(invocation.text("Measuring …"))
    try:
        bandwidth.measured(home / "state", detect(), file=_largest_file(home), again=True)
    finally:
        invocation.printer.clear_transient()


def _largest_file(home: Path) -> Path | None:
    """The largest model file here: reading it tells the disk's speed."""
    from zhibei.store.library import Library

    files = [file for model in Library(home).list() if model.problem is None for file in model.files]
    return max(files, key=lambda file: file.size_bytes).path if files else None
