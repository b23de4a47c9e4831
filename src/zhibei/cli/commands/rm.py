"""``zhibei rm``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zhibei.cli.completing import complete_model
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.wording import command
from zhibei.i18n import N_
from zhibei.store.verbs import StoreVerbs

if TYPE_CHECKING:
    from zhibei.service import Service


@command("rm", N_("Remove models.\nFiles that other models use, and files used in place, stay."))
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_model)
@click.pass_obj
def COMMAND(invocation: Invocation, /, names: tuple[str, ...]) -> None:
    """Remove each model; stop at the first that cannot be removed."""

    async def remove(service: Service | StoreVerbs) -> None:
        for name in names:
            await service.remove_model(name)
            invocation.note("Removed {model}.", model=name)

    connect(invocation).ask(remove)
