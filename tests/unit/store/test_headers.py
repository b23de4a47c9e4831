"""The header of a model that lies elsewhere, read by range: what it says, how little is read, and how reading ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from support.models import model_bytes, shard_bytes
from zhibei.errors import ModelFileError, SourceError
from zhibei.store.headers import read_remote_header
from zhibei.store.sources.base import RemoteFile, Source, StartOver

BODY = model_bytes(2000)
FILE = RemoteFile("x.gguf", "hf:o/n@c/x.gguf", size_bytes=len(BODY))


class Ranges:
    """The one method of a source that is used here, over bytes in memory."""

    def __init__(self, bodies: dict[str, bytes], *, fails: Exception | None = None) -> None:
        self.bodies = bodies
        self.fails = fails
        self.num_bytes = 0
        self.asked = asyncio.Event()
        self.num_cancelled = 0

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        if self.fails is not None and length > 1:
            raise self.fails
        found = self.bodies[file.name][offset : offset + length]
        self.num_bytes += len(found)
        return found


class NoRanges(Ranges):
    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        return None


class Silent(Ranges):
    """Says that it has ranges, and then nothing more."""

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        if length == 1:
            return b"G"
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.num_cancelled += 1
        raise AssertionError


def source(made: Ranges) -> Source:
    return made  # type: ignore[return-value]


async def test_it_says_what_the_file_would_and_reads_no_weights() -> None:
    ranges = Ranges({"x.gguf": BODY})
    info = await read_remote_header(source(ranges), FILE)
    assert info is not None
    assert (info.format, info.architecture, info.licence) == ("gguf", "llama", "apache-2.0")
    assert 0 < ranges.num_bytes < len(BODY)


async def test_the_headers_of_all_shards_are_one_model() -> None:
    bodies = {f"x-{number:05}-of-00002.gguf": shard_bytes(number - 1, 2) for number in (1, 2)}
    files = [RemoteFile(name, name, "shard", len(body)) for name, body in bodies.items()]
    info = await read_remote_header(source(Ranges(bodies)), *files)
    assert info is not None and info.split_count == 2
    one = await read_remote_header(source(Ranges(bodies)), files[0])
    assert one is not None and (info.weights_bytes or 0) > (one.weights_bytes or 0)


async def test_where_parts_cannot_be_read_nothing_is_known() -> None:
    assert await read_remote_header(source(NoRanges({})), FILE) is None
    unsized = RemoteFile("x.gguf", "https://a.example/x.gguf")
    ranges = Ranges({"x.gguf": BODY})
    assert await read_remote_header(source(ranges), unsized) is None
    assert ranges.num_bytes == 0


@pytest.mark.parametrize("spoil", [lambda body: b"<html>" + body, lambda body: body[:50] + b"\xff" * 50, lambda body: b""])
async def test_a_header_that_is_none_is_said_to_be(spoil: Callable[[bytes], bytes]) -> None:
    body = spoil(BODY)
    with pytest.raises(ModelFileError):
        await read_remote_header(source(Ranges({"x.gguf": body})), RemoteFile("x.gguf", "x", size_bytes=len(body)))


async def test_a_file_that_ends_before_its_size_is_damaged() -> None:
    with pytest.raises(ModelFileError):
        await read_remote_header(source(Ranges({"x.gguf": BODY[:200]})), FILE)


@pytest.mark.parametrize("error", [SourceError("The line is cut."), StartOver()])
async def test_what_the_source_raises_comes_through(error: Exception) -> None:
    with pytest.raises(type(error)):
        await read_remote_header(source(Ranges({"x.gguf": BODY}, fails=error)), FILE)


async def test_who_is_cancelled_waits_for_no_answer() -> None:
    silent = Silent({})
    reading = asyncio.ensure_future(read_remote_header(source(silent), FILE))
    await silent.asked.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert silent.num_cancelled == 1
