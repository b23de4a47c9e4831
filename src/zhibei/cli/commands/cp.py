"""``zhibei cp``."""

from __future__ import annotations

import click

from zhibei.cli.completing import complete_model
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.wording import command
from zhibei.i18n import N_


@command("cp", N_("Give a model a second name.\nNo bytes are copied."))
@click.argument("source", shell_complete=complete_model)
@click.argument("target")
@click.pass_obj
def COMMAND(invocation: Invocation, /, source: str, target: str) -> None:
    """Copy the manifest."""
    connect(invocation).ask(lambda service: service.copy_model(source, target))
    invocation.note("{target} is now another name of {source}.", target=target, source=source)
