"""Talks to a hub: asks its endpoint, and its mirrors where that cannot be reached; reads the files it has.

Owns which endpoint is used and where the token goes: to the hub's own endpoint and nowhere else. Knows no hub's protocol;
``sources/hf.py`` and ``sources/modelscope.py`` do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import urlsplit

from zhibei.errors import BadSetting, DigestMismatch, ModelNotFound, SourceError, ZhibeiError
from zhibei.events import Notice
from zhibei.store.failures import PassingFailure, check_encoding, check_status
from zhibei.store.fetch import MAX_SMALL_BYTES, Fetcher, FetchOptions
from zhibei.store.http_files import HttpFile
from zhibei.store.sources.base import Hub, RemoteFile, StartOver

_HASTY_CONNECT_S = 8.0
_MAX_BLOB_BYTES = 32 * 1024 * 1024
_MAX_NUM_VALUES = 1_000_000
_MAX_REFUSAL_BYTES = 64 * 1024
_SMALL_ROLES = ("config", "licence")
_TOKEN = re.compile(r"[\x21-\x2b\x2d-\x3a\x3c-\x7e]{1,4096}", re.ASCII)
_REFUSALS = frozenset((400, 401, 403, 404, 410, 422, 451))

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HubAnswer:
    """A small answer. ``code`` and ``reason`` are what the hub says of a failure in ``X-Error-Code`` and ``X-Error-Message``."""

    status: int
    body: bytes
    host: str
    code: str = ""
    reason: str = ""
    is_mirror: bool = False
    had_token: bool = False

    @property
    def is_good(self) -> bool:
        """Whether it is what was asked for."""
        return 200 <= self.status < 300

    def json(self) -> object:
        """The body.

        Raises:
            SourceError: it is not JSON, or an unreasonable lot of it.
        """
        try:
            # Counted before they are made: a small document can hold many empty lists, each fifty times its text.
            if sum(map(self.body.count, (b",", b"[", b"{"))) > _MAX_NUM_VALUES:
                raise ValueError("too many values")
            found: object = json.loads(self.body.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise senseless(self.host) from error
        return found


Explain = Callable[[HubAnswer, RemoteFile], ZhibeiError | StartOver]
"""Makes an error of an answer that refuses a file; StartOver where the version that was listed is gone."""


class HubSession:
    """One pull's or search's way to a hub. ``url_of`` gives a file's path at any endpoint, ``explain`` the hub's refusals.

    ``credentials`` are the headers that carry the token.
    """

    def __init__(
        self,
        hub: Hub,
        options: FetchOptions,
        *,
        credentials: Mapping[str, str],
        url_of: Callable[[RemoteFile], str],
        explain: Explain,
    ) -> None:
        self._options = options
        self._hasty = _hurried(options)
        self._endpoints = (hub.endpoint.rstrip("/"), *(mirror.rstrip("/") for mirror in hub.mirrors))
        self._credentials = dict(credentials)
        self._url_of = url_of
        self._explain = explain
        self._open = AsyncExitStack()
        self._fetchers: dict[tuple[int, bool], Fetcher] = {}
        self._current = 0
        self._ranges: dict[str, bool] = {}

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the person should know of the way that was taken."""
        if not self._current:
            return ()
        hosts = (("host", _host(self._endpoints[0])), ("mirror", _host(self._endpoints[self._current])))
        return (Notice("{host} cannot be reached; using its mirror {mirror}.", hosts),)

    async def ask(self, path: str, *, limit_bytes: int = MAX_SMALL_BYTES) -> HubAnswer:
        """The answer to a small question, whatever its status; from a mirror if the endpoint cannot be reached.

        Raises:
            SourceError, Offline: nobody answered; the endpoint's own failure is told.
        """
        first: ZhibeiError | None = None
        for position in range(self._current, len(self._endpoints)):
            try:
                answer = await self._ask_one(position, path, limit_bytes)
            except SourceError as error:
                if not _is_passing(error):
                    raise
                first = first or error
                continue
            self._current = position
            return answer
        assert first is not None
        raise first

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        """Bytes of a file by range; None where the server does not do ranges.

        Raises:
            StartOver: the file is not as it was listed.
        """
        if file.size_bytes is None:
            return None
        if is_small(file):
            return (await self._small(file))[offset : offset + length]
        if file.name not in self._ranges:
            await self.prepare(file)
        if not self._ranges.get(file.name):
            return None
        return await self._told(file, lambda remote: remote.read(file, offset, length))

    async def prepare(self, file: RemoteFile) -> RemoteFile:
        """The file with all that its server says of it.

        Raises:
            StartOver: the file is not as it was listed.
        """
        if is_small(file) or (file.digest is not None and file.size_bytes is not None and file.role in _SMALL_ROLES):
            return file
        probe = await self._told(file, lambda remote: remote.probe(file))
        if file.size_bytes is not None and probe.file.size_bytes not in (None, file.size_bytes):
            raise StartOver
        self._ranges[file.name] = probe.has_ranges
        known = file.size_bytes if file.size_bytes is not None else probe.file.size_bytes
        # A digest says which version it is; what servers of the same file call it may differ.
        return replace(file, size_bytes=known, validator=file.validator if file.digest else probe.file.validator)

    def has_ranges(self, file: RemoteFile) -> bool:
        """Whether parts of it can be had; known once it is prepared."""
        return file.size_bytes is not None and self._ranges.get(file.name, False)

    async def open(self, file: RemoteFile, offset: int, end: int | None = None) -> AsyncGenerator[bytes | memoryview, None]:
        """The file's bytes; where its server fails for good midway and a digest tells them, the next mirror goes on."""
        if is_small(file):
            yield (await self._small(file))[offset:end]
            return
        position = offset
        place = self._current
        while True:
            try:
                async with aclosing((await self._at(place, file)).open(file, position, end)) as pieces:
                    async for piece in pieces:
                        position += len(piece)
                        yield piece
                return
            except SourceError as error:
                if file.digest is None or not _is_passing(error) or place + 1 >= len(self._endpoints):
                    raise await self._explained(place, file, error) from error
                place += 1
                self._current = max(self._current, place)
            except ModelNotFound as error:
                raise await self._explained(place, file, error) from error

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        await self._open.aclose()
        self._fetchers.clear()

    async def _ask_one(self, position: int, path: str, limit_bytes: int, headers: Mapping[str, str] | None = None) -> HubAnswer:
        fetcher = await self._fetcher(position, is_hasty=position + 1 < len(self._endpoints))
        endpoint = self._endpoints[position]
        credentials = self._credentials if position == 0 else {}

        async def once() -> HubAnswer:
            async with fetcher.get(endpoint + path, headers, credentials) as answer:
                if answer.status not in _REFUSALS:
                    check_status(answer.status, answer.host)
                check_encoding(answer.headers, answer.host)
                return HubAnswer(
                    answer.status,
                    await answer.whole(limit_bytes),
                    answer.host,
                    answer.headers.get("X-Error-Code", "")[:100],
                    answer.headers.get("X-Error-Message", "")[:300],
                    is_mirror=position > 0,
                    had_token=bool(credentials),
                )

        return await fetcher.persist(once)

    async def _small(self, file: RemoteFile) -> bytes:
        """A whole small file, checked against the name that git gives its content."""
        assert file.size_bytes is not None and file.validator is not None
        answer = await self.ask(self._url_of(file), limit_bytes=file.size_bytes + _MAX_REFUSAL_BYTES)
        if not answer.is_good:
            raise self._explain(answer, file)
        if blob_id(answer.body) != file.validator.removeprefix("git:"):
            raise DigestMismatch(
                "What came as {name} is not what was promised: its git hash is {found}, not {wanted}.",
                hint="Pull again. If it stays so, the file at the source has been changed or the network alters it.",
                name=file.name,
                found=blob_id(answer.body),
                wanted=file.validator.removeprefix("git:"),
            )
        return answer.body

    async def _told(self, file: RemoteFile, work: Callable[[HttpFile], Awaitable[_T]]) -> _T:
        """Do something with a file where the hub is reached now, or at the next mirror; refusals in the hub's own words."""
        while True:
            place = self._current
            try:
                return await work(await self._at(place, file))
            except SourceError as error:
                if not _is_passing(error) or place + 1 >= len(self._endpoints):
                    raise await self._explained(place, file, error) from error
                self._current = max(self._current, place + 1)
            except ModelNotFound as error:
                raise await self._explained(place, file, error) from error

    async def _explained(self, place: int, file: RemoteFile, error: ZhibeiError) -> Exception:
        """What the hub says of its refusal, asked for once more; the failure itself where it is none."""
        if error.values.get("status") not in _REFUSALS:
            return error
        try:
            answer = await self._ask_one(place, self._url_of(file), MAX_SMALL_BYTES, {"Range": "bytes=0-0"})
        except ZhibeiError:
            return error
        is_hub = answer.host == urlsplit(self._endpoints[place]).hostname
        return self._explain(answer, file) if is_hub and not answer.is_good else error

    async def _at(self, place: int, file: RemoteFile) -> HttpFile:
        url = self._endpoints[place] + self._url_of(file)
        return HttpFile(await self._fetcher(place), url, self._credentials if place == 0 else None)

    async def _fetcher(self, position: int, *, is_hasty: bool = False) -> Fetcher:
        """The fetcher of an endpoint; a hasty one gives up early, because there is another endpoint to try."""
        key = (position, is_hasty)
        if key not in self._fetchers:
            options = self._hasty if is_hasty else self._options
            fetcher = Fetcher(self._endpoints[position], options)
            self._fetchers[key] = await self._open.enter_async_context(fetcher)
        return self._fetchers[key]


def bearer(token: str | None, name: str) -> dict[str, str]:
    """The header that carries a token, which a setting of this name holds.

    Raises:
        BadSetting: it cannot be a token.
    """
    if token is None:
        return {}
    if not _TOKEN.fullmatch(token.strip()):
        raise BadSetting(
            "{name} is not a token: it has characters that tokens never have.",
            hint="Copy the token again from the hub's website, or unset {name}: what is open to all needs none.",
            name=name,
        )
    return {"Authorization": f"Bearer {token.strip()}"}


def blob_id(content: bytes) -> str:
    """The name that git gives content: SHA-1 over a short head and the content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def is_small(file: RemoteFile) -> bool:
    """Whether a file is fetched whole and checked by its git name: small, listed with that name, and without a SHA-256."""
    is_named = file.digest is None and (file.validator or "").startswith("git:")
    return is_named and file.size_bytes is not None and file.size_bytes <= _MAX_BLOB_BYTES


def senseless(host: str) -> SourceError:
    """The error of an answer that is not what the hub's protocol has."""
    return SourceError(
        "{host} does not answer like a model hub.",
        hint="Check the endpoint's address, and that no login page of the network is in between.",
        host=host,
    )


def _hurried(options: FetchOptions) -> FetchOptions:
    """For an endpoint with another one after it: a network that swallows connections is not waited for long."""
    retries, timers = options.retries, options.timers
    return replace(
        options,
        retries=replace(retries, attempts=min(retries.attempts, 1), connect_attempts=min(retries.connect_attempts, 1)),
        timers=replace(timers, connect_s=min(timers.connect_s, _HASTY_CONNECT_S)),
    )


def _is_passing(error: ZhibeiError) -> bool:
    """Whether tries were used up, as against an answer that will stay the same (and against being set to be offline)."""
    return isinstance(error.__cause__, PassingFailure)


def _host(url: str) -> str:
    return urlsplit(url).netloc or url
