"""``zhibei update``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import click

from zhibei.cli.batch import Batch
from zhibei.cli.completing import complete_model
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.progress import follow_pull
from zhibei.cli.render import columns, pad
from zhibei.cli.streams import closing
from zhibei.cli.upkeep import chosen
from zhibei.cli.wording import command, json_option
from zhibei.errors import ModelNotFound
from zhibei.events import Inspected, Progress, PullEvent
from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.service import Service

_WORDS = {
    "current": N_("up to date"),
    "updated": N_("updated"),
    "no_source": N_("cannot be checked: the file it came from is gone"),
    "failed": N_("not updated"),
}


@command(
    "update",
    N_(
        "Fetch newer versions of models.\n"
        "Without a NAME, all models. Each one's source is asked; of a newer version only the files that changed are fetched."
    ),
)
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_model)
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, names: Sequence[str], as_json: bool) -> None:
    """Update each, and print what became of it."""
    found: list[dict[str, Any]] = []

    async def update(service: Service) -> Batch:
        models = await chosen(service, names)
        batch = Batch(invocation, len(models))
        width = max((columns(stored.name) for stored in models), default=0)
        if not models and not as_json:
            invocation.note("There are no models yet. Pull one: zhibei pull {model}", model=invocation.settings.model)
        for stored in models:
            state = "failed"
            with batch.item():
                state = await _update(invocation, service, stored)
            found.append({"name": stored.name, "state": state, "source": stored.source})
            if not as_json:
                invocation.printer.data(f"{pad(stored.name, width)}  {invocation.text(_WORDS[state])}")
        return batch

    batch = connect(invocation).work(update)
    if as_json:
        invocation.printer.json({"models": found})
    batch.finish()


async def _update(invocation: Invocation, service: Service, stored: StoredModel) -> str:
    try:
        async with closing(service.update(stored.name)) as events, closing(_news(events)) as news:
            new = await follow_pull(invocation, news)
    except ModelNotFound:
        if stored.problem is None and stored.source.startswith("file:"):
            return "no_source"
        raise
    except asyncio.CancelledError:
        invocation.note("Interrupted. What has come is kept; the same command goes on from there.")
        raise
    return "current" if stored.problem is None and _content(new) == _content(stored) else "updated"


async def _news(events: AsyncIterator[PullEvent]) -> AsyncGenerator[PullEvent, None]:
    """The events, without what only says that all is here already."""
    held: list[PullEvent] = []
    is_held = True
    async for event in events:
        if isinstance(event, Inspected):
            held, is_held = [event], True
        elif is_held and isinstance(event, Progress) and event.total is not None and event.done >= event.total:
            held.append(event)
        else:
            if isinstance(event, Progress) and is_held:
                for earlier in held:
                    yield earlier
                is_held = False
            yield event


def _content(stored: StoredModel) -> frozenset[tuple[str, str | None, int]]:
    return frozenset((file.role, file.digest, file.size_bytes) for file in stored.files)
