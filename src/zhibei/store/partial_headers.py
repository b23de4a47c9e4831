"""What the headers of a remote model say, read within a budget of requests and bytes. Owns the budget; knows no hub.

Where the budget ends before the headers do, the rest is inferred from the sizes in the listing, and that is told.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from zhibei.errors import ModelFileError, SourceError
from zhibei.formats.bounded_json import parse_object
from zhibei.formats.gguf import GgufHeader, describe, parse
from zhibei.formats.gguf_shards import check_shards
from zhibei.formats.hf_model import describe_repository
from zhibei.formats.hf_repository import CONFIG, DESCRIBING, POOLING
from zhibei.formats.safetensors import SafetensorsHeader, read_header
from zhibei.formats.unread import with_weights
from zhibei.models import ModelInfo
from zhibei.store.sources.base import RemoteFile, Source
from zhibei.store.threads import in_thread, in_thread_until

MAX_REQUESTS = 30
MAX_BYTES = 7_500_000
_LISTING_REQUESTS = 3
# A hub answers a read by naming another host, and a file's first read is preceded by a look at it, of 4 KiB.
_REQUESTS_A_READ, _LOOK_BYTES = 2, 4096
# Most headers end between 4 and 7 MB, after the vocabulary: large steps first, then such that little is read in vain.
_STEPS_BYTES = (256 << 10, 2 << 20, 2 << 20, 1 << 20, 512 << 10)
_SMALL_STEPS_BYTES = (64 << 10, 256 << 10, 1 << 20)
_KEPT_FOR_LAST_BYTES = 160 << 10
_COUNTS = struct.Struct("<QQ")
_COUNTS_AT = 8
_MAX_ITEMS = 200_000

Basis = Literal["headers", "some headers", "shape", "another variant", "catalogue", "usual shape"]
"""What a model's facts rest on: all its headers; some of them, or its configuration and the sizes of its files; the header
of another quantisation; the size in the catalogue, with its published shape, or with that of others of its size."""


class Spent(Exception):
    """The budget does not allow this read. Never leaves the store."""


@dataclass(slots=True)
class Budget:
    """Requests and bytes that may still be spent on one model."""

    num_requests: int = MAX_REQUESTS - _LISTING_REQUESTS
    num_bytes: int = MAX_BYTES

    def take(self, num_requests: int, num_bytes: int) -> None:
        """Spend, or raise Spent."""
        if num_requests > self.num_requests or num_bytes > self.num_bytes:
            raise Spent
        self.num_requests -= num_requests
        self.num_bytes -= num_bytes


class UnreadableRemotely(SourceError):
    """The source cannot read parts of a file, so that nothing is known before all of it has come."""


async def read_gguf(source: Source, files: Sequence[RemoteFile], budget: Budget) -> tuple[ModelInfo, Basis]:
    """One model's facts from the headers of its shards: the first, the last, then as many more as the budget allows.

    Raises:
        ModelFileError: damaged, hostile or no model.
        UnreadableRemotely: the source cannot read parts of it.
        SourceError: the source failed.
        StartOver: a file has changed.
    """
    if files[0].size_bytes is None:
        raise _unreadable(files[0])
    total_bytes = sum(file.size_bytes or 0 for file in files)
    headers: dict[int, GgufHeader] = {}
    for number in dict.fromkeys((0, len(files) - 1, *range(len(files)))):
        steps, kept_bytes = (_SMALL_STEPS_BYTES, 0) if number else (_STEPS_BYTES, _KEPT_FOR_LAST_BYTES * (len(files) > 1))
        reader = _AheadReader(source, files[number], budget, steps, kept_bytes)
        try:
            headers[number] = await in_thread_until(reader.stop, parse, reader, files[number].size_bytes or 0)
        except Spent:
            if number == 0:
                headers[0] = await in_thread(_beginning, reader.read_bytes, files[0].size_bytes or 0)
            break
    read = [headers[number] for number in sorted(headers)]
    if len(read) == len(files) and all(header.tensors or len(files) > 1 for header in read):
        check_shards(read)
        return describe(read), "headers"
    info = describe(read)
    # What is said here of unread files is said by the basis.
    info = replace(info, warnings=read[0].warnings, weights_bytes=None)
    return with_weights(info, total_bytes - read[0].data_offset), "some headers"


async def read_safetensors(source: Source, files: Sequence[RemoteFile], budget: Budget) -> tuple[ModelInfo, Basis]:
    """One model's facts from its configuration, and from its weights' headers where the budget allows to read all of them.

    Raises as ``read_gguf``.
    """
    weights = [file for file in files if file.role == "weights"]
    texts: dict[str, bytes] = {}
    for file in files:
        if file.name in (CONFIG, POOLING):
            texts[file.name] = await _read_text(source, file, budget)
    headers: Mapping[str, SafetensorsHeader] = {}
    each = 3 * _REQUESTS_A_READ
    if len(weights) * each <= budget.num_requests:
        headers = await _read_headers(source, weights, budget)
    info = await in_thread(describe_repository, texts, headers)
    if headers:
        return info, "headers"
    if not info.layers:
        return replace(info, weights_bytes=sum(file.size_bytes or 0 for file in weights)), "shape"
    total_bytes = sum(file.size_bytes or 0 for file in weights)
    return with_weights(info, total_bytes, is_tied=_is_tied(texts)), "shape"


async def _read_headers(source: Source, weights: Sequence[RemoteFile], budget: Budget) -> Mapping[str, SafetensorsHeader]:
    """The headers of all weight files; of none where the budget ends before."""
    headers: dict[str, SafetensorsHeader] = {}
    for file in weights:
        reader = _AheadReader(source, file, budget, _SMALL_STEPS_BYTES)
        try:
            headers[file.name] = await in_thread_until(reader.stop, read_header, reader, file.size_bytes or 0)
        except Spent:
            return {}
    return headers


async def _read_text(source: Source, file: RemoteFile, budget: Budget) -> bytes:
    """A describing file; one byte more than it may have, so that too large a one is seen."""
    wanted = min(file.size_bytes or 0, DESCRIBING[file.name] + 1)
    try:
        budget.take(2 * _REQUESTS_A_READ, wanted + _LOOK_BYTES)
    except Spent:
        raise ModelFileError("it is larger than {limit} bytes", field=file.name, offset=0, limit=MAX_BYTES) from None
    found = await source.read(file, 0, wanted)
    return found if found is not None else await _opened(source, file, wanted)


async def _opened(source: Source, file: RemoteFile, wanted: int) -> bytes:
    """The beginning of a file of which the source does not read parts."""
    found = bytearray()
    async with aclosing(source.open(file, 0)) as pieces:
        async for piece in pieces:
            found += piece
            if len(found) >= wanted:
                break
    return bytes(found[:wanted])


def _is_tied(texts: Mapping[str, bytes]) -> bool:
    if CONFIG not in texts:
        return False
    said = parse_object(texts[CONFIG], CONFIG, max_bytes=DESCRIBING[CONFIG], max_items=_MAX_ITEMS)
    return said.get("tie_word_embeddings") is True


class _AheadReader:
    """The formats' ``Reader`` over a source: asked on a thread, answered by the event loop, in large steps forward.

    ``kept_bytes`` of the budget are left to files that are read after it.
    """

    def __init__(self, source: Source, file: RemoteFile, budget: Budget, steps: Sequence[int], kept_bytes: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._file = file
        self._budget = budget
        self._steps = list(steps)
        self._kept_bytes = kept_bytes
        self._held = bytearray()
        self._is_new = True
        self._pending: Future[bytes | None] | None = None
        self._is_stopped = False

    @property
    def read_bytes(self) -> bytes:
        """What has come; zeros where it was stepped over."""
        return bytes(self._held)

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``; fewer than ``length`` only where the file ends."""
        end = min(offset + length, self._file.size_bytes or 0)
        if end > len(self._held):
            self._fetch(max(offset, len(self._held)), end)
        return bytes(self._held[offset:end])

    def stop(self) -> None:
        """Make a waiting ``read_at`` and every later one fail."""
        self._is_stopped = True
        if self._pending is not None:
            self._pending.cancel()

    def _fetch(self, start: int, end: int) -> None:
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        look = (_REQUESTS_A_READ, _LOOK_BYTES) if self._is_new else (0, 0)
        room = self._budget.num_bytes - look[1] - self._kept_bytes
        # What is left is spent on the last step: the header may end in it.
        length = min(max(end - start, min(step, room)), (self._file.size_bytes or 0) - start)
        if length > room:
            raise Spent
        self._budget.take(_REQUESTS_A_READ + look[0], length + look[1])
        self._is_new = False
        self._pending = asyncio.run_coroutine_threadsafe(self._source.read(self._file, start, length), self._loop)
        if self._is_stopped:
            self._pending.cancel()
        found = self._pending.result()
        if found is None:
            raise _unreadable(self._file)
        self._held += bytes(start - len(self._held)) + found


def _beginning(held: bytes, size_bytes: int) -> GgufHeader:
    """As much of a header's metadata as was read, without tensors: what a model is comes before its vocabulary.

    Raises:
        ModelFileError: not even that can be read.
    """
    if len(held) < _COUNTS_AT + _COUNTS.size:
        raise ModelFileError("it ends too early", field="kv_count", offset=len(held))
    num_entries = _COUNTS.unpack_from(held, _COUNTS_AT)[1]
    low, high = 0, int(num_entries)
    while low < high:
        middle = (low + high + 1) // 2
        try:
            _parse_entries(held, size_bytes, middle)
            low = middle
        except ModelFileError:
            high = middle - 1
    return _parse_entries(held, size_bytes, low)


def _parse_entries(held: bytes, size_bytes: int, num_entries: int) -> GgufHeader:
    shorter = bytearray(held)
    _COUNTS.pack_into(shorter, _COUNTS_AT, 0, num_entries)
    return parse(_HeldReader(bytes(shorter)), size_bytes)


class _HeldReader:
    """What has come of a file, as if it ended there."""

    def __init__(self, held: bytes) -> None:
        self._held = held

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes that have come."""
        return self._held[offset : offset + length]


def _unreadable(file: RemoteFile) -> UnreadableRemotely:
    return UnreadableRemotely(
        "The header of {name} cannot be read before the whole file has come.",
        hint="Pull it; then ask again.",
        name=file.name,
    )
