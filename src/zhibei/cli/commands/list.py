"""``zhibei list``."""

from __future__ import annotations

import click

from zhibei.cli import documents
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.render import table
from zhibei.cli.wording import command, json_option
from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.units import format_bytes, format_count


@command("list", N_("List the models on this machine."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, as_json: bool) -> None:
    """Print a row for every model in the store."""
    models = connect(invocation).ask(lambda service: service.list_models())
    if as_json:
        invocation.printer.json({"models": [documents.model(stored) for stored in models]})
        return
    if not models:
        invocation.note("There are no models yet. Pull one: zhibei pull {model}", model=invocation.settings.model)
        return
    headings = [N_("NAME"), N_("SIZE"), N_("PARAMETERS"), N_("QUANTISATION"), N_("CONTEXT"), N_("ADDED")]
    rows = [_row(stored) for stored in models]
    for line in table([invocation.text(heading) for heading in headings], rows, right=(1, 2, 4)):
        invocation.printer.data(line)
    for stored in models:
        if stored.problem:
            invocation.warn("{model} cannot be used: {problem}", model=stored.name, problem=stored.problem)


def _row(stored: StoredModel) -> list[str]:
    info = stored.info
    parameters = format_count(info.num_parameters) if info and info.num_parameters else "-"
    quantisation = (info.quantisation if info else None) or "-"
    context = str(info.context_length) if info and info.context_length else "-"
    added = stored.added_at.astimezone().strftime("%Y-%m-%d %H:%M")
    return [stored.name, format_bytes(stored.size_bytes), parameters, quantisation, context, added]
