"""``zhibei doctor``: gathers what ``zhibei.judging.doctor`` judges. Always of this machine, whatever server there is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import click

from zhibei import __version__
from zhibei.cli import connect, doctor_text, exit_codes
from zhibei.cli.batch import Batch
from zhibei.cli.invocation import Invocation
from zhibei.cli.wording import command, json_option, option
from zhibei.engines.registry import ENGINES
from zhibei.envvars import ENV_VARS
from zhibei.errors import ZhibeiError
from zhibei.i18n import N_
from zhibei.judging import doctor
from zhibei.judging.doctor import CheckName, Finding, Listener, Opening
from zhibei.plans import Hardware
from zhibei.settings import Settings, outgoing_proxy, unknown_variables

# What a problem of a check means to a script; those that are not here can only be noted.
_CODES: dict[CheckName, int] = {
    "engines": exit_codes.ENGINE,
    "disk": exit_codes.DAMAGED,
    "store": exit_codes.DAMAGED,
    "models": exit_codes.DAMAGED,
    "downloads": exit_codes.DAMAGED,
    "settings": exit_codes.USAGE,
    "server": exit_codes.USAGE,
}


@command(
    "doctor",
    N_(
        "Say what is wrong here, or slower than it has to be.\n"
        "A line for each thing that is looked at: ok, note (it works, but could be better) or problem (something will fail), "
        "with what to do about it. It is always about this machine; nothing is measured or changed, no model is read, and no "
        "network is used unless --online is given. The report may be shown to others: it names neither you, nor a key, nor this "
        "machine. "
        "If there is a problem, the exit code is that of the first one."
    ),
)
@option("--online", help=N_("Ask the model hubs, too, whether they answer from here."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, online: bool, as_json: bool) -> None:
    """Look at everything, and print what was found."""
    from zhibei.hardware.detect import detect

    hardware = detect()
    report = doctor_text.Report(hardware, tuple(_findings(invocation, hardware, is_online=online)), Path.home())
    printer = invocation.printer
    if as_json:
        printer.json(doctor_text.document(report))
    else:
        for line in doctor_text.lines(report, invocation.translator, printer.width, printer.styled):
            printer.data(line)
    batch = Batch(invocation, 0)
    for finding in report.findings:
        if finding.level == "problem":
            batch.fail(_CODES.get(finding.check, exit_codes.UNEXPECTED))
    batch.finish()


def _findings(invocation: Invocation, hardware: Hardware, *, is_online: bool) -> Iterator[Finding]:
    """All of them, in the order they are shown. Of settings that do not parse nothing follows, so less is looked at."""
    from zhibei.judging.catalogue import smallest
    from zhibei.judging.machine import engines_here

    engines = engines_here()
    try:
        settings = invocation.settings
    except ZhibeiError as error:
        settings, broken = None, error
    yield from doctor.engines(engines, "auto" if settings is None else settings.engine, tuple(ENGINES))
    for engine in engines:
        yield from doctor.kernels(engine, hardware, None if settings is None else settings.load.kernels)
    yield from doctor.graphics(hardware, engines)
    yield from doctor.memory(hardware, smallest(hardware))
    yield from doctor.limits(hardware, os.cpu_count())
    if settings is None:
        yield from doctor.broken_settings(broken)
        return
    yield from _store(settings)
    yield from _settings(settings)
    yield from doctor.server(_listener(settings), __version__, settings.server.port)
    yield from _network(settings, is_online=is_online)


def _store(settings: Settings) -> Iterator[Finding]:
    from zhibei.hardware import disk
    from zhibei.store.disk import Disk
    from zhibei.store.library import Library

    home, library = settings.home, Library(settings.home)
    yield from doctor.disk(disk.room(home))
    places = (home, home / "blobs", home / "manifests", home / "state")
    unwritable = next((place for place in places if not Disk().may_write(place)), None)
    yield doctor.store(unwritable or home, is_writable=unwritable is None)
    yield from _looked("models", lambda: doctor.models(library.list()))
    yield from _looked("downloads", lambda: doctor.downloads(library.partials()))


def _settings(settings: Settings) -> Iterator[Finding]:
    from zhibei.server.access import is_loopback
    from zhibei.server.keys import KeyFile

    def look() -> list[Finding]:
        server = settings.server
        has_key = server.api_key is not None or bool(KeyFile(settings.home).keys())
        # The settings may name another machine's address, which no server can listen on here.
        is_beyond = not is_loopback(server.host) and connect.is_here(connect.contact_address(server)[0])
        opening = Opening(is_beyond, has_key, server.allow_insecure_bind)
        known = tuple(var.name for var in ENV_VARS)
        return doctor.settings(unknown_variables(), known, opening, is_offline=settings.download.offline)

    yield from _looked("settings", look)


def _looked(check: CheckName, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What a look finds, or that it failed."""
    try:
        return look()
    except ZhibeiError as error:
        return [doctor.failed(check, error)]


def _listener(settings: Settings) -> Listener:
    server = settings.server
    host, port = connect.contact_address(server)
    if not connect.is_here(host):
        return Listener(is_elsewhere=True)
    if not port or not connect.is_listening(host, port):
        return Listener()
    try:
        found = Listener(is_listening=True, version=connect.ask_version(server, host, port))
        if found.version != __version__:
            return found
        from zhibei.remote import RemoteService

        service = RemoteService(connect.contact_url(server), server.api_key, server.tls_cert)
        state = connect.ask_server(service, lambda there: there.pool())
    except ZhibeiError as error:
        return Listener(is_listening=True, problem=error)
    return replace(found, residents=tuple(state.residents))


def _network(settings: Settings, *, is_online: bool) -> Iterator[Finding]:
    from zhibei.app import pull_options

    options = pull_options(settings)
    urls = tuple(dict.fromkeys(url for hub in options.hubs.values() for url in (hub.endpoint, *hub.mirrors)))
    yield from doctor.proxies([_proxy(url) for url in urls])
    if is_online:
        from zhibei.store.reachability import ask_all

        problems = asyncio.run(ask_all(urls, options.fetch))
        yield from doctor.hubs([(urlsplit(url).netloc, problem) for url, problem in zip(urls, problems, strict=True)])


def _proxy(url: str) -> str | ZhibeiError | None:
    try:
        return outgoing_proxy(url)
    except ZhibeiError as error:
        return error
