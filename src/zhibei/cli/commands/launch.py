"""``zhibei launch``."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from zhibei.cli.clients import CLIENTS
from zhibei.cli.clients.base import Client, Setup, Target
from zhibei.cli.completing import complete_model
from zhibei.cli.config_files import write
from zhibei.cli.connect import Connection, connect, contact_url
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import Words
from zhibei.cli.references import as_reference
from zhibei.cli.render import printable, table
from zhibei.cli.wording import command, option
from zhibei.errors import BadRequest, ModelNotFound, Offline
from zhibei.i18n import N_
from zhibei.service import Service
from zhibei.settings import program_environment

_MASK = "********"


@command(
    "launch",
    N_(
        "Start a known client against this server, or tell what to enter there.\n"
        "What is set is printed. Without a name the clients are listed. What stands after -- goes to the client."
    ),
)
@click.argument("client", required=False, type=click.Choice(tuple(CLIENTS)), metavar="[CLIENT]")
@click.argument("arguments", nargs=-1, metavar="[-- ARGUMENTS...]", type=click.UNPROCESSED)
@option("--model", kind=Words("NAME"), shell_complete=complete_model, help=N_("The model that the client is to use."))
@option("--print", "only_print", help=N_("Only print what would be set."))
@option("--write", "is_written", help=N_("Write it into the client's configuration; a copy of the file is kept."))
@click.pass_obj
def COMMAND(
    invocation: Invocation, /, client: str | None, arguments: Sequence[str], model: str | None, only_print: bool, is_written: bool
) -> None:
    """Set a client up, and start it if it is here."""
    if client is None:
        _list(invocation)
        return
    chosen = CLIENTS[client]
    connection = connect(invocation)
    url = contact_url(invocation.settings.server)
    if connection.server is None:
        raise Offline("No Zhibei server answers at {url}.", hint="Start it in another terminal: zhibei serve", url=url)
    name, ctx_size, template = _model(connection, as_reference(model or invocation.settings.model), chosen)
    target = Target(url, name, invocation.settings.server.api_key, ctx_size)
    if chosen.needs_tools and template is not None and "tools" not in template:
        invocation.warn(
            "{model} was not made for tools, and {client} does not work without. Choose another with --model.",
            model=name,
            client=chosen.title,
        )
    if ctx_size is not None and ctx_size < chosen.min_ctx_size:
        invocation.warn(
            "{model} runs with a context of {ctx_size} tokens; {client} wants {wanted} or more. The server sets it: --ctx-size.",
            model=name,
            ctx_size=ctx_size,
            client=chosen.title,
            wanted=chosen.min_ctx_size,
        )
    setup = chosen.setup(target)
    _show(invocation, chosen, target, setup, arguments, is_written=is_written)
    if is_written:
        _write(invocation, chosen, setup)
    elif not only_print and chosen.executables:
        _start(invocation, chosen, setup, arguments)


def _list(invocation: Invocation) -> None:
    rows = [[client.name, client.title, _where(client) or client.install] for client in CLIENTS.values()]
    for line in table([invocation.text(heading) for heading in (N_("NAME"), N_("CLIENT"), N_("WHERE"))], rows):
        invocation.printer.data(line)


def _where(client: Client) -> str | None:
    return next((found for name in client.executables if (found := shutil.which(name))), None)


def _model(connection: Connection, reference: str, client: Client) -> tuple[str, int | None, str | None]:
    """The model's full name, the context that it would run with here, and its chat template; None: not known."""
    from zhibei.judging.asking import FitQuestion

    async def ask(server: Service) -> tuple[str, int | None, str | None]:
        stored = await server.show_model(reference)
        template = stored.info.chat_template if stored.info is not None else None
        running = [each for each in await server.residents() if each.name == stored.name and each.task == "generate"]
        if running:
            return stored.name, running[0].ctx_size, template
        if not client.min_ctx_size or stored.is_upstream:
            return stored.name, None, template
        judged = await server.fit(FitQuestion(stored.name))
        return stored.name, judged.plan.ctx_size if judged.plan is not None else None, template

    try:
        return connection.work(ask)
    except ModelNotFound as error:
        hint = "See what there is: zhibei list. Choose one with --model."
        raise ModelNotFound(error.message, hint=hint, **error.values) from None


def _show(
    invocation: Invocation, client: Client, target: Target, setup: Setup, arguments: Sequence[str], *, is_written: bool
) -> None:
    """What is set, secrets masked: lines that a shell would take, a file's part, steps."""
    printer = invocation.printer
    shown = {
        name: _MASK if name in client.secret_names and target.key is not None else value
        for name, value in setup.environment.items()
    }
    for name, value in shown.items():
        printer.data(f"export {name}={shlex.quote(value)}")
    if client.executables:
        printer.data(" ".join((client.executables[0], *(shlex.quote(argument) for argument in (*setup.arguments, *arguments)))))
    if setup.file is not None:
        path = "~/" + "/".join(setup.file.path)
        if is_written:
            invocation.note("In {path}:", path=path)
        else:
            invocation.note("In {path} (--write puts it there):", path=path)
        for line in _masked(setup.file.fragment, target.key).splitlines():
            printer.data(f"    {line}")
    key = invocation.text("none") if target.key is None else _MASK
    for step in setup.steps:
        invocation.note(step, url=target.url, model=target.model, key=key)


def _masked(text: str, key: str | None) -> str:
    return text if key is None else text.replace(key, _MASK)


def _write(invocation: Invocation, client: Client, setup: Setup) -> None:
    if setup.file is None:
        hint = "Without --write it is started with what it needs."
        raise BadRequest("{client} has no file to write.", hint=hint, param="--write", client=client.title)
    path, backup = write(setup.file, Path.home())
    invocation.note("Written: {path}", path=path)
    if backup is not None:
        invocation.note("What it was is in {path}", path=backup)


def _start(invocation: Invocation, client: Client, setup: Setup, arguments: Sequence[str]) -> None:
    program = _where(client)
    if program is None:
        invocation.note("{client} is not installed here. Get it: {install}", client=client.title, install=client.install)
        return
    invocation.note("Starting {program} …", program=printable(program))
    code = _run((program, *setup.arguments, *arguments), program_environment(setup.environment))
    if code:
        raise click.exceptions.Exit(code)


def _run(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program in this terminal until it ends. Ctrl-C is the program's."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # A child that is to hear Ctrl-C must not inherit that it is ignored.
        restore = None if sys.platform == "win32" else _hear_interrupts
        code = subprocess.run(words, env=environment, check=False, preexec_fn=restore).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
