"""Stored models read again: what is right, what is wrong, and what becomes of a blob that has gone bad."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from datetime import datetime, timezone
from pathlib import Path

import pytest

from zhibei.errors import StoreBusy
from zhibei.events import Checked, Progress
from zhibei.refs import ModelName
from zhibei.store import checking
from zhibei.store.blobs import BlobStore
from zhibei.store.chunks import Chunk, check_of
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.journal import PartIdentity, chunk_line, header_line
from zhibei.store.locks import FileLock
from zhibei.store.manifests import Manifest, ManifestFile
from zhibei.store.parts import claim_part

WHEN = datetime(2026, 1, 2, tzinfo=timezone.utc)
CONTENTS = {"x.gguf": bytes(range(256)) * 4, "mmproj.gguf": b"projector", "LICENSE": b""}


class Store:
    """Blobs of a model, with the hashes of their chunks."""

    def __init__(self, home: Path) -> None:
        self.blobs = BlobStore(home, Disk())
        self.files = tuple(self._put(name, data) for name, data in CONTENTS.items())
        self.manifest = Manifest(ModelName("a"), "hf:o/n", WHEN, self.files)

    def _put(self, name: str, data: bytes) -> ManifestFile:
        digest = Digest(hashlib.sha256(data).hexdigest())
        path = self.blobs.path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        half = len(data) // 2
        chunks = [Chunk(0, half, check_of(data[:half])), Chunk(half, len(data) - half, check_of(data[half:]))]
        lines = b"".join(map(chunk_line, chunks))
        self.blobs.chunks_path(digest).write_bytes(header_line(PartIdentity(name, digest, len(data), None)) + lines)
        return ManifestFile("model", name, len(data), digest, origin=f"hf:o/n@c/{name}")

    def path(self, number: int) -> Path:
        digest = self.files[number].digest
        assert digest is not None
        return self.blobs.path(digest)

    async def check(self, problem: str | None = None) -> tuple[list[Progress], Checked]:
        async with aclosing(checking.check(self.manifest, self.blobs, problem)) as events:
            *progress, last = [event async for event in events]
        assert isinstance(last, Checked) and all(isinstance(event, Progress) for event in progress)
        return [event for event in progress if isinstance(event, Progress)], last


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


class TestReading:
    async def test_what_is_right_is_said_to_be(self, store: Store) -> None:
        progress, checked = await store.check()
        assert checked == Checked("a:latest", None)
        assert [(event.what, event.done, event.total) for event in progress] == [("x.gguf", 1024, 1024), ("mmproj.gguf", 9, 9)]

    async def test_progress_comes_block_by_block(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checking, "_BLOCK_BYTES", 300)
        progress, checked = await store.check()
        assert [event.done for event in progress if event.what == "x.gguf"] == [300, 600, 900, 1024]
        assert checked.problem is None

    @pytest.mark.parametrize("position", [0, 511, 1023])
    async def test_one_byte_that_differs_is_found(self, store: Store, position: int) -> None:
        data = bytearray(store.path(0).read_bytes())
        data[position] ^= 1
        store.path(0).write_bytes(data)
        _, checked = await store.check()
        assert checked.bad_files == ("x.gguf",)
        assert "x.gguf" in (checked.problem or "")

    async def test_all_that_are_wrong_are_named(self, store: Store) -> None:
        store.path(0).write_bytes(b"!" * 1024)
        store.path(1).write_bytes(b"!" * 9)
        _, checked = await store.check()
        assert checked.bad_files == ("x.gguf", "mmproj.gguf")

    async def test_what_is_missing_or_of_another_size_is_not_read_and_its_problem_is_told(self, store: Store) -> None:
        store.path(0).unlink()
        store.path(1).write_bytes(b"short")
        progress, checked = await store.check("its file x.gguf is missing")
        assert progress == []
        assert checked == Checked("a:latest", "its file x.gguf is missing")

    async def test_what_is_known_already_is_not_said_in_other_words(self, store: Store) -> None:
        store.path(1).write_bytes(b"!" * 9)
        _, checked = await store.check("its file x.gguf is missing")
        assert checked == Checked("a:latest", "its file x.gguf is missing", ("mmproj.gguf",))

    async def test_a_sector_that_cannot_be_read_is_as_bad_as_a_wrong_one(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(self: Path, *args: object, **options: object) -> object:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(Path, "open", failing)
        _, checked = await store.check()
        assert checked.bad_files == ("x.gguf", "mmproj.gguf")

    async def test_files_in_place_are_not_read(self, store: Store, tmp_path: Path) -> None:
        lying = ManifestFile("model", "x.gguf", 5, path=tmp_path / "gone.gguf", modified_ns=1)
        manifest = Manifest(ModelName("b"), "file:/x", WHEN, (lying,))
        events = [event async for event in checking.check(manifest, store.blobs, "it has changed")]
        assert events == [Checked("b:latest", "it has changed")]


class TestTakingApart:
    def parts(self, store: Store) -> list[str]:
        return sorted(part.key for part in store.blobs.parts())

    def hex_of(self, store: Store, number: int) -> str:
        digest = store.files[number].digest
        assert digest is not None
        return digest.hex

    def test_what_is_right_stays_a_blob(self, store: Store) -> None:
        checking.take_apart(store.manifest, (), store.blobs)
        assert self.parts(store) == [] and all(store.path(number).is_file() for number in range(3))

    def test_a_bad_blob_becomes_a_part_that_keeps_what_is_right_of_it(self, store: Store) -> None:
        data = bytearray(store.path(0).read_bytes())
        data[700] ^= 255
        store.path(0).write_bytes(data)
        checking.take_apart(store.manifest, ("x.gguf",), store.blobs)
        assert self.parts(store) == [self.hex_of(store, 0)]
        assert not store.path(0).exists() and store.path(1).is_file()
        file = store.files[0]
        identity = PartIdentity("another source", file.digest, file.size_bytes, None)
        part = claim_part(store.blobs.parts_root, identity, Disk())
        while part.advance(1 << 20):
            pass
        assert part.chunks.missing(1024) == [(512, 1024)]
        part.discard()

    def test_one_of_another_size_does_too_and_one_that_is_gone_needs_nothing(self, store: Store) -> None:
        store.path(0).write_bytes(store.path(0).read_bytes()[:600])
        store.path(1).unlink()
        checking.take_apart(store.manifest, (), store.blobs)
        assert self.hex_of(store, 0) in self.parts(store)
        assert not store.path(0).exists() and not store.path(1).exists()

    def test_without_hashes_of_its_chunks_all_of_it_is_missing(self, store: Store) -> None:
        digest = store.files[0].digest
        assert digest is not None
        store.blobs.chunks_path(digest).unlink()
        checking.take_apart(store.manifest, ("x.gguf",), store.blobs)
        part = claim_part(store.blobs.parts_root, PartIdentity("x", digest, 1024, None), Disk())
        assert part.chunks.missing(1024) == [(0, 1024)]
        part.discard()

    def test_what_somebody_works_on_is_left_to_them(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checking, "_LOCK_TIMEOUT_S", 0.0)
        held: FileLock = store.blobs.lock(self.hex_of(store, 0))
        with held:
            assert held.try_acquire()
            with pytest.raises(StoreBusy):
                checking.take_apart(store.manifest, ("x.gguf",), store.blobs)
        assert store.path(0).is_file()
