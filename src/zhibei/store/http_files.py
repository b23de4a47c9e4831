"""One file behind a URL: its version, its bytes by range, a cut connection continued. What all web sources share.

Knows HTTP's rules for ranges and validators; knows no hub.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from zhibei.errors import SourceError
from zhibei.store.failures import AGAIN_HINT, BETWEEN_HINT, PassingFailure, check_encoding, check_status, is_web_page, web_page
from zhibei.store.fetch import Answer, Fetcher
from zhibei.store.sources.base import RemoteFile, StartOver

PROBE_BYTES = 4096
_STEADY_BYTES = 256 * 1024
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"', re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Probe:
    """What the first bytes' answer told: the file with size and validator, whether ranges work, and those bytes."""

    file: RemoteFile
    has_ranges: bool
    head: bytes
    content_type: str
    host: str


class HttpFile:
    """A file at a URL. ``credentials`` are headers that leave only for the URL's own origin.

    Several parts may be read at once.
    """

    def __init__(self, fetcher: Fetcher, url: str, credentials: Mapping[str, str] | None = None) -> None:
        self._fetcher = fetcher
        self._url = url
        self._credentials = dict(credentials or {})

    async def probe(self, file: RemoteFile) -> Probe:
        """Ask for the first bytes: they tell size, version and what kind of thing it is.

        Raises:
            ModelNotFound, SourceError, Offline: see ``failures``.
        """
        return await self._fetcher.persist(lambda: self._probe(file))

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes:
        """Bytes by range, fewer only where the file ends. The server must do ranges, and the size be known."""
        assert file.size_bytes is not None
        last = min(offset + length, file.size_bytes) - 1
        if offset > last:
            return b""
        return await self._fetcher.persist(lambda: self._read_range(file, offset, last))

    async def open(self, file: RemoteFile, offset: int, end: int | None = None) -> AsyncGenerator[bytes | memoryview, None]:
        """The bytes; a cut connection is continued, a bounded number of times in a row without headway."""
        position = steady = offset
        num_failures = 0
        while True:
            try:
                async with aclosing(self._stream(file, position, end)) as pieces:
                    async for piece in pieces:
                        position += len(piece)
                        yield piece
                return
            except PassingFailure as failure:
                if position - steady >= _STEADY_BYTES:
                    num_failures, steady = 0, position
                num_failures += 1
                await self._fetcher.pause(failure, num_failures)

    async def _probe(self, file: RemoteFile) -> Probe:
        async with self._fetcher.get(self._url, {"Range": f"bytes=0-{PROBE_BYTES - 1}"}, self._credentials) as answer:
            check_status(answer.status, answer.host)
            check_encoding(answer.headers, answer.host)
            if answer.status == 416:
                raise SourceError(
                    "{host} has an empty file there.",
                    hint="Check the address; the upload may not be complete. Choose another source of this model.",
                    host=answer.host,
                )
            if answer.status == 206:
                first, _, size = _content_range(answer)
                if first != 0:
                    raise _wrong_range(answer)
            else:
                size = _content_length(answer)
            head = await _first_bytes(answer)
            found = replace(file, size_bytes=size, validator=validator_of(answer))
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            return Probe(found, answer.status == 206, head, kind, answer.host)

    async def _read_range(self, file: RemoteFile, first: int, last: int) -> bytes:
        async with self._fetcher.get(self._url, _conditions(file, f"bytes={first}-{last}"), self._credentials) as answer:
            _check_same(answer, file, first, last)
            body = bytearray()
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > last - first + 1:
                        raise _wrong_range(answer)
            if len(body) < last - first + 1:
                raise _cut(answer)
            return bytes(body)

    async def _stream(self, file: RemoteFile, offset: int, end: int | None) -> AsyncGenerator[bytes | memoryview, None]:
        """One connection's worth. Raises PassingFailure if it ends before it should."""
        if offset and file.validator is None and file.digest is None:
            raise StartOver
        is_whole = offset == 0 and end is None
        wanted = f"bytes={offset}-{'' if end is None else end - 1}"
        stop = file.size_bytes if end is None else end
        async with self._fetcher.get(self._url, {} if is_whole else _conditions(file, wanted), self._credentials) as answer:
            if answer.status == 416 and end is None and _content_range(answer)[2] == offset:
                return
            if is_whole:
                _check_whole(answer, file)
            else:
                _check_same(answer, file, offset, None if end is None else end - 1)
            async with aclosing(answer.blocks()) as pieces:
                async for piece in pieces:
                    offset += len(piece)
                    if stop is not None and offset > stop:
                        raise SourceError("{host} sends more bytes than it announced.", hint=AGAIN_HINT, host=answer.host)
                    yield piece
            if stop is not None and offset < stop:
                raise _cut(answer)


def validator_of(answer: Answer) -> str | None:
    """A strong ETag, else the time of the last change: what If-Range takes. A weak or malformed tag is none."""
    tag = answer.headers.get("ETag", "")
    if _STRONG_TAG.fullmatch(tag):
        return tag
    changed = answer.headers.get("Last-Modified", "")
    return changed if re.fullmatch(r"[A-Za-z0-9,: +-]{10,40}", changed, re.ASCII) else None


async def _first_bytes(answer: Answer) -> bytes:
    head = bytearray()
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            head += piece[:PROBE_BYTES]
            if len(head) >= PROBE_BYTES:
                break
    return bytes(head[:PROBE_BYTES])


def _check_same(answer: Answer, file: RemoteFile, first: int, last: int | None) -> None:
    """Only a 206 that begins where it was asked to, of the same version and size, may be used.

    Raises:
        StartOver: the range was ignored, or the file is another one by now.
        SourceError: a range that was not asked for.
    """
    check_status(answer.status, answer.host)
    check_encoding(answer.headers, answer.host)
    _check_no_page(answer, file)
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


def _check_whole(answer: Answer, file: RemoteFile) -> None:
    check_status(answer.status, answer.host)
    check_encoding(answer.headers, answer.host)
    _check_no_page(answer, file)
    if answer.status != 200:
        raise _wrong_range(answer)
    size = _content_length(answer)
    if file.size_bytes is not None and size is not None and size != file.size_bytes:
        raise StartOver
    if file.validator is not None and validator_of(answer) != file.validator:
        raise StartOver


def _check_no_page(answer: Answer, file: RemoteFile) -> None:
    if answer.status == 200 and is_web_page(answer.headers.get("Content-Type", "")) and not file.name.endswith(".html"):
        raise web_page(answer.host)


def _conditions(file: RemoteFile, wanted: str) -> dict[str, str]:
    return {"Range": wanted, **({"If-Range": file.validator} if file.validator else {})}


def _content_length(answer: Answer) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def _content_range(answer: Answer) -> tuple[int | None, int | None, int | None]:
    """``(first, last, size)`` of the Content-Range; None where it does not say."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if match is None:
        return None, None, None
    first, last, size = (int(text) if text and text != "*" else None for text in match.groups())
    return first, last, size


def _wrong_range(answer: Answer) -> SourceError:
    return SourceError(
        "{host} answered with another part of the file than it was asked for.", hint=BETWEEN_HINT, host=answer.host
    )


def _cut(answer: Answer) -> PassingFailure:
    return PassingFailure(
        SourceError("The connection to {host} was cut.", hint="Pull again: what has come so far is kept.", host=answer.host)
    )
