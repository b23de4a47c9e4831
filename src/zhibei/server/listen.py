"""Run the application: bind, serve, drain, leave. Owns sockets, signals and uvicorn's settings."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator

import uvicorn

from zhibei.errors import BadSetting
from zhibei.server.access import is_loopback
from zhibei.server.drain import Drain
from zhibei.server.guard import AsgiApp
from zhibei.server.protocol import BoundedProtocol
from zhibei.settings import ServerSettings
from zhibei.tls import server_context

GRACE_S = 30.0
CUT_S = 2
_KEEP_ALIVE_S = 75
_BACKLOG = 1024
_MAX_CONNECTIONS = 4096
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))

log = logging.getLogger("zhibei.server")


async def listen(
    guard: AsgiApp,
    settings: ServerSettings,
    drain: Drain,
    *,
    on_ready: Callable[[str], None],
    stop: asyncio.Event | None = None,
    grace_s: float = GRACE_S,
    needs_key: bool = False,
) -> None:
    """Serve until a signal comes, or until this is cancelled.

    The first signal drains: new requests are refused, those under way have ``grace_s`` seconds, then they are cut with an
    error. A second one ends at once, with KeyboardInterrupt.

    Args:
        on_ready: is told the address, once it answers.
        stop: setting it does what the first signal does.
        needs_key: whether nobody is let in without a key.

    Raises:
        BadSetting: the address cannot be used, or may not be used without a key; or the certificate cannot be.
    """
    check_bind(settings, needs_key=needs_key)
    tls = server_context(settings.tls_cert, settings.tls_key)
    sockets = bind(settings.host, settings.port)
    server = _Server(_config(guard, tls))
    life = _Life(drain, grace_s)
    try:
        with life.signals(), life.watching(stop):
            running = asyncio.ensure_future(server.serve(sockets))
            try:
                await server.ready(running)
                on_ready(address(settings.host, sockets[0], is_tls=tls is not None))
                await asyncio.wait((running, life.ended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                drain.begin()
                drain.cut()
                server.stop(now=life.forced)
                await running
    finally:
        for each in sockets:
            each.close()
    if life.forced:
        raise KeyboardInterrupt


def check_bind(settings: ServerSettings, *, needs_key: bool = False) -> None:
    """Return if the server may listen there.

    Raises:
        BadSetting: others could reach it, and no key would stop them.
    """
    if not (needs_key or settings.api_key is not None or settings.allow_insecure_bind or is_loopback(settings.host)):
        raise BadSetting(
            "Listening on {host} lets other machines use this server, and no API key is set.",
            hint="Set one (zhibei key create, or ZHIBEI_API_KEY), listen on 127.0.0.1, or allow it with --allow-insecure-bind.",
            host=settings.host,
        )


def bind(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address that ``host`` stands for, all on one port; port 0 takes a free one.

    Raises:
        BadSetting: it cannot be used.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BadSetting("There is no address {host}: {problem}", host=host, problem=error.strerror or error) from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, target in dict.fromkeys(found):
            wanted = (target[0], port, *target[2:])
            sockets.append(_bind_one(family, kind, protocol, wanted))
            port = port or sockets[0].getsockname()[1]
    except OSError as error:
        # A name like localhost may stand for an address that this machine has switched off.
        if not (sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)):
            for each in sockets:
                each.close()
            raise _bind_problem(host, port, error) from None
    return sockets


def address(host: str, listener: socket.socket, *, is_tls: bool = False) -> str:
    """The base address to show; a wildcard is shown as what it is reached by from here."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    name = f"[{shown}]" if ":" in shown else shown
    return f"{'https' if is_tls else 'http'}://{name}:{listener.getsockname()[1]}"


def _bind_one(family: int, kind: int, protocol: int, target: tuple[object, ...]) -> socket.socket:
    found = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, target[0] != "::")
        found.bind(target)
        found.listen(_BACKLOG)
    except BaseException:
        found.close()
        raise
    found.setblocking(False)
    return found


def _bind_problem(host: str, port: int, error: OSError) -> BadSetting:
    if error.errno == errno.EADDRINUSE:
        holder = _holder(port)
        if holder is not None:
            return BadSetting(
                "Port {port} is already used by {holder}.",
                hint="If it is another Zhibei, use that one; or choose another port with --port.",
                port=port,
                holder=holder,
            )
        return BadSetting(
            "Port {port} is already in use.",
            hint="If another Zhibei runs there, use that one; or choose another port with --port.",
            port=port,
        )
    if error.errno == errno.EACCES:
        return BadSetting("Port {port} may not be used by this user.", hint="Choose one above 1023 with --port.", port=port)
    if error.errno == errno.EADDRNOTAVAIL:
        return BadSetting("{host} is not an address of this machine.", hint="Use 127.0.0.1, or 0.0.0.0 for all.", host=host)
    return BadSetting("The server cannot listen on {host}: {problem}", host=host, problem=error.strerror or error)


def _holder(port: int) -> str | None:
    """The program that listens on a port, as far as this user may know."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError):
        return None
    return None


def _config(guard: AsgiApp, tls: ssl.SSLContext | None) -> uvicorn.Config:
    config = uvicorn.Config(
        guard,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=CUT_S,
    )
    config.load()
    # Made by us: uvicorn's own would ask at the terminal for the password of a key.
    config.ssl = tls
    return config


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: ours drain before they stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    def stop(self, *, now: bool) -> None:
        """End the main loop; with ``now`` without waiting for anybody."""
        self.should_exit = True
        if now:
            self.force_exit = True
            for task in tuple(self.server_state.tasks):
                task.cancel()
            for connection in tuple(self.server_state.connections):
                connection.transport.abort()

    async def ready(self, running: asyncio.Future[None]) -> None:
        """Wait until it accepts connections, or has failed to."""
        while not self.started and not running.done():
            await asyncio.sleep(0.001)


class _Life:
    """From the first signal to the last."""

    def __init__(self, drain: Drain, grace_s: float) -> None:
        self._drain = drain
        self._grace_s = grace_s
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.forced = False

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Listen to signals while the block lasts; outside the main thread there are none."""
        before: dict[int, object] = {}
        try:
            for number in _SIGNALS:
                before[number] = signal.signal(number, self._from_signal)
        except ValueError:
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            if self._ending is not None:
                self._ending.cancel()

    @contextlib.contextmanager
    def watching(self, stop: asyncio.Event | None) -> Iterator[None]:
        """End gently once ``stop`` is set, while the block lasts."""

        async def watch(event: asyncio.Event) -> None:
            await event.wait()
            self.stop()

        watcher = None if stop is None else self._loop.create_task(watch(stop))
        try:
            yield
        finally:
            if watcher is not None:
                watcher.cancel()

    def _from_signal(self, number: int, frame: object) -> None:
        self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Once: end gently. Twice: now."""
        if self._ending is None:
            self._ending = self._loop.create_task(self._end())
        elif not self.ended.done():
            self.forced = True
            self.ended.set_result(None)

    async def _end(self) -> None:
        self._drain.begin()
        if not await self._drain.wait_idle(self._grace_s):
            log.warning("requests still running after %d s, which are cut: %d", self._grace_s, self._drain.num_requests)
            self._drain.cut()
            await self._drain.wait_idle(CUT_S)
        if not self.ended.done():
            self.ended.set_result(None)
