"""``zhibei serve``."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from zhibei import event_loop
from zhibei.cli import flags
from zhibei.cli.completing import complete_model
from zhibei.cli.files import read_text
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import OneOf, Real, Whole, Words
from zhibei.cli.references import as_reference
from zhibei.cli.wording import command, option
from zhibei.errors import ZhibeiError
from zhibei.i18n import N_
from zhibei.options import LoadOptions
from zhibei.server.keys import KeyFile
from zhibei.settings import Resolved, Settings

if TYPE_CHECKING:
    from zhibei.app import App

_OWN = {
    "host": "server.host",
    "port": "server.port",
    "api_key": "server.api_key",
    "allowed_host": "server.allowed_hosts",
    "origin": "server.origins",
    "max_queue": "server.max_queue",
    "tls_cert": "server.tls_cert",
    "tls_key": "server.tls_key",
    "log_format": "server.log_format",
    "allow_insecure_bind": "server.allow_insecure_bind",
    "max_models": "max_models",
    "load_timeout": "load_timeout_s",
    "engine": "engine",
    "keep_alive": "keep_alive",
}


_HELP = N_(
    "Serve models over HTTP, as OpenAI, Ollama, Anthropic and KoboldCpp do.\n"
    "Models are loaded when they are first asked for. Ctrl-C lets answers finish; once more ends at once."
)


@command("serve", _HELP)
@option("--host", kind=Words("ADDRESS"), help=N_("Address to listen on; 0.0.0.0 for all of this machine's."))
@option("--port", kind=Whole(0, 65535), help=N_("Port to listen on; 0 for any that is free."))
@option(
    "--api-key",
    kind=Words("KEY"),
    help=N_("Key that clients must present. The variable ZHIBEI_API_KEY hides it from other users."),
)
@option(
    "--allowed-host",
    kind=Words("NAME"),
    multiple=True,
    help=N_("Host name that requests may be addressed to; may be given several times."),
)
@option(
    "--origin",
    kind=Words("URL"),
    multiple=True,
    help=N_("Web origin whose pages may call the server; may be given several times."),
)
@option("--allow-insecure-bind", default=None, help=N_("Listen beyond this machine without a key."))
@option("--tls-cert", kind=Words("PATH"), help=N_("Certificate, in PEM form: the server then speaks HTTPS alone."))
@option("--tls-key", kind=Words("PATH"), help=N_("Key of the certificate, where it is not in the same file."))
@option("--max-queue", kind=Whole(0, 1_000_000), help=N_("Requests that may wait before new ones are refused."))
@option("--log-format", kind=OneOf(("text", "json", "off")), help=N_("How each request is told on stderr."))
@option("--max-models", kind=Whole(0, 1000), help=N_("Models loaded at once; 0 for as many as memory allows."))
@option("--load-timeout", kind=Real(1, 1e6), help=N_("Seconds a model may take to load."))
@option("--keep-alive", kind=flags.Duration(), help=N_("How long a model stays loaded when idle: 5m, 0, forever."))
@option("--engine", kind=Words("NAME"), help=N_("Engine to use: auto, llama.cpp or echo."))
@option("--model", kind=Words("NAME"), shell_complete=complete_model, help=N_("Load this model at the start."))
@flags.options(flags.SAMPLING_FLAGS, N_("Answers, where a request does not say"))
@flags.options(flags.LOAD_FLAGS, N_("Loading"))
@click.pass_obj
def COMMAND(invocation: Invocation, /, model: str | None, **params: Any) -> None:
    """Serve until told to stop."""
    given = {setting: params[name] for name, setting in _OWN.items() if params[name] not in (None, ())}
    given |= flags.given(params, (*flags.LOAD_FLAGS, *flags.SAMPLING_FLAGS))
    if "load.chat_template" in given:
        given["load.chat_template"] = read_text(str(given["load.chat_template"]))
    resolved = invocation.all_settings(given)
    event_loop.run(_serve(invocation, resolved, None if model is None else as_reference(model)))


async def _serve(invocation: Invocation, resolved: Resolved, preload: str | None) -> None:
    from zhibei.app import build
    from zhibei.server.http import serve

    settings = resolved.settings
    app = build(settings, origins=resolved.origins)
    own = () if preload is None else (partial(_preload, invocation, app, preload),)
    try:
        greet = partial(_greet, invocation, settings)
        await serve(app, on_ready=greet, write_log=invocation.printer.error, at_start=own)
    finally:
        await app.close()
    invocation.note("Stopped.")


def _greet(invocation: Invocation, settings: Settings, url: str) -> None:
    printer = invocation.printer
    needs_key = settings.server.api_key is not None or bool(KeyFile(settings.home).keys())
    key = " -H 'Authorization: Bearer …'" if needs_key else ""
    trust = f" --cacert {settings.server.tls_cert}" if settings.server.tls_cert else ""
    body = json.dumps({"model": settings.model, "messages": [{"role": "user", "content": "Hello"}]})
    invocation.note("Zhibei serves at {url}", url=printer.styled(url, "bold", err=True))
    invocation.note("  OpenAI's clients: base URL {url}/v1", url=url)
    invocation.note("  Others' clients:  {url} (Ollama, Anthropic, KoboldCpp, llama-server)", url=url)
    if settings.server.host in ("0.0.0.0", "::"):
        invocation.note("  Other machines:   the same, with this machine's own address instead")
    invocation.note("  Documentation:    {url}/docs", url=url)
    invocation.note("  Try it:")
    printer.note(f"    curl{trust} {url}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n      -d '{body}'")
    invocation.note("Ctrl-C stops it.")


async def _preload(invocation: Invocation, app: App, model: str) -> None:
    try:
        async with app.pool.lease(model, "generate", LoadOptions(), None):
            invocation.note("{model} is loaded.", model=model)
    except ZhibeiError as error:
        invocation.error(error)
