"""The map of a growing file: what is kept, what is missing, and that chunks never overlap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zhibei.store.chunks import Chunk, ChunkMap, check_of

CHECK = "0" * 16
SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(-1, 20)), max_size=30)


def chunk(offset: int, num_bytes: int, check: str = CHECK) -> Chunk:
    return Chunk(offset, num_bytes, check)


def spans(chunks: ChunkMap) -> list[tuple[int, int]]:
    return [(found.offset, found.end) for found in chunks.all()]


def test_an_empty_map_misses_everything() -> None:
    empty = ChunkMap()
    assert (empty.end, empty.contiguous_end(), empty.num_bytes, empty.all(), empty.at(0)) == (0, 0, 0, (), None)
    assert empty.missing(10) == [(0, 10)]
    assert empty.missing(0) == []


def test_gaps_lie_before_between_and_behind() -> None:
    chunks = ChunkMap([chunk(30, 10), chunk(10, 10)])
    assert chunks.missing(50) == [(0, 10), (20, 30), (40, 50)]
    assert chunks.missing(40) == [(0, 10), (20, 30)]
    assert (chunks.contiguous_end(), chunks.end, chunks.num_bytes) == (0, 40, 20)
    assert chunks.add(chunk(0, 10)) and chunks.contiguous_end() == 20
    assert chunks.add(chunk(20, 10)) and chunks.contiguous_end() == 40
    assert chunks.missing(40) == []


def test_of_chunks_that_overlap_the_first_is_kept() -> None:
    chunks = ChunkMap([chunk(10, 10)])
    for offset, num_bytes in ((10, 10), (10, 1), (5, 6), (19, 1), (19, 5), (0, 40), (12, 3)):
        assert not chunks.add(chunk(offset, num_bytes)), (offset, num_bytes)
    assert chunks.add(chunk(5, 5)) and chunks.add(chunk(20, 1))
    assert spans(chunks) == [(5, 10), (10, 20), (20, 21)]


def test_nothing_is_no_chunk() -> None:
    chunks = ChunkMap()
    assert not chunks.add(chunk(0, 0)) and not chunks.add(chunk(5, -3))
    assert chunks.all() == ()


def test_a_chunk_is_found_by_where_it_begins_alone() -> None:
    chunks = ChunkMap([chunk(0, 4), chunk(8, 4)])
    assert chunks.at(8) == chunk(8, 4)
    assert [chunks.at(offset) for offset in (3, 4, 9, 12)] == [None] * 4


def test_replacing_and_dropping() -> None:
    old, new = chunk(4, 4), chunk(4, 4, "f" * 16)
    chunks = ChunkMap([chunk(0, 4), old])
    chunks.replace(old, new)
    assert chunks.at(4) == new and chunks.num_bytes == 8
    chunks.drop(new)
    assert (chunks.at(4), chunks.num_bytes, chunks.missing(8)) == (None, 4, [(4, 8)])
    assert chunks.add(old)


@given(SPANS, st.integers(0, 100))
def test_what_is_there_and_what_is_missing_make_up_the_file(found: list[tuple[int, int]], size_bytes: int) -> None:
    chunks, there = ChunkMap(), set[int]()
    for offset, num_bytes in found:
        wanted = set(range(offset, offset + num_bytes))
        assert chunks.add(chunk(offset, num_bytes)) == bool(wanted and not wanted & there)
        there |= wanted if not wanted & there else set()
    assert {byte for start, end in spans(chunks) for byte in range(start, end)} == there
    assert chunks.num_bytes == len(there)
    assert chunks.all() == tuple(sorted(chunks.all()))
    gaps = chunks.missing(size_bytes)
    assert gaps == sorted(gaps) and all(start < end for start, end in gaps)
    missing = {byte for start, end in gaps for byte in range(start, end)}
    assert not missing & there
    assert set(range(size_bytes)) <= missing | there
    assert set(range(chunks.contiguous_end())) <= there and chunks.contiguous_end() not in there


@given(st.binary(max_size=200), st.integers(0, 199), st.integers(1, 255))
def test_the_hash_tells_any_one_byte(data: bytes, position: int, change: int) -> None:
    check = check_of(data)
    assert len(check) == 16 and int(check, 16) >= 0 and check == check_of(bytes(bytearray(data)))
    if position < len(data):
        altered = bytearray(data)
        altered[position] ^= change
        assert check_of(bytes(altered)) != check
