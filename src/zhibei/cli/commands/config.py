"""``zhibei config``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zhibei.cli.invocation import Invocation
from zhibei.cli.render import table
from zhibei.cli.wording import command, json_option
from zhibei.errors import BadRequest
from zhibei.i18n import N_
from zhibei.settings import Origin, is_secret

_ORIGINS: dict[Origin, str] = {
    "default": N_("default"),
    "file": N_("configuration file"),
    "environment": N_("environment"),
    "flag": N_("option"),
}


@command(
    "config",
    N_("Show the settings and where each comes from.\n'zhibei config path' prints where the configuration file is looked for."),
)
@click.argument("what", required=False, metavar="[path]")
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, what: str | None, as_json: bool) -> None:
    """Print every setting, or the path of the configuration file."""
    resolved = invocation.all_settings()
    if what is not None:
        if what != "path":
            raise BadRequest("There is no {what} of the configuration.", hint="Try: zhibei config path", what=what)
        invocation.printer.data(str(resolved.config_path))
        return
    rows = [(name, _shown(name, value), origin, which) for name, value, origin, which in resolved.rows()]
    if as_json:
        settings = [{"name": name, "value": value, "origin": origin, "from": which} for name, value, origin, which in rows]
        invocation.printer.json({"config_path": str(resolved.config_path), "settings": settings})
        return
    cells = [[name, _text(value), _origin(invocation, origin, which)] for name, value, origin, which in rows]
    for line in table([invocation.text(heading) for heading in (N_("SETTING"), N_("VALUE"), N_("FROM"))], cells):
        invocation.printer.data(line)


def _shown(name: str, value: object) -> Any:
    if is_secret(name) and value is not None:
        return "********"
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _text(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _origin(invocation: Invocation, origin: Origin, which: str | None) -> str:
    label = invocation.text(_ORIGINS[origin])
    return f"{label} {which}" if which else label
