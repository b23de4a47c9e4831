"""``zhibei logs``."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from zhibei.cli.completing import complete_model
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import Whole
from zhibei.cli.references import as_reference
from zhibei.cli.render import printable
from zhibei.cli.wording import command, json_option, option
from zhibei.errors import ModelNotFound
from zhibei.i18n import N_
from zhibei.service import Service

if TYPE_CHECKING:
    from zhibei.runtime.logbook import LogLine


@command(
    "logs",
    N_("Show what a model's engine wrote.\nThe server keeps the newest lines of each model, also of one that has ended."),
)
@click.argument("name", shell_complete=complete_model)
@option("--follow", "-f", help=N_("Go on with each new line, until Ctrl-C."))
@option("--lines", "-n", "num_lines", kind=Whole(0, 10_000), default=100, help=N_("Begin with so many of the last lines."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, name: str, follow: bool, num_lines: int, as_json: bool) -> None:
    """Print the lines; with ``--json`` one object a line."""
    connection = connect(invocation)
    if connection.server is None:
        raise ModelNotFound(
            "There are no lines of {model}: no server is running.",
            hint="Only a server keeps them. Start one: zhibei serve",
            model=name,
        )
    asyncio.run(_print(invocation, connection.server, as_reference(name), follow, num_lines, as_json))


async def _print(invocation: Invocation, server: Service, name: str, follow: bool, num_lines: int, as_json: bool) -> None:
    printer, num_printed = invocation.printer, 0
    try:
        async with aclosing(server.logs(name, num_lines=num_lines, follow=follow)) as lines:
            async for line in lines:
                num_printed += 1
                if as_json:
                    printer.data(json.dumps({"at": line.at.isoformat(), "text": line.text}, ensure_ascii=False))
                else:
                    printer.data(_text(invocation, line))
    finally:
        await server.close()
    if not num_printed and not as_json:
        invocation.note("The engine of {model} has written nothing yet.", model=name)


def _text(invocation: Invocation, line: LogLine) -> str:
    time = invocation.printer.styled(f"{line.at.astimezone():%H:%M:%S}", "dim")
    return f"{time}  {printable(line.text)}"
