"""``zhibei repair``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from zhibei.cli.batch import Batch
from zhibei.cli.completing import complete_model
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.progress import open_view
from zhibei.cli.streams import closing
from zhibei.cli.upkeep import chosen
from zhibei.cli.wording import command, json_option
from zhibei.errors import SourceError
from zhibei.events import Checked, Pulled
from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.service import Service


@command(
    "repair",
    N_(
        "Fetch the damaged parts of a model again.\n"
        "Each model is read again first. Good parts are kept; nothing is fetched where nothing is wrong."
    ),
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_model)
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, names: Sequence[str], as_json: bool) -> None:
    """Repair each, and say what was wrong with it."""
    found: list[dict[str, Any]] = []

    async def repair(service: Service) -> Batch:
        models = await chosen(service, names)
        batch = Batch(invocation, len(models))
        for stored in models:
            with batch.item():
                was = await _repair(invocation, service, stored)
                found.append({"name": stored.name, "problem": was.problem, "bad_files": list(was.bad_files)})
                if was.problem is None:
                    invocation.note("{model} is whole; there was nothing to repair.", model=stored.name)
                else:
                    invocation.note("Repaired {model}; what was wrong: {problem}.", model=stored.name, problem=was.problem)
        return batch

    batch = connect(invocation).work(repair)
    if as_json:
        invocation.printer.json({"models": found})
    batch.finish()


async def _repair(invocation: Invocation, service: Service, stored: StoredModel) -> Checked:
    """What was wrong with the model, which is whole now."""
    found: Checked | None = None
    try:
        with open_view(invocation, total_bytes=stored.size_bytes) as view:
            async with closing(service.repair(stored.name)) as events:
                async for event in events:
                    if isinstance(event, Checked):
                        found = event
                    elif isinstance(event, Pulled):
                        return found or Checked(stored.name, stored.problem)
                    else:
                        view.take(event)
    except asyncio.CancelledError:
        invocation.note("Interrupted. What has come is kept; the same command goes on from there.")
        raise
    raise SourceError(
        "The download ended before the model was complete.", hint="Run the command again; it continues where it stopped."
    )
