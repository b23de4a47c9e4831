"""``zhibei discover``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from zhibei.cli.connect import contact_address
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import Whole, Words
from zhibei.cli.wording import command, json_option, option
from zhibei.errors import BadRequest, BadSetting
from zhibei.i18n import N_
from zhibei.settings import parse_file

if TYPE_CHECKING:
    from zhibei.engines.upstream.discovery import Discovered
    from zhibei.engines.upstream.listing import UpstreamState

_LOOPBACK = "127.0.0.1"


@command(
    "discover",
    N_(
        "Look for other servers, whose models can be used here.\n"
        "It looks where they usually listen on this machine, and prints what to write into the configuration file."
    ),
)
@option("--add", help=N_("Write it into the configuration file."))
@option("--host", kind=Words("HOST"), help=N_("Another machine to look at, instead of this one."))
@option(
    "--port",
    "ports",
    kind=Whole(1, 65535, "PORT"),
    multiple=True,
    help=N_("A port to look at, instead of the usual ones; may be given several times."),
)
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, add: bool, host: str | None, ports: Sequence[int], as_json: bool) -> None:
    """Print the servers that were found, and those that the settings name and that do not answer."""
    import asyncio

    found, states = asyncio.run(_look(invocation, _checked(host) if host is not None else _LOOPBACK, ports))
    new = [each for each in found if not each.is_known]
    path = invocation.all_settings().config_path
    if add and new and path is not None:
        _add(path, new)
    if as_json:
        configured = [_state_document(state) for state in states]
        invocation.printer.json({"found": [_document(each) for each in found], "configured": configured, "added": add})
        return
    _print(invocation, new, states)
    if not new:
        return
    if add:
        invocation.note("Written into {path}. A server that is running takes it in when it is started again.", path=path)
    else:
        invocation.note("Write this into {path}, or let it be written: zhibei discover --add", path=path)


async def _look(invocation: Invocation, host: str, ports: Sequence[int]) -> tuple[Sequence[Discovered], Sequence[UpstreamState]]:
    import asyncio

    from zhibei.engines.upstream.discovery import LOOPBACK, discover
    from zhibei.engines.upstream.kinds import USUAL_PORTS
    from zhibei.engines.upstream.listing import Upstreams

    settings = invocation.settings
    own_host, own_port = contact_address(settings.server)
    is_own = own_host == host or (own_host in LOOPBACK and host in LOOPBACK)
    known = Upstreams(settings.upstreams, "")
    looking = discover(host, ports or USUAL_PORTS, settings.upstreams, own_port if is_own else None)
    return await asyncio.gather(looking, known.states())


def _checked(host: str) -> str:
    bare = host.strip("[]")
    try:
        shown = urlsplit(f"http://[{bare}]" if ":" in bare else f"http://{bare}").hostname
    except ValueError:
        shown = None
    if shown is None or shown != bare.lower() or not bare.isprintable() or " " in bare:
        raise BadRequest("{host} is no name or address of a machine.", param="--host", host=host[:100])
    return bare


def _add(path: Path, new: Sequence[Discovered]) -> None:
    """Append to the configuration file; what is there already stays as it is, comments and all."""
    from zhibei.engines.upstream.discovery import configuration

    try:
        text = path.read_text(encoding="utf-8-sig") if path.exists() else ""
        addition = ("" if not text else "\n" if text.endswith("\n") else "\n\n") + configuration(new)
        parse_file(path, text + addition)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Keys may be written into it later.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as file:
            file.write(addition)
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting("The configuration file {path} cannot be written: {error}", path=path, error=error) from None


def _print(invocation: Invocation, new: Sequence[Discovered], states: Sequence[UpstreamState]) -> None:
    from zhibei.engines.upstream.discovery import configuration

    for state in states:
        if state.problem is not None:
            invocation.warn(state.problem.message, **state.problem.values)
        else:
            values = {"name": state.name, "url": state.url, "count": len(state.models)}
            invocation.note("In the configuration: {name} at {url}; models: {count}.", **values)
    if new:
        invocation.printer.data(configuration(new).rstrip("\n"))
    elif not states:
        invocation.note("No other server answers.")
    else:
        invocation.note("No further server answers.")


def _document(found: Discovered) -> dict[str, Any]:
    return {
        "name": found.name,
        "title": found.title,
        "kind": found.identity.kind,
        "url": found.url,
        "version": found.identity.version,
        "wants_key": found.identity.wants_key,
        "in_configuration": found.is_known,
        "models": [_model(model) for model in found.models],
    }


def _state_document(state: UpstreamState) -> dict[str, Any]:
    return {
        "name": state.name,
        "url": state.url,
        "kind": state.kind,
        "version": state.version,
        "problem": None if state.problem is None else str(state.problem),
        "models": [_model(model) for model in state.models],
    }


def _model(model: Any) -> dict[str, Any]:
    return {"name": model.name, "context_length": model.context_length, "quantisation": model.quantisation}
