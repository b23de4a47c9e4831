"""Fills a part from a source: over as many connections as help, in any order, hashing behind them. Owns who fetches what.

Bytes are asked for in spans, the earliest first, so that hashing can follow closely. A connection is added while the
whole gets faster by it and given up again where it does not; at the end, idle ones take half of what others still have to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from zhibei.errors import SourceError, StoreError, ZhibeiError
from zhibei.events import Progress
from zhibei.store.connections import ConnectionPlan
from zhibei.store.failures import AGAIN_HINT
from zhibei.store.parts import BLOCK_BYTES, Part
from zhibei.store.rate_limit import RateLimit
from zhibei.store.sources.base import RemoteFile, Source
from zhibei.store.threads import in_thread

SPAN_BYTES = 16 * 1024 * 1024
_LEAST_STOLEN_BYTES, _LEAST_STOLEN_S = 256 * 1024, 1.0
_WRITE_EVERY_S = 1.0
_HASHED_AT_ONCE_BYTES = 32 * 1024 * 1024
_PROGRESS_S = 0.1
_SETTLE_S = 0.2
_STOP_S, _MAX_PIECES_AT_STOP = 1.0, 3
_MAX_ROUNDS = 16


@dataclass(slots=True)
class _Span:
    """Bytes that one connection still has to fetch: from ``position`` to ``end`` (None: to wherever the file ends)."""

    position: int
    end: int | None


class _Block:
    """Bytes that have come and are not written yet. Due when there are many, or when they have waited long enough."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.pieces: list[bytes | memoryview] = []
        self.num_bytes = 0
        self._since_s = 0.0

    def add(self, piece: bytes | memoryview) -> None:
        """Take more."""
        if not self.pieces:
            self._since_s = time.monotonic()
        self.pieces.append(piece)
        self.num_bytes += len(piece)

    def is_due(self, now_s: float) -> bool:
        """Whether to write now."""
        return self.num_bytes >= BLOCK_BYTES or (self.num_bytes > 0 and now_s - self._since_s >= _WRITE_EVERY_S)


class Download:
    """One file's way into a part. ``translate`` names the OSErrors of the disk; ``limit`` is shared by all downloads."""

    def __init__(
        self,
        part: Part,
        source: Source,
        file: RemoteFile,
        *,
        translate: Callable[[OSError], ZhibeiError],
        connections: int,
        limit: RateLimit,
    ) -> None:
        self._part = part
        self._source = source
        self._file = file
        self._translate = translate
        self._limit = limit
        self._is_remote = file.local_path is None and not file.is_packed
        self._is_ranged = source.has_ranges(file) and file.size_bytes is not None
        self._plan = ConnectionPlan(limit.most_connections(connections) if self._is_ranged else 1)
        self._waiting: list[_Span] = []
        self._active: dict[asyncio.Task[None], _Span] = {}
        self._has_news = asyncio.Event()
        self._num_rounds = 0
        self._has_ended = False
        self._is_stopping = False
        self._began_s, self._began_bytes = time.monotonic(), part.num_received_bytes

    async def run(self) -> AsyncGenerator[Progress, None]:
        """Fetch what is missing and hash the whole; however it ends, what came is written.

        Raises:
            StartOver: the file has changed, or cannot be continued.
            SourceError, StoreError: fetching or writing failed.
        """
        hasher = asyncio.ensure_future(self._follow())
        settler = asyncio.ensure_future(self._settle())
        try:
            yield self._progress()
            # A straight stream is read to its end, to see that it has one; of several, one may be left with nothing to do.
            while not hasher.done() or (self._active and not self._is_ranged):
                self._staff()
                await asyncio.wait((*self._active, hasher), timeout=_PROGRESS_S, return_when=asyncio.FIRST_COMPLETED)
                self._collect()
                if settler.done():
                    settler.result()
                yield self._progress()
            hasher.result()
        finally:
            try:
                await self._stop()
            finally:
                await _cancel((*self._active, hasher, settler))

    async def _stop(self) -> None:
        """Let every connection write what it has received by now, unless nothing is wanted any more."""
        self._is_stopping = True
        if self._active and not self._is_complete():
            await asyncio.wait(tuple(self._active), timeout=_STOP_S)

    def _missing(self) -> list[_Span]:
        """What to fetch, last first."""
        size = self._file.size_bytes
        if not self._is_ranged:
            if self._has_ended and size is None and not self._part.chunks.missing(self._part.chunks.end):
                return []
            # Only what is there from the start on can be continued by a source that reads straight through.
            position = self._part.chunks.contiguous_end()
            for chunk in self._part.chunks.all():
                if chunk.offset >= position:
                    self._part.chunks.drop(chunk)
            self._has_ended = False
            return [] if position == size else [_Span(position, None)]
        spans = []
        for begin, end in self._part.chunks.missing(size or 0):
            spans += [_Span(at, min(at + SPAN_BYTES, end)) for at in range(begin, end, SPAN_BYTES)]
        return spans[::-1]

    def _staff(self) -> None:
        """Give every connection that the plan allows something to do."""
        if not self._waiting and not self._active and not self._is_complete():
            self._begin_round()
        wanted = self._plan.wanted(time.monotonic(), self._part.num_received_bytes)
        while len(self._active) < wanted:
            span = self._waiting.pop() if self._waiting else self._steal()
            if span is None:
                return
            self._active[asyncio.ensure_future(self._fetch(span))] = span

    def _begin_round(self) -> None:
        """Fetch what is missing: at first, and again where the disk does not give back what was written to it."""
        self._waiting = self._missing()
        if self._waiting:
            self._num_rounds += 1
            if self._num_rounds > _MAX_ROUNDS:
                raise StoreError(
                    "What was read back from {path} differs from what was written; the disk may be failing.",
                    hint="Check the disk; ZHIBEI_HOME can point to another one.",
                    path=self._part.data_path,
                )

    def _steal(self) -> _Span | None:
        """The second half of the longest span under way, if it is worth a request: what was read ahead there is lost."""
        if not self._is_ranged or not self._active:
            return None
        longest = max(self._active.values(), key=lambda span: (span.end or 0) - span.position)
        left = (longest.end or 0) - longest.position
        if left < 2 * max(_LEAST_STOLEN_BYTES, _LEAST_STOLEN_S * self._rate_of_one()):
            return None
        middle = longest.position + left // 2
        stolen = _Span(middle, longest.end)
        longest.end = middle
        return stolen

    def _rate_of_one(self) -> float:
        """Bytes a second that a connection brings, on average since the beginning."""
        num_bytes = self._part.num_received_bytes - self._began_bytes
        return num_bytes / max(0.001, time.monotonic() - self._began_s) / max(1, len(self._active))

    def _collect(self) -> None:
        """Look after the connections that ended. One failure among several lowers their number; the last one's counts."""
        for task in [task for task in self._active if task.done()]:
            self._has_news.set()
            span = self._active.pop(task)
            error = task.exception()
            if error is None:
                self._has_ended = self._has_ended or span.end is None
                continue
            if not isinstance(error, SourceError) or not self._is_ranged or not self._active:
                raise error
            self._plan.hold_at(len(self._active))
            if span.end is not None and span.position < span.end:
                self._waiting.append(span)

    async def _fetch(self, span: _Span) -> None:
        """Fetch a span in blocks; what has come when this ends in whatever way is written."""
        block = _Block(span.position)
        num_at_stop = 0
        end = None if span.end == self._file.size_bytes else span.end
        try:
            async with aclosing(self._source.open(self._file, span.position, end)) as pieces:
                async for piece in pieces:
                    # The end comes nearer when another connection takes a part over.
                    room = len(piece) if span.end is None else span.end - span.position
                    block.add(piece[:room])
                    span.position += min(len(piece), room)
                    if block.is_due(time.monotonic()):
                        full, block = block, _Block(span.position)
                        await self._write(full)
                    if self._is_remote:
                        await self._limit.take(len(piece))
                    num_at_stop += self._is_stopping
                    is_current = len(piece) < BLOCK_BYTES or num_at_stop >= _MAX_PIECES_AT_STOP
                    if (room <= len(piece) and span.end is not None) or (self._is_stopping and is_current):
                        break
        finally:
            if block.num_bytes:
                await self._write(block)

    async def _write(self, block: _Block) -> None:
        self._check_size(block.offset + block.num_bytes)
        try:
            await in_thread(self._part.write, block.offset, block.pieces)
        except OSError as error:
            raise self._translate(error) from error
        self._has_news.set()

    def _check_size(self, end: int) -> None:
        if self._file.size_bytes is not None and end > self._file.size_bytes:
            raise SourceError("{name} is larger than its source announced.", hint=AGAIN_HINT, name=self._file.name)

    async def _follow(self) -> None:
        """Hash behind the connections, to the end of the file."""
        while True:
            self._has_news.clear()
            try:
                has_more = await in_thread(self._part.advance, _HASHED_AT_ONCE_BYTES)
            except OSError as error:
                raise self._translate(error) from error
            if has_more:
                continue
            if self._is_complete():
                return
            await self._has_news.wait()

    async def _settle(self) -> None:
        """Have the medium follow too."""
        while True:
            await asyncio.sleep(_SETTLE_S)
            if self._part.is_unsettled():
                try:
                    await in_thread(self._part.settle)
                except OSError as error:
                    raise self._translate(error) from error

    def _is_complete(self) -> bool:
        hashed = self._part.hashed_bytes
        if self._file.size_bytes is not None:
            return hashed == self._file.size_bytes
        return self._has_ended and not self._active and hashed == self._part.chunks.end

    def _progress(self) -> Progress:
        return Progress(self._file.name, self._part.num_received_bytes, self._file.size_bytes)


async def _cancel(tasks: tuple[asyncio.Task[None], ...]) -> None:
    """End tasks, and wait until they have."""
    for task in tasks:
        task.cancel()
    while any(not task.done() for task in tasks):
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
