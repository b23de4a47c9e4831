"""Views of models: links under the files' own names, made, mended and cleared away, and nothing else touched."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from zhibei.errors import SourceError, StoreError
from zhibei.refs import ModelName
from zhibei.store import owners
from zhibei.store.blobs import BlobStore
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.manifests import Manifest, ManifestFile
from zhibei.store.views import Views, needs_view

WHEN = datetime(2026, 1, 2, tzinfo=timezone.utc)
CONTENTS = {
    "model-00001-of-00002.safetensors": b"one",
    "model-00002-of-00002.safetensors": b"two",
    "1_Pooling/config.json": b"{}",
}


class WithoutLinks(Disk):
    """A file system that has no hard links."""

    def link(self, source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")


class WithoutRoom(Disk):
    """A disk that takes no new directory."""

    def make_directories(self, path: Path) -> None:
        raise OSError(28, "No space left on device")


class Store:
    """Blobs and views under a home."""

    def __init__(self, home: Path, disk: Disk | None = None) -> None:
        self.home = home
        self.blobs = BlobStore(home, Disk())
        self.views = Views(home, self.blobs, disk or Disk())

    def manifest(self, contents: dict[str, bytes], name: str = "a", role: str = "weights") -> Manifest:
        """A model whose blobs are there."""
        files = []
        for file, data in contents.items():
            digest = Digest(hashlib.sha256(data).hexdigest())
            path = self.blobs.path(digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(data)
            files.append(ManifestFile(role, file, len(data), digest))
        return Manifest(ModelName(name), "hf:o/n", WHEN, tuple(files))

    def shown(self, manifest: Manifest) -> dict[str, bytes]:
        return {file.name: self.views.path(manifest, file).read_bytes() for file in manifest.files}

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.home / "views").iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (("model",), False),
        (("model", "projector"), False),
        (("shard", "shard"), True),
        (("weights",), True),
        (("model", "config"), True),
    ],
)
def test_who_needs_one(roles: tuple[str, ...], expected: bool) -> None:
    digest = Digest("ab" * 32)
    files = tuple(ManifestFile(role, f"{number}.x", 1, digest) for number, role in enumerate(roles))
    assert needs_view(Manifest(ModelName("a"), "x", WHEN, files)) is expected
    lying = tuple(replace(file, digest=None, path=Path("/x")) for file in files)
    assert not needs_view(Manifest(ModelName("a"), "x", WHEN, lying))


@pytest.mark.parametrize("disk", [Disk(), WithoutLinks()], ids=["hard links", "symbolic links"])
def test_it_shows_the_blobs_under_their_names(tmp_path: Path, disk: Disk) -> None:
    store = Store(tmp_path / "home", disk)
    manifest = store.manifest(CONTENTS)
    made = store.views.ensure(manifest)
    assert made.parent == tmp_path / "home" / "views"
    assert store.shown(manifest) == CONTENTS
    for file in manifest.files:
        assert file.digest is not None
        assert store.views.path(manifest, file).samefile(store.blobs.path(file.digest))
    moved = (tmp_path / "home").rename(tmp_path / "moved")
    assert Store(moved, disk).shown(manifest) == CONTENTS


def test_making_it_again_changes_nothing(store: Store) -> None:
    manifest = store.manifest(CONTENTS)
    before = store.views.ensure(manifest).stat()
    after = store.views.ensure(manifest).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(store.names()) == 1


def test_models_of_the_same_files_share_one_and_others_do_not(store: Store) -> None:
    first, copy = store.manifest(CONTENTS), store.manifest(CONTENTS, name="b")
    other = store.manifest({**CONTENTS, "tokenizer.json": b"[]"})
    renamed = store.manifest({name.replace("model-", "m-"): data for name, data in CONTENTS.items()})
    assert store.views.directory(first) == store.views.directory(copy)
    assert len({store.views.directory(manifest) for manifest in (first, other, renamed)}) == 3


@pytest.mark.parametrize("damage", ["gone", "file gone", "other bytes"])
def test_one_that_was_damaged_is_mended(store: Store, damage: str) -> None:
    manifest = store.manifest(CONTENTS)
    path = store.views.ensure(manifest) / next(iter(CONTENTS))
    path.unlink()
    if damage == "gone":
        for left in sorted(path.parent.rglob("*"), reverse=True):
            left.rmdir() if left.is_dir() else left.unlink()
        path.parent.rmdir()
    elif damage == "other bytes":
        path.write_bytes(b"!!!")
    store.views.ensure(manifest)
    assert store.shown(manifest) == CONTENTS
    assert len(store.names()) == 1


def test_a_name_that_climbs_makes_no_link(store: Store, tmp_path: Path) -> None:
    for name in ("../../x.json", "/x.json", "a\\b", "con"):
        manifest = store.manifest({name: b"x"})
        with pytest.raises(SourceError):
            store.views.ensure(manifest)
    assert not (store.home / "views").exists() and not list(tmp_path.rglob("*.json"))


def test_a_disk_that_refuses_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "home", WithoutRoom())
    manifest = store.manifest(CONTENTS)
    with pytest.raises(StoreError):
        store.views.ensure(manifest)
    assert not (tmp_path / "home" / "views").exists()


class TestClearing:
    def test_nothing_is_stale_where_there_is_nothing(self, store: Store) -> None:
        assert list(store.views.stale([])) == []
        store.views.tidy([])
        assert not store.home.exists()

    def test_a_view_without_its_model_is_stale_and_its_blobs_stay(self, store: Store) -> None:
        kept, gone = store.manifest(CONTENTS), store.manifest({"model.safetensors": b"other"})
        stale, wanted = store.views.ensure(gone), store.views.ensure(kept)
        assert list(store.views.stale([kept])) == [stale]
        store.views.tidy([kept])
        assert store.names() == [wanted.name]
        assert all(store.blobs.has(digest) for digest in gone.digests | kept.digests)

    def test_the_view_of_a_copy_stays(self, store: Store) -> None:
        first, copy = store.manifest(CONTENTS), store.manifest(CONTENTS, name="b")
        store.views.ensure(first)
        assert list(store.views.stale([copy])) == []

    def test_a_view_that_its_model_does_not_need_any_more_is_stale(self, store: Store) -> None:
        shown = store.manifest(CONTENTS)
        made = store.views.ensure(shown)
        plain = replace(shown, files=tuple(replace(file, role="model") for file in shown.files))
        assert list(store.views.stale([plain])) == [made]

    def test_what_was_left_half_made_is_stale_unless_somebody_is_at_it(self, store: Store) -> None:
        root = store.home / "views"
        mine = root / f".{owners.new_token()}.tmp"
        machine, _, started, tail = owners.new_token().split("-")
        dead = root / f".{machine}-999999999-{started}-{tail}.tmp"
        for path in (mine, dead):
            path.mkdir(parents=True)
        assert list(store.views.stale([])) == [dead]
        store.views.tidy([])
        assert store.names() == [mine.name]

    def test_what_others_put_there_is_never_touched(self, store: Store, tmp_path: Path) -> None:
        root, outside = store.home / "views", tmp_path / "outside"
        (root / "notes").mkdir(parents=True)
        (root / "notes" / "a.txt").write_text("mine")
        (root / "README").write_text("mine")
        (root / ("ab" * 16)).write_text("a file of a view's name")
        (root / "x.tmp").mkdir()
        outside.mkdir()
        (outside / "precious").write_text("mine")
        (root / ("cd" * 16)).symlink_to(outside, target_is_directory=True)
        before = store.names()
        assert list(store.views.stale([])) == []
        store.views.tidy([])
        assert store.names() == before
        assert (outside / "precious").read_text() == (root / "notes" / "a.txt").read_text() == "mine"

    def test_clearing_a_view_of_symbolic_links_does_not_follow_them(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "home", WithoutLinks())
        manifest = store.manifest(CONTENTS)
        made = store.views.ensure(manifest)
        (made / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "precious").write_text("mine")
        store.views.tidy([])
        assert store.names() == []
        assert (tmp_path / "precious").exists() and all(store.blobs.has(digest) for digest in manifest.digests)
