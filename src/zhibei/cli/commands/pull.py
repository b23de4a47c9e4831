"""``zhibei pull``."""

from __future__ import annotations

import asyncio

import click

from zhibei.cli import documents
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import Words
from zhibei.cli.progress import follow_pull
from zhibei.cli.references import as_reference
from zhibei.cli.streams import closing
from zhibei.cli.wording import command, json_option, option
from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.service import Service


@command(
    "pull",
    N_(
        "Fetch a model, or take one in from a file.\n"
        "REFERENCE is a name such as smollm2:135m, source:location (hf, ms, ollama, pypi, url, file), a web address or a path.\n"
        "A download that was interrupted goes on where it stopped."
    ),
)
@click.argument("reference")
@option("--name", kind=Words("NAME"), help=N_("Name for the model, instead of the one it brings."))
@option("--copy", help=N_("Copy a file into the store instead of using it where it is."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, reference: str, name: str | None, copy: bool, as_json: bool) -> None:
    """Pull, and print the name of the model."""
    stored = asyncio.run(_pull(invocation, connect(invocation).service(), as_reference(reference), name, copy))
    if as_json:
        invocation.printer.json(documents.model_details(stored))
    else:
        invocation.printer.data(stored.name)


async def _pull(invocation: Invocation, service: Service, reference: str, name: str | None, copy: bool) -> StoredModel:
    try:
        async with closing(service.pull(reference, name=name, copy=copy)) as events:
            return await follow_pull(invocation, events)
    except asyncio.CancelledError:
        invocation.note("Interrupted. What has come is kept; the same command goes on from there.")
        raise
    finally:
        await service.close()
