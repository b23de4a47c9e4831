"""``url:https://…``: a GGUF file behind http(s), with an optional ``#sha256=<hex>``. Continues where it was cut off."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from zhibei.errors import BadReference, SourceError, StoreError
from zhibei.events import Notice, Progress
from zhibei.store.digests import Digest
from zhibei.store.failures import PassingFailure, check_encoding, check_status
from zhibei.store.fetch import Answer, Fetcher, FetchOptions
from zhibei.store.filenames import harmless
from zhibei.store.naming import name_from_file
from zhibei.store.sources.base import RemoteFile, RemoteModel, SourceContext, StartOver

_MAGIC = b"GGUF"
_PROBE_BYTES = 4096
_STEADY_BYTES = 256 * 1024
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"', re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


class UrlSource:
    """The ``url:`` source. Holds one fetcher, for the URL that was typed."""

    def __init__(self, context: SourceContext) -> None:
        self._options = context.fetch or FetchOptions()
        self._open = AsyncExitStack()
        self._fetcher: Fetcher | None = None
        self._url = ""
        self._has_ranges = False

    async def resolve(self, location: str) -> RemoteModel:
        """Ask for the first bytes: they tell size, version and whether it is a model at all."""
        self._url, origin, digest = _parse(location)
        if self._fetcher is None:
            self._fetcher = await self._open.enter_async_context(Fetcher(self._url, self._options))
        file_name = harmless(unquote(urlsplit(self._url).path.rpartition("/")[2]) or "model.gguf")
        file = RemoteFile(file_name, origin, digest=digest)
        return RemoteModel(f"url:{origin}", name_from_file(file_name), (await self._fetcher.persist(lambda: self._probe(file)),))

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        """Bytes by range; None if the server does not do ranges."""
        if not self._has_ranges or file.size_bytes is None or length <= 0:
            return b"" if self._has_ranges and length <= 0 else None
        last = min(offset + length, file.size_bytes) - 1
        if offset > last:
            return b""
        return await self._fetched.persist(lambda: self._read_range(file, offset, last))

    async def prepare(self, file: RemoteFile) -> AsyncGenerator[Progress | Notice | RemoteFile, None]:
        """Nothing to do."""
        yield file

    async def open(self, file: RemoteFile, offset: int) -> AsyncGenerator[bytes, None]:
        """The bytes; a cut connection is continued, six times in a row without headway at most."""
        position = steady = offset
        num_failures = 0
        while True:
            try:
                async with aclosing(self._stream(file, position)) as pieces:
                    async for piece in pieces:
                        position += len(piece)
                        yield piece
                return
            except PassingFailure as failure:
                if position - steady >= _STEADY_BYTES:
                    num_failures, steady = 0, position
                num_failures += 1
                await self._fetched.pause(failure, num_failures)

    async def close(self) -> None:
        """Close all connections."""
        await self._open.aclose()
        self._fetcher = None

    @property
    def _fetched(self) -> Fetcher:
        assert self._fetcher is not None, "resolve comes first"
        return self._fetcher

    async def _probe(self, file: RemoteFile) -> RemoteFile:
        async with self._fetched.get(self._url, {"Range": f"bytes=0-{_PROBE_BYTES - 1}"}) as answer:
            check_status(answer.status, answer.host)
            check_encoding(answer.headers, answer.host)
            self._has_ranges = answer.status == 206
            if answer.status == 416:
                raise SourceError("{host} has an empty file there.", host=answer.host)
            if answer.status == 206:
                first, _, size = _content_range(answer)
                if first != 0:
                    raise _wrong_range(answer)
            else:
                size = _content_length(answer)
            await _check_is_model(answer)
            return replace(file, size_bytes=size, validator=_validator(answer))

    async def _read_range(self, file: RemoteFile, first: int, last: int) -> bytes:
        async with self._fetched.get(self._url, _conditions(file, f"bytes={first}-{last}")) as answer:
            self._check_same(answer, file, first, last)
            body = bytearray()
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > last - first + 1:
                        raise _wrong_range(answer)
            return bytes(body)

    async def _stream(self, file: RemoteFile, offset: int) -> AsyncGenerator[bytes, None]:
        """One connection's worth. Raises PassingFailure if it ends before the file does."""
        if offset and file.validator is None and file.digest is None:
            raise StartOver
        headers = _conditions(file, f"bytes={offset}-") if offset else {}
        async with self._fetched.get(self._url, headers) as answer:
            if answer.status == 416 and _content_range(answer)[2] == offset:
                return
            if offset:
                self._check_same(answer, file, offset, None)
            else:
                _check_whole(answer, file)
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    offset += len(piece)
                    if file.size_bytes is not None and offset > file.size_bytes:
                        raise SourceError("{host} sends more bytes than it announced.", host=answer.host)
                    yield piece
            if file.size_bytes is not None and offset < file.size_bytes:
                raise PassingFailure(
                    SourceError(
                        "The connection to {host} was cut.", hint="Pull again: what has come so far is kept.", host=answer.host
                    )
                )

    def _check_same(self, answer: Answer, file: RemoteFile, first: int, last: int | None) -> None:
        """Only a 206 that begins where it was asked to, of the same version and size, may be used.

        Raises:
            StartOver: the range was ignored, or the file is another one by now.
            SourceError: a range that was not asked for.
        """
        check_status(answer.status, answer.host)
        check_encoding(answer.headers, answer.host)
        if answer.status != 206:
            raise StartOver
        begin, end, size = _content_range(answer)
        if size != file.size_bytes and None not in (size, file.size_bytes):
            raise StartOver
        tag = answer.headers.get("ETag")
        if tag is not None and file.validator is not None and file.validator.startswith('"') and tag != file.validator:
            raise StartOver
        if begin != first or end is None or (last is not None and end != last):
            raise _wrong_range(answer)


def _parse(location: str) -> tuple[str, str, Digest | None]:
    """``(URL to ask, URL to record, digest)``: a login is asked with and not recorded."""
    url, mark, fragment = location.partition("#")
    try:
        parts = urlsplit(url)
        is_good = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or "\\" in url:
        raise BadReference(
            "{url!r} is not an http or https address.", hint="Write it like https://host/path/model.gguf.", url=url[:200]
        )
    digest = None
    if mark:
        kind, equals, value = fragment.partition("=")
        try:
            if kind != "sha256" or not equals:
                raise StoreError("not a checksum")
            digest = Digest(value.lower())
        except StoreError:
            raise BadReference(
                "The part after # is not a checksum.", hint="Write it like #sha256=<64 hexadecimal digits>."
            ) from None
    return url, parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), digest


def _conditions(file: RemoteFile, wanted: str) -> dict[str, str]:
    return {"Range": wanted, **({"If-Range": file.validator} if file.validator else {})}


def _check_whole(answer: Answer, file: RemoteFile) -> None:
    check_status(answer.status, answer.host)
    check_encoding(answer.headers, answer.host)
    if answer.status != 200:
        raise _wrong_range(answer)
    size = _content_length(answer)
    if file.size_bytes is not None and size is not None and size != file.size_bytes:
        raise StartOver
    if file.validator is not None and _validator(answer) != file.validator:
        raise StartOver


async def _check_is_model(answer: Answer) -> None:
    """Look at the first bytes: a login page or a captive portal answers 200 too."""
    head = b""
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            head += piece[:_PROBE_BYTES]
            if len(head) >= len(_MAGIC):
                break
    if head[: len(_MAGIC)] == _MAGIC:
        return
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") or head.lstrip()[:1] == b"<":
        raise SourceError(
            "{host} answers with a web page instead of a model file.",
            hint="Use the address of the file itself, and check that no login page of the network is in between.",
            host=answer.host,
        )
    raise SourceError("What {host} has there is not a GGUF model file.", host=answer.host)


def _validator(answer: Answer) -> str | None:
    """A strong ETag, else the time of the last change: what If-Range takes. A weak or malformed tag is none."""
    tag = answer.headers.get("ETag", "")
    if _STRONG_TAG.fullmatch(tag):
        return tag
    changed = answer.headers.get("Last-Modified", "")
    return changed if re.fullmatch(r"[A-Za-z0-9,: +-]{10,40}", changed, re.ASCII) else None


def _content_length(answer: Answer) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def _content_range(answer: Answer) -> tuple[int | None, int | None, int | None]:
    """``(first, last, size)`` of the Content-Range; None where it does not say."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if match is None:
        return None, None, None
    return tuple(int(text) if text and text != "*" else None for text in match.groups())  # type: ignore[return-value]


def _wrong_range(answer: Answer) -> SourceError:
    return SourceError("{host} answered with another part of the file than it was asked for.", host=answer.host)
