"""``zhibei prune``."""

from __future__ import annotations

import click

from zhibei.cli import documents
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.leftovers import name_of
from zhibei.cli.render import named_table
from zhibei.cli.wording import command, json_option, option
from zhibei.i18n import N_
from zhibei.models import Leftover
from zhibei.units import format_bytes

_KINDS = {"part": N_("cut-off download"), "blob": N_("unused file"), "view": N_("unused directory")}


@command(
    "prune",
    N_(
        "Remove what belongs to no model.\n"
        "That is downloads that were cut off, and files that no model uses and that have not been touched for an hour. "
        "What is being worked on stays."
    ),
)
@option("--dry-run", help=N_("Remove nothing; print what would be removed."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, dry_run: bool, as_json: bool) -> None:
    """Remove it, and print what it was."""
    found = connect(invocation).ask(lambda service: service.leftovers() if dry_run else service.prune())
    size_bytes = sum(leftover.size_bytes for leftover in found)
    if as_json:
        leftovers = [documents.leftover(leftover) for leftover in found]
        invocation.printer.json({"dry_run": dry_run, "size_bytes": size_bytes, "leftovers": leftovers})
        return
    if not found:
        invocation.note("There is nothing to remove.")
        return
    headings = [invocation.text(heading) for heading in (N_("NAME"), N_("SIZE"), N_("KIND"))]
    rows = [_row(invocation, leftover) for leftover in found]
    for line in named_table(headings, rows, invocation.printer.width, right=(1,)):
        invocation.printer.data(line)
    if dry_run:
        invocation.note("This would be removed: {size} in all.", size=format_bytes(size_bytes))
    else:
        invocation.note("This was removed: {size} in all.", size=format_bytes(size_bytes))


def _row(invocation: Invocation, leftover: Leftover) -> list[str]:
    return [name_of(leftover), format_bytes(leftover.size_bytes), invocation.text(_KINDS[leftover.kind])]
