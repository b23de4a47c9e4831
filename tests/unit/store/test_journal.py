"""The journal of a growing file: what is written is read again, and nothing that is torn or foreign is believed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.store.chunks import Chunk
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.journal import VERSION, PartIdentity, chunk_line, header_line, read_journal
from zhibei.store.parts import claim_part

DIGEST = Digest("ab" * 32)
VERIFIED = PartIdentity("hf:o/n@c/x.gguf", DIGEST, 100, None)
UNVERIFIED = PartIdentity("https://a.example/x.gguf", None, 100, '"v1"')
CHUNKS = [Chunk(0, 40, "0123456789abcdef"), Chunk(60, 40, "f" * 16)]
CHECKS = st.text("0123456789abcdef", min_size=16, max_size=16)


def header_of(identity: PartIdentity) -> dict[str, object]:
    found: dict[str, object] = json.loads(header_line(identity))
    return found


def written(path: Path, *pieces: bytes) -> tuple[dict[str, object], list[Chunk]]:
    path.write_bytes(b"".join(pieces))
    return read_journal(path)


@pytest.mark.parametrize("identity", [VERIFIED, UNVERIFIED])
def test_what_was_written_is_read_again(tmp_path: Path, identity: PartIdentity) -> None:
    header, chunks = written(tmp_path / "journal", header_line(identity), *map(chunk_line, CHUNKS))
    assert chunks == CHUNKS
    assert identity.continues(header)
    assert (header["version"], header["size_bytes"], header["origin"]) == (2, 100, identity.origin)


@given(st.dictionaries(st.integers(0, 10**18 - 1), st.tuples(st.integers(1, 1 << 26), CHECKS), max_size=20))
def test_any_chunks_survive(table: dict[int, tuple[int, str]]) -> None:
    import tempfile

    chunks = [Chunk(offset, *rest) for offset, rest in table.items()]
    with tempfile.TemporaryDirectory() as directory:
        _, found = written(Path(directory, "journal"), header_line(VERIFIED), *map(chunk_line, chunks))
    assert found == chunks


def test_a_line_that_was_torn_spoils_no_other(tmp_path: Path) -> None:
    first, second = map(chunk_line, CHUNKS)
    for kept in range(len(second)):
        _, chunks = written(tmp_path / "journal", header_line(VERIFIED), second[:kept], first)
        assert chunks == CHUNKS[:1], kept
        _, chunks = written(tmp_path / "journal", header_line(VERIFIED), first, second[:kept])
        assert chunks == CHUNKS[:1], kept


def test_of_two_chunks_at_one_offset_the_last_counts(tmp_path: Path) -> None:
    mended = replace(CHUNKS[0], check="1" * 16)
    _, chunks = written(tmp_path / "journal", header_line(VERIFIED), *map(chunk_line, (*CHUNKS, mended)))
    assert sorted(chunks) == [mended, CHUNKS[1]]


@pytest.mark.parametrize(
    "line",
    [
        b"0 0 " + b"0" * 16,
        b"0 67108865 " + b"0" * 16,
        b"-1 5 " + b"0" * 16,
        b"1000000000000000000 5 " + b"0" * 16,
        b"0 5 " + b"0" * 15,
        b"0 5 " + b"0" * 17,
        b"0 5 " + b"A" * 16,
        b"0 5  " + b"0" * 16,
        b"0 5 " + b"0" * 16 + b"\r",
        b"\xd9\xa1 5 " + b"0" * 16,
        b"{}",
        b"\x00" * 64,
    ],
)
def test_lines_that_make_no_sense_are_passed_over(tmp_path: Path, line: bytes) -> None:
    _, chunks = written(tmp_path / "journal", header_line(VERIFIED), b"\n" + line, chunk_line(CHUNKS[0]))
    assert chunks == CHUNKS[:1]


@pytest.mark.parametrize("head", [b"", b"[]", b"5", b"null", b"{", b"\xff\xfe", b'{"a":', b"[" * 100_000, b"\x00" * 4096])
def test_without_a_header_nothing_is_believed(tmp_path: Path, head: bytes) -> None:
    assert written(tmp_path / "journal", head, *map(chunk_line, CHUNKS)) == ({}, [])


def test_what_is_no_plain_file_is_not_read(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "nothing") == ({}, [])
    assert read_journal(tmp_path) == ({}, [])
    (tmp_path / "real").write_bytes(header_line(VERIFIED))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert read_journal(tmp_path / "link") == ({}, [])
    with (tmp_path / "large").open("wb") as stream:
        stream.write(header_line(VERIFIED))
        stream.truncate((256 << 20) + 1)
    assert read_journal(tmp_path / "large") == ({}, [])


class TestWhoMayContinue:
    def test_with_a_digest_any_source_may(self) -> None:
        header = header_of(VERIFIED)
        assert replace(VERIFIED, origin="ms:o/n@master/x.gguf", size_bytes=None, validator="other").continues(header)
        assert not replace(VERIFIED, digest=Digest("cd" * 32)).continues(header)

    def test_without_one_only_the_same_version_of_the_same_file_may(self) -> None:
        header = header_of(UNVERIFIED)
        assert UNVERIFIED.continues(header)
        for other in (
            replace(UNVERIFIED, validator='"v2"'),
            replace(UNVERIFIED, origin="https://b.example/x.gguf"),
            replace(UNVERIFIED, size_bytes=101),
            replace(UNVERIFIED, validator=None),
        ):
            assert not other.continues(header)

    def test_two_that_are_not_known_are_not_the_same(self) -> None:
        unknown = replace(UNVERIFIED, validator=None)
        assert not unknown.continues(header_of(unknown))

    def test_who_expects_a_digest_takes_nothing_that_was_written_without_one(self) -> None:
        assert not VERIFIED.continues(header_of(replace(UNVERIFIED, origin=VERIFIED.origin)))

    @pytest.mark.parametrize("version", [1, 3, "2", None, 2.5])
    def test_another_format_is_not_continued(self, version: object) -> None:
        assert VERSION == 2
        assert not VERIFIED.continues({**header_of(VERIFIED), "version": version})
        assert not VERIFIED.continues({})

    def test_the_key_names_a_lock(self) -> None:
        assert VERIFIED.key == "ab" * 32
        assert UNVERIFIED.key == hashlib.sha256(UNVERIFIED.origin.encode()).hexdigest()


def test_a_chunk_whose_bytes_have_another_hash_is_missing_again(tmp_path: Path) -> None:
    data = bytes(range(100))
    identity = replace(VERIFIED, digest=Digest(hashlib.sha256(data).hexdigest()))
    part = claim_part(tmp_path, identity, Disk())
    part.write(0, [data[:40]])
    part.write(40, [data[40:]])
    part.keep()
    (kept,) = tmp_path.iterdir()
    (kept / "data").write_bytes(data[:50] + b"?" + data[51:])
    again = claim_part(tmp_path, identity, Disk())
    assert again.num_resumed_bytes == 100
    while again.advance(1000):
        pass
    assert again.chunks.missing(100) == [(40, 100)]
    again.write(40, [data[40:]])
    while again.advance(1000):
        pass
    assert again.digest() == identity.digest
    again.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_other_content_is_thrown_away(tmp_path: Path) -> None:
    part = claim_part(tmp_path, UNVERIFIED, Disk())
    part.write(0, [b"old"])
    part.keep()
    newer = claim_part(tmp_path, replace(UNVERIFIED, validator='"v2"'), Disk())
    assert newer.num_received_bytes == 0 and newer.data_path.read_bytes() == b""
    newer.discard()
    assert list(tmp_path.iterdir()) == []
