"""``zhibei top``."""

from __future__ import annotations

import asyncio
import time
from importlib.util import find_spec

import click

from zhibei.cli import documents, top_text
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import Real
from zhibei.cli.overview import Look, Overview, overview
from zhibei.cli.wording import command, json_option, option
from zhibei.errors import Offline, Unsupported
from zhibei.i18n import N_
from zhibei.service import Service


@command(
    "top",
    N_(
        "Watch models, memory and requests, live.\n"
        "Keys: arrows choose a model, o the order, s stops it, q leaves. With --once or --json it looks for a moment and "
        "prints what it sees."
    ),
)
@option("--every", kind=Real(0.2, 3600), default=1.0, help=N_("Seconds between two looks."))
@option("--once", help=N_("Print one look and end."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, every: float, once: bool, as_json: bool) -> None:
    """Show the pool of the running server until told to stop."""
    connection = connect(invocation)
    if connection.server is None:
        raise Offline("No server is running.", hint="Start one: zhibei serve")
    if once or as_json:
        seen = asyncio.run(_look(connection.server, every))
        if as_json:
            invocation.printer.json(_document(seen))
            return
        for line in top_text.lines(seen, invocation.text):
            invocation.printer.data(line)
        return
    if find_spec("textual") is None:
        hint = "Install it: pip install 'zhibei[top]'. Or: zhibei top --once"
        raise Unsupported("The live view needs the package textual, which is not installed.", hint=hint)
    if not (invocation.printer.out_is_terminal and invocation.printer.err_is_terminal):
        raise Unsupported("The live view needs a terminal.", hint="To print what there is: zhibei top --once")
    from zhibei.cli.top_view import TopView

    asyncio.run(_live(TopView(connection.server, invocation.text, every), connection.server))


async def _look(server: Service, every: float) -> Overview:
    """Two looks, so that there are rates."""
    try:
        first = Look(await server.pool(), time.monotonic())
        await asyncio.sleep(min(every, 1.0))
        return overview(Look(await server.pool(), time.monotonic()), first)
    finally:
        await server.close()


async def _live(view: object, server: Service) -> None:
    from zhibei.cli.top_view import TopView

    assert isinstance(view, TopView)
    try:
        await view.run_async()
    finally:
        await server.close()


def _document(seen: Overview) -> dict[str, object]:
    return {
        "models": [{**documents.resident(row.resident), "tokens_per_s": row.tokens_per_s} for row in seen.rows],
        "num_waiting": seen.num_waiting,
        "num_running": seen.num_running,
        "num_requests": seen.num_requests,
        "tokens_per_s": seen.tokens_per_s,
        "used_bytes": seen.used_bytes,
        "total_bytes": seen.total_bytes,
        "upstreams": [documents.upstream(each) for each in seen.upstreams],
    }
