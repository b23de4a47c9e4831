"""``zhibei stop``."""

from __future__ import annotations

import click

from zhibei.cli.completing import complete_model
from zhibei.cli.connect import ask_server, connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.wording import command
from zhibei.errors import ModelNotFound
from zhibei.i18n import N_


@command("stop", N_("Unload a model.\nAnswers that are under way are ended."))
@click.argument("name", shell_complete=complete_model)
@click.pass_obj
def COMMAND(invocation: Invocation, /, name: str) -> None:
    """Unload a model from the running server."""
    connection = connect(invocation)
    if connection.server is None:
        raise ModelNotFound("{model} is not loaded: no server is running.", hint="Only a server keeps models loaded.", model=name)
    ask_server(connection.server, lambda server: server.stop_model(name))
    invocation.note("Stopped {model}.", model=name)
