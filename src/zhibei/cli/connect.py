"""Where a command's work is done: by a running server if one answers, else in this process.

Keeps start-up short: nothing here imports asyncio or an HTTP client before it is known that one is needed.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from zhibei import __version__
from zhibei.cli.invocation import Invocation
from zhibei.errors import BadRequest, NotPermitted, Offline
from zhibei.settings import ServerSettings, Settings
from zhibei.store.library import Library
from zhibei.store.verbs import StoreVerbs

if TYPE_CHECKING:
    from zhibei.service import Service
    from zhibei.store.foreign.places import ForeignPlaces

Answer = TypeVar("Answer")

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1", "": "127.0.0.1"}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_CONNECT_S = 0.5
_ANSWER_S = 5.0
_MAX_ANSWER_BYTES = 65536
_UNAUTHORIZED = 401


class Connection:
    """A running server, or this process. ``server`` None: no server runs."""

    def __init__(self, settings: Settings, server: Service | None) -> None:
        self._settings = settings
        self.server = server

    def service(self) -> Service:
        """A service with every verb; the caller closes it."""
        if self.server is not None:
            return self.server
        from zhibei.app import build
        from zhibei.local import LocalService

        return LocalService(build(self._settings))

    def work(self, task: Callable[[Service], Coroutine[Any, Any, Answer]]) -> Answer:
        """Do work that takes its time, here or at the server, and let go of the service."""
        return ask_server(self.service(), task)

    def ask(self, question: Callable[[Service | StoreVerbs], Coroutine[Any, Any, Answer]]) -> Answer:
        """Put one question to the store, here or at the server."""
        if self.server is not None:
            return ask_server(self.server, question)
        return run_sync(question(local_store(self._settings)))


def local_store(settings: Settings) -> StoreVerbs:
    """The store on this disk, whether a server runs or not."""

    def places() -> ForeignPlaces:
        from zhibei.app import places

        return places(settings)

    return StoreVerbs(Library(settings.home, places=places))


def connect(invocation: Invocation) -> Connection:
    """Find out who does this command's work.

    Raises:
        Offline: the settings name a server on another machine, and it does not answer.
    """
    settings = invocation.settings
    host, port = contact_address(settings.server)
    found = _find_server(invocation, settings.server, host, port)
    if found is None:
        return Connection(settings, None)
    from zhibei.remote import RemoteService

    url = base_url(host, port, is_tls=settings.server.tls_cert is not None)
    if found != __version__:
        invocation.warn("The server at {url} is Zhibei {found}, this is {own}.", url=url, found=found, own=__version__)
    return Connection(settings, RemoteService(url, settings.server.api_key, settings.server.tls_cert))


def here_only(settings: Settings, option: str) -> Connection:
    """This process, even if a server runs on this machine: several may work on one store.

    Raises:
        BadRequest: the settings name a server on another machine, which ``option`` cannot be said to.
    """
    host, port = contact_address(settings.server)
    if not is_here(host):
        raise BadRequest(
            "{option} only works on this machine's store, but the settings point to the server at {url}.",
            hint="Set it where that server starts, or leave it out; with --host 127.0.0.1 this machine's store is used.",
            param=option,
            option=option,
            url=base_url(host, port),
        )
    return Connection(settings, None)


def elsewhere(invocation: Invocation) -> Service | None:
    """The server that the settings name, if it is on another machine: questions about a machine are about that one.

    Raises:
        Offline: it does not answer.
    """
    host, _ = contact_address(invocation.settings.server)
    return None if is_here(host) else connect(invocation).server


def ask_server(server: Service, question: Callable[[Service], Coroutine[Any, Any, Answer]]) -> Answer:
    """Put one question to a server, and let go of it."""
    import asyncio

    async def ask() -> Answer:
        try:
            return await question(server)
        finally:
            await server.close()

    return asyncio.run(ask())


def contact_address(server: ServerSettings) -> tuple[str, int]:
    """Where a server with these settings is reached: one that listens everywhere, over loopback."""
    return _ANY_ADDRESS.get(server.host, server.host.strip("[]")), server.port


def contact_url(server: ServerSettings) -> str:
    """The address of a server with these settings."""
    return base_url(*contact_address(server), is_tls=server.tls_cert is not None)


def base_url(host: str, port: int, *, is_tls: bool = False) -> str:
    """``http://host:port``."""
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run_sync(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Drive a coroutine that never waits to its end, without an event loop.

    Raises:
        RuntimeError: it waits. The store's verbs in this process never do.
    """
    try:
        work.send(None)
    except StopIteration as end:
        return cast("Answer", end.value)
    work.close()
    raise RuntimeError("this work has to wait, and needs an event loop")


def _find_server(invocation: Invocation, server: ServerSettings, host: str, port: int) -> str | None:
    """The version of the Zhibei that listens there; None if none does."""
    if not is_listening(host, port):
        if is_here(host):
            return None
        raise Offline(
            "No Zhibei server answers at {url}.",
            hint="Start it there: zhibei serve --host {host}",
            url=base_url(host, port),
            host=host,
        )
    version = ask_version(server, host, port)
    if version is None:
        invocation.warn("Another program listens at {url}; working without a server.", url=base_url(host, port))
    return version


def is_listening(host: str, port: int) -> bool:
    """Whether anything accepts connections there."""
    try:
        # As bytes, a name is not taken through the tables of international names, which take time to load.
        name: Any = host.encode() if host.isascii() else host
        socket.create_connection((name, port), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def ask_version(server: ServerSettings, host: str, port: int) -> str | None:
    """The version of the Zhibei there; None if it is another program, or too broken to say so.

    Raises:
        NotPermitted: it is one, and wants another key. Or whatever else it answers.
    """
    import http.client

    if server.tls_cert is None:
        connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    else:
        # TLS takes time to load, and most servers do without.
        from zhibei.tls import client_context

        connection = http.client.HTTPSConnection(host, port, timeout=_ANSWER_S, context=client_context(server.tls_cert))
    headers = {"Authorization": f"Bearer {server.api_key}"} if server.api_key else {}
    try:
        connection.request("GET", "/zhibei/v1/version", headers=headers)
        response = connection.getresponse()
        status, body = response.status, json.loads(response.read(_MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    if not isinstance(body, dict):
        return None
    if status != http.client.OK:
        _raise_refusal(body, status, base_url(host, port))
    is_ours = body.get("name") == "zhibei" and isinstance(body.get("version"), str)
    return body["version"] if is_ours else None


def _raise_refusal(body: Mapping[str, Any], status: int, url: str) -> None:
    """Raise the error of a Zhibei that does not let us in; return if it is no Zhibei's."""
    from zhibei.wire import ERROR_DETAIL_KEY, decode_error

    error = body.get("error")
    if not isinstance(error, dict) or ERROR_DETAIL_KEY not in error:
        return
    if status == _UNAUTHORIZED:
        raise NotPermitted("The server at {url} wants another API key.", hint="Set ZHIBEI_API_KEY to its key.", url=url)
    raise decode_error(error[ERROR_DETAIL_KEY])


def is_here(host: str) -> bool:
    """Whether the host is this machine: then a server that is not there is simply not running."""
    return host in _LOOPBACK or _is_own_address(host)


def _is_own_address(host: str) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True
