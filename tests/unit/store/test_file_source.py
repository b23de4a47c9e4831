"""What a path names: files, shard sets, and directories of several layouts, with and without links."""

from __future__ import annotations

import os
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from support.models import model_bytes, shard_bytes
from support.safetensors_writer import repository_files, safetensors_bytes, write_files
from zhibei.errors import BadReference, ModelNotFound, SourceError, Unsupported
from zhibei.formats.inspect import inspect_files
from zhibei.store.sources.base import RemoteModel, SourceContext, StartOver
from zhibei.store.sources.file import FileSource, resolve_path

MODEL = model_bytes(4)
SHARDS = {f"x-Q4_0-{number + 1:05d}-of-00002.gguf": shard_bytes(number, 2) for number in range(2)}
FILES = {
    **repository_files(),
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "LICENSE": b"Apache",
    "modeling_x.py": b"raise SystemExit",
    "pytorch_model.bin": b"\x80\x04",
    "onnx/model.onnx": b"x",
}
needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


def roles(model: RemoteModel) -> list[tuple[str, str]]:
    return [(file.name, file.role) for file in model.files]


class TestDirectories:
    def test_a_repository_with_its_files_and_nothing_that_runs(self, tmp_path: Path) -> None:
        directory = write_files(tmp_path / "Tiny-Llama", FILES)
        model = resolve_path(str(directory))
        assert (str(model.name), model.source, model.licence) == ("tiny-llama:latest", f"file:{directory}", "apache-2.0")
        assert roles(model)[0] == ("model.safetensors", "weights")
        assert set(roles(model)[1:]) == {
            ("1_Pooling/config.json", "config"), ("config.json", "config"), ("tokenizer.json", "config"),
            ("tokenizer_config.json", "config"), ("LICENSE", "licence"),
        }  # fmt: skip
        for file in model.files:
            assert file.local_path == directory / file.name and file.origin == f"file:{directory / file.name}"
            assert file.size_bytes == len(FILES[file.name])
        assert model.notices == ()
        info = inspect_files({file.name: file.local_path for file in model.files if file.local_path is not None})
        assert (info.format, info.architecture, info.pooling) == ("safetensors", "llama", "mean")

    def test_a_safetensors_file_means_its_repository(self, tmp_path: Path) -> None:
        directory = write_files(tmp_path / "tiny", FILES)
        assert resolve_path(str(directory / "model.safetensors")) == resolve_path(str(directory))

    def test_shards_of_weights_are_all_there_or_it_is_told(self, tmp_path: Path) -> None:
        halves = {
            f"model-0000{number}-of-00002.safetensors": safetensors_bytes({f"t{number}": ("F32", (4,))}) for number in (1, 2)
        }
        directory = write_files(tmp_path / "tiny", {"config.json": FILES["config.json"], **halves})
        assert roles(resolve_path(str(directory)))[:2] == [(name, "weights") for name in halves]
        (directory / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(ModelNotFound, match="only some of the files"):
            resolve_path(str(directory))

    def test_one_gguf_model_is_what_the_directory_means(self, tmp_path: Path) -> None:
        one = write_files(tmp_path / "one", {"Tiny-Q4_0.gguf": MODEL, "mmproj-F16.gguf": b"GGUF", "notes.txt": b""})
        assert resolve_path(str(one)) == resolve_path(str(one / "Tiny-Q4_0.gguf"))
        many = write_files(tmp_path / "many", SHARDS)
        assert roles(resolve_path(str(many))) == [(name, "shard") for name in SHARDS]

    def test_several_gguf_models_are_named(self, tmp_path: Path) -> None:
        directory = write_files(tmp_path, {"a.gguf": MODEL, "b.gguf": MODEL, **SHARDS})
        with pytest.raises(ModelNotFound, match="several models") as caught:
            resolve_path(str(directory))
        assert caught.value.hint_text == "Name one of them: a.gguf, b.gguf, x-Q4_0-00001-of-00002.gguf"

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.PTH", "x.ckpt", "weights/consolidated.00.pth"])
    def test_pickles_alone_are_refused_with_a_way_on(self, tmp_path: Path, name: str) -> None:
        directory = write_files(tmp_path / "old", {"config.json": b"{}", name: b"\x80\x04"})
        with pytest.raises(Unsupported, match="never opened") as caught:
            resolve_path(str(directory))
        assert "zhibei search old" in (caught.value.hint_text or "")

    def test_weights_without_a_configuration(self, tmp_path: Path) -> None:
        directory = write_files(tmp_path, {"model.safetensors": safetensors_bytes()})
        with pytest.raises(Unsupported, match=r"no config\.json"):
            resolve_path(str(directory))

    def test_a_directory_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match="without a model"):
            resolve_path(str(write_files(tmp_path, {"notes.txt": b"", "a/b/c.gguf": MODEL})))

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no FIFO")
    def test_what_is_no_plain_file_is_never_opened(self, tmp_path: Path) -> None:
        directory = write_files(tmp_path / "tiny", FILES)
        (directory / "vocab.json").symlink_to("/dev/zero")
        os.mkfifo(directory / "merges.txt")
        assert not {"vocab.json", "merges.txt"} & {file.name for file in resolve_path(str(directory)).files}
        os.mkfifo(tmp_path / "x.gguf")
        with pytest.raises(SourceError, match="is not a file"):
            resolve_path(str(tmp_path / "x.gguf"))

    @pytest.mark.parametrize("location", ["a\0b", "/", "~nobody-of-that-name/x"])
    def test_what_is_no_path(self, location: str) -> None:
        with pytest.raises((BadReference, ModelNotFound)):
            resolve_path(location)


@needs_links
class TestLinks:
    def test_a_cache_of_links_is_used_without_a_word(self, tmp_path: Path) -> None:
        cache = tmp_path / "models--owner--Tiny-Llama"
        snapshot = cache / "snapshots" / "abc123"
        snapshot.mkdir(parents=True)
        for number, (name, data) in enumerate(repository_files().items()):
            write_files(cache / "blobs", {str(number): data})
            (snapshot / name).symlink_to(f"../../blobs/{number}")
        model = resolve_path(str(snapshot))
        assert (str(model.name), model.notices, len(model.files)) == ("tiny-llama:latest", (), 4)
        assert model.files[0].local_path == snapshot / "model.safetensors"

    def test_links_that_lead_elsewhere_are_told_of(self, tmp_path: Path) -> None:
        directory = write_files(tmp_path / "tiny", FILES)
        (tmp_path / "elsewhere.json").write_bytes(b"{}")
        (directory / "tokenizer.json").unlink()
        (directory / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
        (notice,) = resolve_path(str(directory)).notices
        assert dict(notice.values) == {"path": str(directory), "names": "tokenizer.json"}

    def test_a_link_that_leads_nowhere_is_not_there(self, tmp_path: Path) -> None:
        directory = write_files(tmp_path / "tiny", FILES)
        (directory / "vocab.json").symlink_to("nowhere")
        assert "vocab.json" not in {file.name for file in resolve_path(str(directory)).files}

    def test_linked_directories_are_not_entered(self, tmp_path: Path) -> None:
        directory = write_files(tmp_path / "tiny", repository_files())
        (directory / "1_Pooling").symlink_to(write_files(tmp_path / "other", {"config.json": b"{}"}))
        (directory / "loop").symlink_to(directory)
        assert len(resolve_path(str(directory)).files) == 4


async def test_every_file_of_a_repository_is_read_and_changes_are_seen(tmp_path: Path) -> None:
    directory = write_files(tmp_path / "tiny", FILES)
    source = FileSource(SourceContext(tmp_path / "work"))
    model = await source.resolve(str(directory))
    for file in model.files:
        async with aclosing(source.open(file, 0)) as pieces:
            assert b"".join([piece async for piece in pieces]) == FILES[file.name]
    (directory / "config.json").write_bytes(b"{}")
    changed = next(file for file in model.files if file.name == "config.json")
    with pytest.raises(StartOver):
        await source.read(changed, 0, 1)
