"""``zhibei ps``."""

from __future__ import annotations

import click

from zhibei.cli import documents
from zhibei.cli.connect import ask_server, connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.render import table
from zhibei.cli.top_text import DOWN, state_words
from zhibei.cli.wording import command, json_option
from zhibei.i18n import N_
from zhibei.plans import Resident
from zhibei.units import format_bytes

_NO_KERNELS = N_("{name} is computed without zhibei-kernels: {problem}")
_NO_DEVICE = N_("The graphics processor fails {name}, which is computed without it: {said}")


@command("ps", N_("List the models that are loaded.\nOnly a server keeps models loaded; without one there are none."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, as_json: bool) -> None:
    """Print a row for every running model."""
    connection = connect(invocation)
    state = ask_server(connection.server, lambda server: server.pool()) if connection.server else None
    residents, upstreams = (state.residents, state.upstreams) if state is not None else ((), ())
    if as_json:
        models = [documents.resident(running) for running in residents]
        invocation.printer.json({"models": models, "upstreams": [documents.upstream(each) for each in upstreams]})
        return
    for each in upstreams:
        if not each.is_up:
            invocation.warn(DOWN, name=each.name, url=each.url)
    for running in residents:
        if running.device_problem is not None:
            invocation.warn(_NO_DEVICE, name=running.name, said=running.device_problem)
        if running.kernels is not None and running.kernels.problem is not None:
            invocation.warn(_NO_KERNELS, name=running.name, problem=running.kernels.problem)
    if connection.server is None:
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
            N_("WAITING"),
            N_("REQUESTS"),
            N_("WRITTEN"),
            N_("LOADED IN"),
            N_("UNTIL"),
        ]
        rows = [_row(invocation, running) for running in residents]
        for line in table([invocation.text(heading) for heading in headings], rows, right=(3, 4, 5, 6, 7, 8, 9, 10, 11, 12)):
            invocation.printer.data(line)


def _row(invocation: Invocation, running: Resident) -> list[str]:
    stays = invocation.text("pinned") if running.pinned else invocation.text("stays")
    until = running.expires_at.astimezone().strftime("%H:%M:%S") if running.expires_at else stays
    if running.expires_at is None and (running.num_leases or running.num_waiting) and not running.pinned:
        until = invocation.text("in use")
    return [
        running.name,
        _engine(running),
        state_words(running, invocation.text),
        format_bytes(running.measured_bytes) if running.measured_bytes else "",
        format_bytes(running.planned_bytes),
        _rate(running.measured_tokens_per_s),
        _rate(running.predicted_tokens_per_s),
        str(running.ctx_size),
        f"{running.num_leases}/{running.num_slots}",
        str(running.num_waiting),
        str(running.num_requests),
        str(running.num_generated_tokens),
        "" if running.load_s is None else f"{running.load_s:.1f} s",
        until,
    ]


def _engine(running: Resident) -> str:
    """``llama.cpp avx2``: the engine, and the level of the kernels that it computes with."""
    level = running.kernels.level if running.kernels is not None else None
    return running.engine if level is None else f"{running.engine} {level}"


def _rate(tokens_per_s: float | None) -> str:
    return "" if tokens_per_s is None else f"{tokens_per_s:.1f}"
