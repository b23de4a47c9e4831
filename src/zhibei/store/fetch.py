"""The one client for outgoing requests. Owns where they may go, how long they may take and which failures pass.

Every hop is checked: scheme, address (the one that is connected to is the one that was checked), no step down from https,
credentials only to the origin they were given for. It knows neither models nor files.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDictProxy
from yarl import URL

from zhibei import __version__
from zhibei.errors import BadSetting, Offline, SourceError
from zhibei.store import addresses
from zhibei.store.client_errors import translate
from zhibei.store.failures import BETWEEN_HINT, SENSELESS_HINT, PassingFailure, check_encoding, check_status
from zhibei.store.options import FetchOptions, Lookup, Retries, Timers
from zhibei.store.readahead import read_ahead
from zhibei.store.receiving import receive

__all__ = ["Answer", "FetchOptions", "Fetcher", "Lookup", "Retries", "Timers"]

MAX_REDIRECTS = 10
MAX_SMALL_BYTES = 8 * 1024 * 1024
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_READ_BUFFER_BYTES = 256 * 1024

_T = TypeVar("_T")


class Answer:
    """A response whose headers have come. ``url`` is the last hop; ``pieces`` may be read once."""

    def __init__(self, response: aiohttp.ClientResponse, timers: Timers) -> None:
        self._response = response
        self._timers = timers

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The response's headers."""
        return self._response.headers

    @property
    def host(self) -> str:
        """Who answered, for messages."""
        return self._response.url.host or "?"

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, read ahead a little, so that what came before a cut is not lost with it. To be closed.

        Raises:
            PassingFailure: the connection was cut, or stalled.
        """
        return read_ahead(self._arriving())

    async def whole(self, limit_bytes: int) -> bytes:
        """The body of a small answer.

        Raises:
            PassingFailure: the connection was cut, or stalled.
            SourceError: it is larger than ``limit_bytes``.
        """
        body = bytearray()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > limit_bytes:
                    raise _too_large(self.host, limit_bytes)
        return bytes(body)

    async def blocks(self) -> AsyncGenerator[bytes | memoryview, None]:
        """The body of a file: as ``pieces``, in larger ones where that can be done, and with less work."""
        received = receive(self._response, self._timers)
        if received is None:
            async with aclosing(self.pieces()) as pieces:
                async for piece in pieces:
                    yield piece
            return
        try:
            async with aclosing(received) as blocks:
                async for block in blocks:
                    yield block
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise translate(error, self.host) from error

    async def _arriving(self) -> AsyncGenerator[bytes, None]:
        """The body. Time is counted only while nothing comes."""
        waited_s, num_bytes = 0.0, 0
        try:
            while True:
                since = time.monotonic()
                piece = await self._response.content.readany()
                if not piece:
                    return
                waited_s, num_bytes = waited_s + time.monotonic() - since, num_bytes + len(piece)
                if num_bytes >= self._timers.stall_bytes:
                    waited_s, num_bytes = 0.0, 0
                elif waited_s > self._timers.stall_s:
                    raise asyncio.TimeoutError
                yield piece
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise translate(error, self.host) from error


class Fetcher:
    """Fetches for one typed URL and what it redirects to. Use as an async context manager.

    Args:
        typed_url: the URL a person typed or configured; its host and port alone may be private. None: nobody's may.
        options: timers and what a test replaces.
    """

    def __init__(self, typed_url: str | None, options: FetchOptions) -> None:
        self._options = options
        self._guard = _Guard(None if typed_url is None else URL(typed_url), options.lookup)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetcher:
        timers = self._options.timers
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=self._guard, use_dns_cache=False, limit=0, ssl=_trusted(self._options.ca_file)
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timers.connect_s, sock_read=timers.stall_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER_BYTES,
            headers={"User-Agent": f"zhibei/{__version__}", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str] | None = None, credentials: Mapping[str, str] | None = None
    ) -> AsyncIterator[Answer]:
        """Ask once, following redirects, and hand over the answer whatever its status (but see Raises).

        ``credentials`` are headers that leave only for the origin of ``url``; so does a user name in it.

        Raises:
            PassingFailure: worth another try.
            SourceError: it is not, or the way leads where requests may not go.
        """
        response = await self._follow(URL(url), dict(headers or {}), dict(credentials or {}))
        try:
            yield Answer(response, self._options.timers)
        finally:
            response.close()

    async def read_small(
        self, url: str, headers: Mapping[str, str] | None = None, *, limit_bytes: int = MAX_SMALL_BYTES
    ) -> tuple[int, bytes]:
        """``(status, body)`` of a small answer, tried again on passing failures.

        Raises:
            SourceError: it failed, is compressed, or is larger than ``limit_bytes``.
        """

        async def once() -> tuple[int, bytes]:
            async with self.get(url, headers) as answer:
                check_status(answer.status, answer.host)
                check_encoding(answer.headers, answer.host)
                return answer.status, await answer.whole(limit_bytes)

        return await self.persist(once)

    async def persist(self, once: Callable[[], Awaitable[_T]]) -> _T:
        """Do something until it does not fail in passing, as the options have it."""
        num_failures = 0
        while True:
            try:
                return await once()
            except PassingFailure as failure:
                num_failures += 1
                await self.pause(failure, num_failures)

    async def pause(self, failure: PassingFailure, num_failures: int) -> None:
        """Wait before the next try.

        Raises:
            ZhibeiError: the failure's own, when the tries are used up.
        """
        retries = self._options.retries
        if num_failures > (retries.connect_attempts if failure.is_connect else retries.attempts):
            raise failure.error from failure
        await asyncio.sleep(retries.pause_s(num_failures))

    async def _follow(self, url: URL, headers: dict[str, str], credentials: dict[str, str]) -> aiohttp.ClientResponse:
        first = url
        if self._options.is_offline:
            raise Offline(
                "{host} is not asked: Zhibei is set to be offline.",
                hint="What is already pulled works. To go online again, unset ZHIBEI_OFFLINE (download.offline).",
                host=first.host,
            )
        for _ in range(MAX_REDIRECTS + 1):
            self._guard.check_url(url)
            is_home = url.origin() == first.origin()
            response = await self._ask(url, {**headers, **credentials} if is_home else headers)
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location")
            response.close()
            url = _next_hop(url, location)
        raise SourceError("{host} redirects more than {limit} times.", hint=BETWEEN_HINT, host=first.host, limit=MAX_REDIRECTS)

    async def _ask(self, url: URL, headers: dict[str, str]) -> aiohttp.ClientResponse:
        assert self._session is not None
        host = url.host or "?"
        proxy = self._options.proxy_for(str(url.with_user(None).with_password(None)))
        self._guard.proxy = URL(proxy) if proxy else None
        asking = asyncio.ensure_future(self._session.get(url, headers=headers, allow_redirects=False, proxy=proxy))
        try:
            # Not wait_for: that of Python 3.11 and older can swallow a cancellation.
            await asyncio.wait((asking,), timeout=self._options.timers.header_s)
            if not asking.done():
                raise asyncio.TimeoutError
            return asking.result()
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            await _abandon(asking)
            raise translate(error, host) from error
        except asyncio.CancelledError:
            await _abandon(asking)
            raise


class _Guard(AbstractResolver):
    """Decides where a connection may go, at the moment it is made: the addresses it returns are the ones connected to.

    What the typed host was at first (public or private) it must stay, so that a name cannot turn to a private address later.
    """

    def __init__(self, typed: URL | None, lookup: Lookup | None) -> None:
        self._typed = None if typed is None else (typed.host, typed.port)
        self._typed_is_private: bool | None = None
        self._lookup = lookup or _system_lookup
        self.proxy: URL | None = None

    def check_url(self, url: URL) -> None:
        """Refuse a URL that is not http(s), or whose host is a forbidden address or a number in disguise."""
        if url.scheme not in ("http", "https") or not url.host:
            raise SourceError(
                "Only http and https addresses can be fetched, not {url}.",
                hint="Give an address that begins with https://.",
                url=str(url)[:200],
            )
        if addresses.is_odd_number(url.host):
            raise _forbidden(url.host)
        if addresses.is_address(url.host):
            self._check((url.host,), url.host, url.port)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """Addresses of a host, all of them allowed."""
        found = await self._lookup(host, port)
        if not found:
            raise OSError(errno.EADDRNOTAVAIL, f"no address for {host}")
        if self.proxy is None or (host, port) != (self.proxy.host, self.proxy.port):
            self._check(found, host, port)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""

    def _check(self, found: Sequence[str], host: str, port: int | None) -> None:
        is_public = all(map(addresses.is_public, found))
        if (host, port) == self._typed:
            if self._typed_is_private is None:
                self._typed_is_private = not is_public
            if self._typed_is_private and all(map(addresses.is_allowed_if_typed, found)):
                return
        if not is_public:
            raise _forbidden(host)


def _trusted(ca_file: Path | None) -> ssl.SSLContext | bool:
    """What certificates are checked against: the system's, and a file of the person's own.

    Raises:
        BadSetting: the file cannot be read or holds no certificates.
    """
    if ca_file is None:
        return True
    try:
        context = ssl.create_default_context()
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(
            "The certificates in {path} cannot be used: {reason}.",
            hint="ZHIBEI_CA_FILE must name a file of certificates in PEM form.",
            path=ca_file,
            reason=str(error),
        ) from error
    return context


async def _abandon(asking: asyncio.Future[aiohttp.ClientResponse]) -> None:
    """Let go of a request that nobody wants the answer of any more."""
    asking.cancel()
    await asyncio.wait((asking,))
    if not asking.cancelled() and asking.exception() is None:
        asking.result().close()


async def _system_lookup(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[4][0]) for address in found))


def _next_hop(url: URL, location: str | None) -> URL:
    if not location:
        raise SourceError("{host} redirects to nowhere.", hint=BETWEEN_HINT, host=url.host)
    try:
        target = url.join(URL(location)).with_fragment(None)
    except ValueError as error:
        raise SourceError("{host} redirects to an address that makes no sense.", hint=BETWEEN_HINT, host=url.host) from error
    if target.user is not None or target.password is not None:
        raise SourceError("{host} redirects to an address with a login in it.", hint=BETWEEN_HINT, host=url.host)
    if url.scheme == "https" and target.scheme != "https":
        raise SourceError(
            "{host} redirects from https to {scheme}, which is refused.", hint=BETWEEN_HINT, host=url.host, scheme=target.scheme
        )
    return target


def _too_large(host: str, limit_bytes: int) -> SourceError:
    return SourceError(
        "{host} sent a larger answer than is allowed ({limit} bytes).", hint=SENSELESS_HINT, host=host, limit=limit_bytes
    )


def _forbidden(host: str) -> SourceError:
    return SourceError(
        "{host} is not a public address; requests do not go there.",
        hint="If it is a server of your own, give its address itself, as it is reached from here.",
        host=host,
    )
