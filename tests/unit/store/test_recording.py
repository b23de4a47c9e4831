"""What makes files a stored model: its name, whether that is free, and what is written of files that stay where they lie."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from support.models import model_bytes, shard_bytes
from zhibei.errors import BadReference, BadRequest, ModelFileError
from zhibei.models import ModelDefaults, StoredModel
from zhibei.refs import ModelName
from zhibei.store.digests import Digest
from zhibei.store.manifests import Manifest, ManifestFile
from zhibei.store.recording import check_free, in_place, inspect_stored, manifest_in_place, named
from zhibei.store.sources.base import RemoteFile, RemoteModel

WHEN = datetime(2026, 1, 2, tzinfo=timezone.utc)
NAME = ModelName("tiny", "q4_k_m")
OLD, NEW = (Digest(hashlib.sha256(text).hexdigest()) for text in (b"old", b"new"))


def remote(source: str, digest: Digest | None = NEW) -> RemoteModel:
    return RemoteModel(source, NAME, (RemoteFile("x.gguf", f"{source}/x.gguf", size_bytes=5, digest=digest),))


def stored(source: str, digest: Digest = OLD) -> Manifest:
    return Manifest(NAME, source, WHEN, (ManifestFile("model", "x.gguf", 5, digest),))


def showing(problem: str | None = None) -> object:
    return lambda manifest: StoredModel(str(manifest.name), (), None, manifest.source, WHEN, problem=problem)


def is_free(old: Manifest | None, found: RemoteModel, problem: str | None = None) -> bool:
    try:
        check_free(old, found, showing(problem))  # type: ignore[arg-type]
    except BadRequest:
        return False
    return True


class TestNames:
    def test_the_persons_comes_first(self) -> None:
        assert named(remote("hf:o/n"), ModelName("mine")) == ModelName("mine")
        assert named(remote("hf:o/n"), None) == NAME

    def test_where_none_follows_one_is_asked_for(self) -> None:
        with pytest.raises(BadReference, match="hf:o/n") as caught:
            named(replace(remote("hf:o/n"), name=None), None)
        assert "--name" in (caught.value.hint_text or "")


class TestWhetherANameIsFree:
    def test_nobody_has_it(self) -> None:
        assert is_free(None, remote("hf:o/n"))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("hf:o/n:Q4_K_M", "hf:o/n:Q4_K_M"),
            ("file:/x.gguf", "file:/x.gguf"),
            ("hf:o/n", "hf:o/n:Q4_K_M"),
            ("hf:o/n:Q4_K_M", "hf:o/n"),
            ("ms:o/n", "ms:o/n:Q4_K_M"),
        ],
    )
    def test_the_same_model_in_a_newer_version_has_it(self, old: str, new: str) -> None:
        assert is_free(stored(old), remote(new))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("hf:o/n:Q4_K_M", "hf:o/n:Q8_0"),
            ("hf:o/n:Q4_K_M", "ms:o/n:Q4_K_M"),
            ("hf:o/n", "hf:o/other"),
            ("hf:o/n@v1:Q4_K_M", "hf:o/n:Q4_K_M"),
            ("file:/x.gguf", "hf:o/n:Q4_K_M"),
        ],
    )
    def test_another_model_has_it(self, old: str, new: str) -> None:
        assert not is_free(stored(old), remote(new))
        assert is_free(stored(old), remote(new), problem="its file x.gguf is missing")

    def test_the_same_bytes_from_elsewhere_are_the_same_model(self) -> None:
        assert is_free(stored("hf:o/n:Q4_K_M"), remote("ms:o/n:Q4_K_M", OLD))
        assert not is_free(stored("hf:o/n:Q4_K_M"), remote("ms:o/n:Q4_K_M", None))

    def test_files_in_place_have_no_bytes_to_compare(self, tmp_path: Path) -> None:
        lying = ManifestFile("model", "x.gguf", 5, path=tmp_path / "x.gguf", modified_ns=1)
        old = Manifest(NAME, "file:/a.gguf", WHEN, (lying,))
        assert not is_free(old, RemoteModel("file:/b.gguf", NAME, ()))

    def test_the_refusal_says_who_has_it_and_what_to_do(self) -> None:
        with pytest.raises(BadRequest, match="tiny:q4_k_m, from file:/a") as caught:
            check_free(stored("file:/a"), remote("hf:o/n"), showing())  # type: ignore[arg-type]
        assert "--name" in (caught.value.hint_text or "") and "zhibei rm tiny:q4_k_m" in (caught.value.hint_text or "")


class TestFilesInPlace:
    @pytest.fixture
    def model(self, tmp_path: Path) -> RemoteModel:
        path = tmp_path / "x.gguf"
        path.write_bytes(model_bytes(4))
        status = path.stat()
        file = RemoteFile("x.gguf", f"file:{path}", size_bytes=status.st_size, local_path=path, modified_ns=status.st_mtime_ns)
        return RemoteModel(f"file:{path}", NAME, (file,))

    def test_are_recorded_with_size_and_time(self, model: RemoteModel) -> None:
        entry = in_place(model.files[0])
        assert (entry.path, entry.digest, entry.origin) == (model.files[0].local_path, None, model.source)
        assert (entry.size_bytes, entry.modified_ns) == (model.files[0].size_bytes, model.files[0].modified_ns)

    def test_make_a_manifest_that_knows_the_model(self, model: RemoteModel) -> None:
        manifest = manifest_in_place(NAME, model, ModelDefaults("Be terse."))
        assert manifest.in_place and manifest.digests == frozenset() and manifest.source == model.source
        assert manifest.info is not None and manifest.info.format == "gguf"
        assert (manifest.licence, manifest.defaults) == ("apache-2.0", ModelDefaults("Be terse."))
        assert manifest_in_place(NAME, replace(model, licence="MIT")).licence == "MIT"

    def test_that_are_no_model_make_none(self, model: RemoteModel) -> None:
        path = model.files[0].local_path
        assert path is not None
        path.write_bytes(b"GGUF" + bytes(60))
        with pytest.raises(ModelFileError):
            manifest_in_place(NAME, model)


def test_shards_are_known_by_their_own_names_whatever_their_directory(tmp_path: Path) -> None:
    names = [f"UD-Q4_K_XL/tiny-{number:05}-of-00002.gguf" for number in (1, 2)]
    paths = {name: tmp_path / f"blob{number}" for number, name in enumerate(names)}
    for number, path in enumerate(paths.values()):
        path.write_bytes(shard_bytes(number, 2))
    files = [ManifestFile("shard", name, paths[name].stat().st_size, OLD) for name in names]
    info = inspect_stored([*files, ManifestFile("licence", "LICENSE", 3, NEW)], paths)
    assert (info.format, info.split_count) == ("gguf", 2)
