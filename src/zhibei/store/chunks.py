"""Which bytes of a growing file are there: chunks of any length that do not overlap, each with a hash. Pure.

The hash (XXH3) tells accidents, not attacks: the whole file's SHA-256 decides what is kept.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash


@dataclass(frozen=True, slots=True, order=True)
class Chunk:
    """``num_bytes`` bytes from ``offset`` on, with the hash they had when they were written."""

    offset: int
    num_bytes: int
    check: str

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.num_bytes


def check_of(data: bytes | memoryview) -> str:
    """The hash of a chunk's bytes: 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(data)


class ChunkMap:
    """The chunks of a file. Of several that overlap, the one that was added first is kept."""

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        self._chunks: list[Chunk] = []
        self.num_bytes = 0
        for chunk in chunks:
            self.add(chunk)

    @property
    def end(self) -> int:
        """The offset behind the last chunk."""
        return self._chunks[-1].end if self._chunks else 0

    def contiguous_end(self) -> int:
        """The offset up to which nothing is missing."""
        end = 0
        for chunk in self._chunks:
            if chunk.offset != end:
                break
            end = chunk.end
        return end

    def all(self) -> tuple[Chunk, ...]:
        """All chunks, in order."""
        return tuple(self._chunks)

    def at(self, offset: int) -> Chunk | None:
        """The chunk that begins at an offset."""
        position = self._position(offset)
        chunk = self._chunks[position] if position >= 0 else None
        return chunk if chunk is not None and chunk.offset == offset else None

    def add(self, chunk: Chunk) -> bool:
        """Take a chunk in; False if it is empty or overlaps what is there."""
        position = self._position(chunk.offset)
        before = self._chunks[position].end if position >= 0 else 0
        after = self._chunks[position + 1].offset if position + 1 < len(self._chunks) else chunk.end
        if chunk.num_bytes <= 0 or chunk.offset < before or chunk.end > after:
            return False
        insort(self._chunks, chunk)
        self.num_bytes += chunk.num_bytes
        return True

    def replace(self, old: Chunk, new: Chunk) -> None:
        """Put a chunk in the place of another of the same bytes."""
        self._chunks[self._chunks.index(old)] = new

    def drop(self, chunk: Chunk) -> None:
        """Forget a chunk that is there."""
        self._chunks.remove(chunk)
        self.num_bytes -= chunk.num_bytes

    def missing(self, size_bytes: int) -> list[tuple[int, int]]:
        """What is not there of a file of that size: ``(offset, end)`` in order."""
        gaps, position = [], 0
        for chunk in self._chunks:
            if chunk.offset > position:
                gaps.append((position, chunk.offset))
            position = chunk.end
        if position < size_bytes:
            gaps.append((position, size_bytes))
        return gaps

    def _position(self, offset: int) -> int:
        """The index of the last chunk that begins at or before an offset; -1 if none does."""
        return bisect_right(self._chunks, offset, key=lambda chunk: chunk.offset) - 1
