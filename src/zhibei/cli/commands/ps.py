"""``zhibei ps``."""

from __future__ import annotations

import click

from zhibei.cli import documents
from zhibei.cli.connect import ask_server, connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.render import table
from zhibei.cli.wording import command, json_option
from zhibei.i18n import N_
from zhibei.plans import Resident
from zhibei.units import format_bytes


@command("ps", N_("List the models that are loaded.\nOnly a server keeps models loaded; without one there are none."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, as_json: bool) -> None:
    """Print a row for every running model."""
    connection = connect(invocation)
    residents = ask_server(connection.server, lambda server: server.residents()) if connection.server else ()
    if as_json:
        invocation.printer.json({"models": [documents.resident(running) for running in residents]})
    elif connection.server is None:
        invocation.note("No server is running. Start one: zhibei serve")
    elif not residents:
        invocation.note("No model is loaded.")
    else:
        headings = [
            N_("NAME"),
            N_("ENGINE"),
            N_("STATE"),
            N_("MEMORY"),
            N_("PLANNED"),
            N_("TOKENS/S"),
            N_("EXPECTED"),
            N_("CONTEXT"),
            N_("SLOTS"),
            N_("UNTIL"),
        ]
        rows = [_row(invocation, running) for running in residents]
        for line in table([invocation.text(heading) for heading in headings], rows, right=(3, 4, 5, 6, 7, 8)):
            invocation.printer.data(line)


def _row(invocation: Invocation, running: Resident) -> list[str]:
    until = running.expires_at.astimezone().strftime("%H:%M:%S") if running.expires_at else invocation.text("stays")
    if running.expires_at is None and running.num_leases:
        until = invocation.text("in use")
    return [
        running.name,
        running.engine,
        running.state,
        format_bytes(running.measured_bytes) if running.measured_bytes else "",
        format_bytes(running.planned_bytes),
        _rate(running.measured_tokens_per_s),
        _rate(running.predicted_tokens_per_s),
        str(running.ctx_size),
        f"{running.num_leases}/{running.num_slots}",
        until,
    ]


def _rate(tokens_per_s: float | None) -> str:
    return "" if tokens_per_s is None else f"{tokens_per_s:.1f}"
