"""Click's commands and complaints in our own words, so that both languages have them. Owns every use of click's errors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from zhibei.cli import help
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import Kind, OneOf
from zhibei.errors import BadRequest, ZhibeiError
from zhibei.i18n import N_

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic only in newer releases of click

TRY_HELP = N_("Try: {command} --help")


class Option(click.Option):
    """An option that stands in a section of the help. ``section`` None: with the others."""

    def __init__(self, *args: Any, section: str | None = None, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class Command(click.Command):
    """A command whose help and complaints are ours. ``help`` and option helps are templates."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._own_help_option = help_option()

    def get_help(self, ctx: click.Context) -> str:
        """The whole help text."""
        return help.command_help(self, ctx)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Ours, which prints with the printer."""
        return self._own_help_option

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but with our complaint about words too many."""
        ctx.allow_extra_args = True
        with placed(ctx):
            rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            raise BadRequest("Unexpected argument: {argument}", hint=TRY_HELP, argument=rest[0], command=ctx.command_path)
        return rest


@contextmanager
def placed(ctx: click.Context) -> Generator[None, None, None]:
    """Complaints of the parser know which command they are about."""
    try:
        yield
    except click.UsageError as error:
        error.ctx = error.ctx or ctx
        raise


class KindType(_ParamType):
    """Lets click read a value as one of our kinds."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.name = kind.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; raises BadRequest."""
        if not isinstance(value, str):
            return value
        return self.kind.read(value, param.opts[0] if param else self.name)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """The words it may be."""
        from click.shell_completion import CompletionItem

        words: Sequence[str] = self.kind.words if isinstance(self.kind, OneOf) else ()
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def command(name: str, help: str, **attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command. ``help``: a template; its first line is the command's line in the list."""
    return click.command(name, cls=Command, help=help, **attributes)


def option(*names: str, kind: Kind | None = None, **attributes: Any) -> Callable[[Any], Any]:
    """Add an option; without a kind it is a switch that is off."""
    if kind is None:
        attributes.setdefault("is_flag", True)
    else:
        attributes.update(type=KindType(kind), metavar=kind.metavar)
    return click.option(*names, cls=Option, **attributes)


def json_option(function: Any) -> Any:
    """Add ``--json``."""
    return option("--json", "as_json", help=N_("Print JSON."))(function)


def help_option() -> click.Option:
    """``--help``, as every command has it."""

    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            invocation: Invocation = ctx.find_root().obj
            invocation.printer.data(ctx.get_help())
            ctx.exit()

    return Option(["-h", "--help"], is_flag=True, is_eager=True, expose_value=False, callback=show, help=N_("Show this help."))


def complaint(error: click.ClickException) -> ZhibeiError:
    """Click's error as one of ours."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "zhibei"
    if isinstance(error, click.NoSuchOption):
        close = ", ".join(error.possibilities or ())
        hint = N_("Did you mean {close}?") if close else TRY_HELP
        return BadRequest("There is no option {name}.", hint=hint, name=error.option_name, close=close, command=command)
    if isinstance(error, click.BadOptionUsage):
        if _is_switch(error):
            return BadRequest("{name} takes no value.", hint=TRY_HELP, name=error.option_name, command=command)
        return BadRequest("{name} needs a value.", hint=TRY_HELP, name=error.option_name, command=command)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        name = error.param.human_readable_name
        return BadRequest("{name} is missing.", hint=TRY_HELP, name=name, command=command)
    return BadRequest("{problem}", hint=TRY_HELP, problem=error.format_message(), command=command)


def _is_switch(error: click.BadOptionUsage) -> bool:
    if error.ctx is None:
        return False
    options = (param for param in error.ctx.command.params if isinstance(param, click.Option))
    return any(param.is_flag and error.option_name in (*param.opts, *param.secondary_opts) for param in options)
