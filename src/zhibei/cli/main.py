"""From words on a command line to an exit code. Owns the global options and the last handling of every failure."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from zhibei import __version__
from zhibei.cli import exit_codes, help, wording
from zhibei.cli.commands import ALIASES, COMMANDS
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import OneOf, Whole, Words
from zhibei.cli.printer import OutputClosed, Printer
from zhibei.errors import BadRequest, ZhibeiError
from zhibei.i18n import N_, Translator
from zhibei.settings import LANGUAGES, Resolved, locale_language, resolve, wants_color

PROGRAM = "zhibei"
_SETTING_FLAGS = {"lang": "lang", "home": "home", "host": "server.host", "port": "server.port"}


class Program(click.Group):
    """The program: commands are imported when they are asked for."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._own_help_option = wording.help_option()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; complaints know that they are about the program."""
        with wording.placed(ctx):
            return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        entry = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        command: click.Command = importlib.import_module(f"zhibei.cli.commands.{entry[0]}").COMMAND
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but with our complaint."""
        if args[0] not in COMMANDS and args[0] not in ALIASES and not ctx.resilient_parsing:
            from difflib import get_close_matches

            close = ", ".join(get_close_matches(args[0], COMMANDS))
            hint = N_("Did you mean {close}?") if close else wording.TRY_HELP
            raise BadRequest("There is no command {name}.", hint=hint, name=args[0], close=close, command=PROGRAM)
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        """The whole help text."""
        return help.group_help(self, ctx, [(name, line) for name, (_, line) in COMMANDS.items()])

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Ours, which prints with the printer."""
        return self._own_help_option

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Commands and options, without importing a command."""
        from click.shell_completion import CompletionItem

        invocation: Invocation = ctx.find_root().obj
        found = [(name, line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        items = [CompletionItem(name, help=invocation.text(line)) for name, line in found]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]


@click.command(PROGRAM, cls=Program, invoke_without_command=True, help=N_("Know the machine, get models, run and serve them."))
@wording.option("--lang", kind=OneOf(LANGUAGES), help=N_("Language of messages."))
@wording.option("--config", kind=Words("PATH"), help=N_("Configuration file, instead of the usual one."))
@wording.option("--home", kind=Words("PATH"), help=N_("Directory of models and state."))
@wording.option("--host", kind=Words("ADDRESS"), help=N_("Address of the server to use."))
@wording.option("--port", kind=Whole(0, 65535), help=N_("Port of the server to use."))
@wording.option("--quiet", "-q", help=N_("Print data and errors only."))
@wording.option("--no-color", help=N_("No colours; the variable NO_COLOR does the same."))
@wording.option("--debug", help=N_("Show where an unforeseen error came from."))
@wording.option("--version", help=N_("Show the version."))
@click.pass_context
def program(ctx: click.Context, /, version: bool, **_: object) -> None:
    """What happens before the command: nothing, unless there is none."""
    invocation: Invocation = ctx.obj
    if version:
        invocation.printer.data(f"{PROGRAM} {__version__}")
        ctx.exit()
    if ctx.invoked_subcommand is None:
        invocation.printer.data(ctx.get_help())


def run(words: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    invocation = _begin(words)
    try:
        with program.make_context(PROGRAM, list(words), obj=invocation) as ctx:
            program.invoke(ctx)
        return exit_codes.OK
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        return _failed(invocation, wording.complaint(error))
    except ZhibeiError as error:
        return _failed(invocation, error)
    except OutputClosed:
        _discard_output(invocation.printer)
        return exit_codes.OK
    except (KeyboardInterrupt, EOFError, click.Abort):
        invocation.printer.clear_transient()
        return exit_codes.INTERRUPTED
    except Exception as error:  # noqa: BLE001  the last post: whatever went wrong is shown, not lost
        return _unforeseen(invocation, error)


def _begin(words: Sequence[str]) -> Invocation:
    """Read the global options ahead of everything, so that even a complaint about them is in the right language."""
    try:
        params = program.make_context(PROGRAM, list(words), resilient_parsing=True, ignore_unknown_options=True).params
    except ZhibeiError:
        params = {}
    given = {setting: params.get(name) for name, setting in _SETTING_FLAGS.items()}
    config = Path(params["config"]) if params.get("config") else None
    resolved: Resolved | ZhibeiError
    try:
        resolved = resolve(given, config=config)
        lang = resolved.settings.lang or locale_language()
    except ZhibeiError as error:
        resolved, lang = error, params.get("lang") or locale_language()
    return Invocation(
        printer=Printer(quiet=bool(params.get("quiet")), color=wants_color() and not params.get("no_color")),
        translator=Translator(lang),
        resolved=resolved,
        flags=given,
        config=config,
        debug=bool(params.get("debug")),
    )


def _failed(invocation: Invocation, error: ZhibeiError) -> int:
    invocation.error(error)
    if invocation.debug:
        invocation.printer.error("".join(traceback.format_exception(error)).rstrip())
    return exit_codes.exit_code(error)


def _unforeseen(invocation: Invocation, error: Exception) -> int:
    trace = "".join(traceback.format_exception(error)).rstrip()
    shown = ZhibeiError(
        "Something went wrong that Zhibei did not foresee: {kind}: {problem}",
        hint=N_("This is a bug. The trace is in {path}; --debug shows it here."),
        kind=type(error).__name__,
        problem=error,
        path=_keep_trace(invocation, trace),
    )
    invocation.error(shown)
    if invocation.debug:
        invocation.printer.error(trace)
    return exit_codes.UNEXPECTED


def _keep_trace(invocation: Invocation, trace: str) -> str:
    if isinstance(invocation.resolved, ZhibeiError):
        return os.devnull
    path = invocation.resolved.settings.home / "state" / "last-error.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{PROGRAM} {__version__}\n{trace}\n", encoding="utf-8")
    except OSError:
        return os.devnull
    return str(path)


def _discard_output(printer: Printer) -> None:
    """Send what is still buffered to nowhere, so that closing the stream at exit does not complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), printer.out.fileno())
    except (OSError, ValueError):
        return
