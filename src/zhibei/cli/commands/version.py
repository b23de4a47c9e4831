"""``zhibei version``."""

from __future__ import annotations

import platform

import click

from zhibei import __version__
from zhibei.cli.invocation import Invocation
from zhibei.cli.wording import command, json_option
from zhibei.i18n import N_


@command("version", N_("Show the version."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, as_json: bool) -> None:
    """Print the version of this program."""
    if as_json:
        invocation.printer.json({"version": __version__, "python": platform.python_version(), "platform": platform.platform()})
    else:
        invocation.printer.data(f"zhibei {__version__}")
