"""Help pages in both languages, laid out by columns instead of characters. Knows the shape of commands, not their work."""

from __future__ import annotations

import click

from zhibei.cli import exit_codes
from zhibei.cli.invocation import Invocation
from zhibei.cli.render import definitions, wrap
from zhibei.i18n import N_

_MAX_WIDTH = 100


def command_help(command: click.Command, ctx: click.Context) -> str:
    """The help page of a command."""
    invocation: Invocation = ctx.find_root().obj
    width = min(_MAX_WIDTH, invocation.printer.width)
    lines = _usage(command, ctx, invocation)
    for paragraph in invocation.text(command.help or "").split("\n"):
        lines += ["  " + line for line in wrap(paragraph, width - 2)] or [""]
    for heading, rows in _sections(command, ctx, invocation):
        lines += ["", _heading(invocation, heading), *definitions(rows, width)]
    return "\n".join(lines)


def group_help(command: click.Group, ctx: click.Context, command_lines: list[tuple[str, str]]) -> str:
    """The help page of the program: its commands, its options, its exit codes."""
    invocation: Invocation = ctx.find_root().obj
    width = min(_MAX_WIDTH, invocation.printer.width)
    lines = [command_help(command, ctx), "", _heading(invocation, N_("Commands"))]
    lines += definitions([(name, invocation.text(line)) for name, line in command_lines], width)
    lines += ["", _heading(invocation, N_("Exit codes"))]
    lines += definitions([(str(code), invocation.text(meaning)) for code, meaning in exit_codes.MEANINGS], width)
    return "\n".join(lines)


def option_rows(command: click.Command, ctx: click.Context) -> list[tuple[str | None, str, str]]:
    """Section, spelling and help template of every option that is shown."""
    rows: list[tuple[str | None, str, str]] = []
    for param in command.get_params(ctx):
        if isinstance(param, click.Option) and not param.hidden:
            rows.append((getattr(param, "section", None), _spelling(param), param.help or ""))
    return rows


def _usage(command: click.Command, ctx: click.Context, invocation: Invocation) -> list[str]:
    pieces = [N_("[OPTIONS]")]
    pieces += [param.make_metavar(ctx) for param in command.params if isinstance(param, click.Argument)]
    if isinstance(command, click.Group):
        pieces.append(N_("COMMAND [ARGUMENTS]"))
    words = " ".join(invocation.text(piece) for piece in pieces)
    label = invocation.text("Usage:")
    gap = "" if label.endswith("：") else " "
    return [f"{invocation.printer.styled(label, 'bold')}{gap}{ctx.command_path} {words}", ""]


def _sections(command: click.Command, ctx: click.Context, invocation: Invocation) -> list[tuple[str, list[tuple[str, str]]]]:
    sections: dict[str, list[tuple[str, str]]] = {N_("Options"): []}
    for section, spelling, meaning in option_rows(command, ctx):
        sections.setdefault(section or "Options", []).append((spelling, invocation.text(meaning)))
    return [(heading, rows) for heading, rows in sections.items() if rows]


def _spelling(param: click.Option) -> str:
    names = sorted(param.opts, key=lambda name: (name.startswith("--"), len(name) > 2 and name[1] != "-"))
    spelling = ", ".join(names)
    if param.secondary_opts:
        spelling += " / " + ", ".join(param.secondary_opts)
    return spelling if param.is_flag else f"{spelling} {param.metavar}"


def _heading(invocation: Invocation, heading: str) -> str:
    return invocation.printer.styled(invocation.text("{heading}:", heading=invocation.text(heading)), "bold")
