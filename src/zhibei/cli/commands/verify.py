"""``zhibei verify``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from zhibei.cli import exit_codes
from zhibei.cli.batch import Batch
from zhibei.cli.completing import complete_model
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.render import columns, pad, printable
from zhibei.cli.upkeep import check, chosen
from zhibei.cli.wording import command, json_option
from zhibei.events import Checked
from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.service import Service


@command(
    "verify",
    N_(
        "Read models again and compare them with their digests.\n"
        "Without a NAME, all models. Of files that are used in place, size and time are compared. "
        "If a model has changed or is damaged, the exit code is 5; zhibei repair mends it."
    ),
)
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_model)
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, names: Sequence[str], as_json: bool) -> None:
    """Check each, and print whether it is as it was."""
    batch = Batch(invocation, 0)
    found: list[dict[str, Any]] = []

    async def verify(service: Service) -> None:
        models = await chosen(service, names)
        width = max((columns(stored.name) for stored in models), default=0)
        if not models and not as_json:
            invocation.note("There are no models yet. Pull one: zhibei pull {model}", model=invocation.settings.model)
        for stored in models:
            result = await check(invocation, service, stored)
            if result.problem is not None:
                batch.fail(exit_codes.DAMAGED)
            found.append(_document(stored, result))
            if not as_json:
                invocation.printer.data(f"{pad(stored.name, width)}  {_words(invocation, stored, result)}")

    connect(invocation).work(verify)
    if as_json:
        invocation.printer.json({"models": found})
    else:
        broken = [document["name"] for document in found if document["problem"] is not None]
        if broken:
            invocation.note("Mend it: zhibei repair {model}", model=" ".join(broken))
    batch.finish()


def _words(invocation: Invocation, stored: StoredModel, result: Checked) -> str:
    if result.problem is not None:
        return printable(invocation.text("broken: {problem}", problem=result.problem))
    return invocation.text("unchanged in its place") if stored.in_place else invocation.text("whole")


def _document(stored: StoredModel, result: Checked) -> dict[str, Any]:
    return {
        "name": stored.name,
        "problem": result.problem,
        "bad_files": list(result.bad_files),
        "in_place": stored.in_place,
    }
