"""Models that other programs keep: each layout, what is broken or hostile in it, and that nothing of theirs is ever changed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.models import model_bytes, sha256, shard_bytes
from zhibei.errors import ModelNotFound, SourceError, Unsupported
from zhibei.refs import ModelName
from zhibei.store.foreign import (
    ForeignModel,
    ForeignPlaces,
    defaults_of,
    find_foreign,
    find_named,
    foreign_places,
    remote_of,
)
from zhibei.store.foreign.found import (
    DAMAGED,
    ELSEWHERE,
    FOR_MLX,
    FOR_OLLAMA,
    IN_PIECES,
    MISSING,
    TOO_SMALL,
    UNFINISHED,
    UNREADABLE,
    ForeignFile,
    merged,
    spoken,
)
from zhibei.store.foreign.jan import simple_values
from zhibei.store.foreign.looking import Look, read_small

CONTENT = model_bytes(4)
COMMIT = "a" * 40
OLDER = "b" * 40
MODEL_TYPE = "application/vnd.ollama.image."


def snapshot(root: Path) -> dict[str, object]:
    """Every entry below a directory: kind, mode, time of change, and content or target."""
    found: dict[str, object] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o400:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_nlink, content)
    return found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A home directory; at the end of the test nothing may have been changed by looking at it."""
    home = tmp_path / "home"
    home.mkdir()
    yield home


def find(places: ForeignPlaces, root: Path) -> dict[str, ForeignModel]:
    """What is found, by name; fails if looking changes anything, or does not find the same again."""
    before = snapshot(root)
    models = find_foreign(places)
    for model in models:
        try:
            remote_of(model)
        except (Unsupported, SourceError, ModelNotFound):
            assert model.problem is not None
        defaults_of(model, has_template=False)
    assert find_foreign(places) == models
    assert snapshot(root) == before
    assert len({model.name.casefold() for model in models}) == len(models)
    return {model.name: model for model in models}


def write(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def roles(model: ForeignModel) -> list[str]:
    return [file.role for file in model.files]


class Ollama:
    """A store of Ollama's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = ForeignPlaces(ollama=(root,))

    def blob(self, content: bytes) -> dict[str, object]:
        write(self.root / "blobs" / f"sha256-{sha256(content)}", content)
        return {"digest": f"sha256:{sha256(content)}", "size": len(content)}

    def layer(self, kind: str, content: bytes) -> dict[str, object]:
        return {"mediaType": MODEL_TYPE + kind, **self.blob(content)}

    def add(
        self, *layers: dict[str, object], tag: str = "7b", where: str = "registry.ollama.ai/library/qwen2.5", **config: str
    ) -> None:
        described = self.blob(json.dumps({"model_format": "gguf", **config}).encode())
        manifest = {"schemaVersion": 2, "config": {"mediaType": "application/json", **described}, "layers": layers}
        self.raw(json.dumps(manifest).encode(), tag=tag, where=where)

    def raw(self, content: bytes, *, tag: str = "7b", where: str = "registry.ollama.ai/library/qwen2.5") -> None:
        write(self.root / "manifests" / where / tag, content)


class TestOllama:
    @pytest.fixture
    def store(self, disk: Path) -> Ollama:
        return Ollama(disk / ".ollama" / "models")

    def test_a_model_with_all_its_layers(self, store: Ollama, disk: Path) -> None:
        store.add(
            store.layer("model", CONTENT),
            store.layer("projector", model_bytes(2)),
            store.layer("adapter", model_bytes(1)),
            store.layer("template", b"{{ .System }}<|user|>{{ .Prompt }}"),
            store.layer("system", b"Be brief."),
            store.layer("params", b'{"temperature": 0.5, "stop": ["<|end|>"], "num_ctx": 4096}'),
            store.layer("license", b"MIT"),
        )
        model = find(store.places, disk)["ollama/qwen2.5:7b"]
        assert (model.program, model.problem, model.suggested) == ("ollama", None, ModelName("qwen2.5", "7b"))
        assert roles(model) == ["model", "projector", "adapter", "template", "system", "params", "licence"]
        assert model.model_path == store.root / "blobs" / f"sha256-{sha256(CONTENT)}"
        assert model.size_bytes == sum(file.path.stat().st_size for file in model.files)
        remote = remote_of(model)
        assert remote.source == f"file:{model.model_path}" and remote.name == ModelName("qwen2.5", "7b")
        names = ["model.gguf", "mmproj.gguf", "adapter.gguf", "template.txt", "system.txt", "params.json", "LICENSE"]
        assert [file.name for file in remote.files] == names
        assert remote.files[0].local_path == model.model_path and remote.files[0].size_bytes == len(CONTENT)
        assert remote.files[0].modified_ns == model.files[0].path.stat().st_mtime_ns
        defaults = defaults_of(model, has_template=True)
        assert defaults is not None
        assert (defaults.system, defaults.stop, defaults.sampling.temperature) == ("Be brief.", ("<|end|>",), 0.5)
        assert defaults.load.ctx_size == 4096

    def test_names_of_other_namespaces_and_hosts(self, store: Ollama, disk: Path) -> None:
        store.add(store.layer("model", model_bytes(1)), tag="latest")
        store.add(store.layer("model", model_bytes(2)), where="registry.ollama.ai/someone/mine", tag="q4")
        store.add(store.layer("model", model_bytes(3)), where="hf.co/bartowski/Some-GGUF", tag="Q4_K_M")
        found = find(store.places, disk)
        assert list(found) == ["ollama/hf.co/bartowski/Some-GGUF:Q4_K_M", "ollama/qwen2.5:latest", "ollama/someone/mine:q4"]
        suggested = [str(model.suggested) for model in found.values()]
        assert suggested == ["bartowski/some-gguf:q4_k_m", "qwen2.5:latest", "someone/mine:q4"]

    def test_two_tags_of_one_model_are_one_with_two_names(self, store: Ollama, disk: Path) -> None:
        for tag in ("7b", "latest"):
            store.add(store.layer("model", CONTENT), tag=tag)
        store.add(store.layer("model", CONTENT), store.layer("system", b"Be a pirate."), tag="pirate")
        models = find_foreign(store.places)
        assert [(model.name, model.other_names) for model in models] == [
            ("ollama/qwen2.5:7b", ("ollama/qwen2.5:latest",)),
            ("ollama/qwen2.5:pirate", ()),
        ]
        assert find_named(models, "Ollama/Qwen2.5:LATEST") is models[0]
        assert find_named(models, "ollama/qwen2.5") is None

    @pytest.mark.parametrize(
        ("digest", "size"),
        [
            ("sha256:../../../../etc/passwd", 10),
            ("sha256-" + "0" * 64, 10),
            ("sha256:" + "A" * 64, 10),
            ("", 10),
            (None, 10),
            ("sha256:" + "0" * 64, -1),
            ("sha256:" + "0" * 64, 2**70),
            ("sha256:" + "0" * 64, True),
            ("sha256:" + "0" * 64, "10"),
        ],
    )
    def test_a_hostile_layer_is_shown_as_damaged(self, store: Ollama, disk: Path, digest: object, size: object) -> None:
        store.add({"mediaType": MODEL_TYPE + "model", "digest": digest, "size": size})
        model = find(store.places, disk)["ollama/qwen2.5:7b"]
        assert (model.problem, model.files) == (DAMAGED, ())

    @pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"layers": 3}', b"\xff\xfe", b"[" * 100_000, b'{"layers": [[]]}'])
    def test_a_broken_manifest_hides_nothing_else(self, store: Ollama, disk: Path, raw: bytes) -> None:
        store.raw(raw)
        store.add(store.layer("model", CONTENT), tag="good")
        found = find(store.places, disk)
        assert found["ollama/qwen2.5:7b"].problem == DAMAGED
        assert found["ollama/qwen2.5:good"].problem is None

    def test_blobs_that_are_missing_cut_off_or_no_files(self, store: Ollama, disk: Path) -> None:
        layers = {tag: store.layer("model", model_bytes(number)) for number, tag in enumerate(("gone", "cut", "pipe", "dir"))}
        for tag, layer in layers.items():
            store.add(layer, tag=tag)
        path = {tag: store.root / "blobs" / str(layer["digest"]).replace(":", "-") for tag, layer in layers.items()}
        path["gone"].unlink()
        path["cut"].write_bytes(b"GGUF" * 100)
        path["pipe"].unlink()
        os.mkfifo(path["pipe"])
        path["dir"].unlink()
        path["dir"].mkdir()
        problems = {name: model.problem for name, model in find(store.places, disk).items()}
        assert problems == {
            "ollama/qwen2.5:gone": MISSING,
            "ollama/qwen2.5:cut": UNFINISHED,
            "ollama/qwen2.5:pipe": MISSING,
            "ollama/qwen2.5:dir": MISSING,
        }

    def test_models_that_only_ollama_can_run(self, store: Ollama, disk: Path) -> None:
        store.add(tag="cloud", remote_host="https://ollama.com:443")
        store.add(store.layer("tensor", CONTENT), tag="tensors")
        store.add(store.layer("model", CONTENT), tag="safetensors", model_format="safetensors")
        store.add(store.layer("model", CONTENT), store.layer("model", model_bytes(5)), tag="split")
        problems = {name.rpartition(":")[2]: model.problem for name, model in find(store.places, disk).items()}
        assert problems == {"cloud": ELSEWHERE, "tensors": FOR_OLLAMA, "safetensors": FOR_OLLAMA, "split": IN_PIECES}

    def test_manifests_that_cannot_be_read(self, store: Ollama, disk: Path) -> None:
        store.add(store.layer("model", CONTENT), tag="good")
        directory = store.root / "manifests" / "registry.ollama.ai" / "library" / "qwen2.5"
        os.mkfifo(directory / "pipe")
        (directory / "loop").symlink_to("loop")
        (directory / "null").symlink_to("/dev/null")
        (directory / "zero").symlink_to("/dev/zero")
        write(directory / "large", b" " * (9 * 1024 * 1024))
        (directory.parent / "around").symlink_to(directory.parent.parent)
        problems = {name.rpartition(":")[2]: model.problem for name, model in find(store.places, disk).items()}
        assert problems == {
            "good": None,
            "pipe": UNREADABLE,
            "loop": UNREADABLE,
            "null": UNREADABLE,
            "zero": UNREADABLE,
            "large": UNREADABLE,
        }

    @pytest.mark.parametrize("what", ["manifests", "blobs"])
    def test_a_store_of_another_user(self, store: Ollama, disk: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
        """As the system refuses it; permissions would not bind an administrator who runs the tests."""
        store.add(store.layer("model", CONTENT))
        forbidden = str(store.root / what)

        def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
            def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
                if os.fspath(path).startswith(forbidden):
                    raise PermissionError(13, "Permission denied", os.fspath(path))
                return function(path, *args, **kwargs)

            return refuse

        for owner, name in ((os, "scandir"), (os, "open"), (Path, "stat")):
            monkeypatch.setattr(owner, name, refusing(getattr(owner, name)))
        models = find_foreign(store.places)
        assert [model.problem for model in models] == ([] if what == "manifests" else [MISSING])


class TestLmStudio:
    def places(self, home: Path) -> ForeignPlaces:
        return ForeignPlaces(
            lm_studio=(home / ".lmstudio", home / ".cache" / "lm-studio"), lm_studio_pointer=home / ".lmstudio-home-pointer"
        )

    def test_files_shards_and_projectors(self, disk: Path) -> None:
        repo = disk / ".lmstudio" / "models" / "bartowski" / "Some-VL-GGUF"
        write(repo / "Some-VL-Q4_K_M.gguf")
        write(repo / "Some-VL-Q8_0.gguf", model_bytes(5))
        write(repo / "mmproj-Some-VL-f32.gguf", model_bytes(3))
        chosen = write(repo / "mmproj-Some-VL-f16.gguf", model_bytes(2))
        write(repo / "Some-VL-imatrix.gguf", model_bytes(1))
        write(repo / "README.md", b"words")
        write(repo / "Some-VL-F16.gguf.part", b"cut")
        for number in range(3):
            write(repo.parent / "Big" / f"Big-Q4_0-{number + 1:05d}-of-00003.gguf", shard_bytes(number, 3))
        found = find(self.places(disk), disk)
        assert list(found) == [
            "lm-studio/bartowski/Big/Big-Q4_0",
            "lm-studio/bartowski/Some-VL-GGUF/Some-VL-Q4_K_M",
            "lm-studio/bartowski/Some-VL-GGUF/Some-VL-Q8_0",
        ]
        big, small, _ = found.values()
        assert (roles(big), str(big.suggested), big.quantisation) == (["shard"] * 3, "big:q4_0", "Q4_0")
        assert (roles(small), str(small.suggested)) == (["model", "projector"], "some-vl:q4_k_m")
        assert small.files[1].path == chosen
        remote = remote_of(big)
        assert [file.name for file in remote.files] == [f"Big-Q4_0-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
        assert remote.source == f"file:{big.model_path}"

    def test_a_missing_shard_and_a_pointer_of_git_lfs(self, disk: Path) -> None:
        repo = disk / ".lmstudio" / "models" / "a" / "b"
        write(repo / "x-00002-of-00002.gguf", shard_bytes(1, 2))
        write(repo / "y.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
        write(repo / "z-00000-of-00002.gguf")
        write(repo / "empty.gguf", b"")
        problems = {name: model.problem for name, model in find(self.places(disk), disk).items()}
        assert problems == {"lm-studio/a/b/x": MISSING, "lm-studio/a/b/y": TOO_SMALL, "lm-studio/a/b/empty": TOO_SMALL}

    @pytest.mark.parametrize("where", ["pointer", "settings", "settings of the pointed"])
    def test_another_folder_for_models(self, disk: Path, where: str) -> None:
        other = disk / "elsewhere"
        if where != "settings":
            (disk / ".lmstudio-home-pointer").write_text(f"{other / 'home'}\n")
        if where == "pointer":
            write(other / "home" / "models" / "a" / "b" / "c.gguf")
        else:
            home = disk / ".lmstudio" if where == "settings" else other / "home"
            write(home / "settings.json", json.dumps({"downloadsFolder": str(other / "all")}).encode())
            write(other / "all" / "a" / "b" / "c.gguf")
        assert list(find(self.places(disk), disk)) == ["lm-studio/a/b/c"]

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[" * 100_000,
            b'{"downloadsFolder": 3}',
            b'{"downloadsFolder": "/"}',
            b'{"downloadsFolder": "../.."}',
            b'{"downloadsFolder": "/a\\u0000b"}',
            b"\xff",
        ],
    )
    def test_settings_that_make_no_sense(self, disk: Path, content: bytes) -> None:
        write(disk / ".lmstudio" / "settings.json", content)
        write(disk / ".lmstudio-home-pointer", content)
        write(disk / ".lmstudio" / "models" / "a" / "b" / "c.gguf")
        assert list(find(self.places(disk), disk)) == ["lm-studio/a/b/c"]

    def test_the_same_file_in_two_homes_is_one_model(self, disk: Path) -> None:
        write(disk / ".lmstudio" / "models" / "a" / "b" / "c.gguf")
        (disk / ".cache").mkdir()
        (disk / ".cache" / "lm-studio").symlink_to(disk / ".lmstudio")
        assert list(find(self.places(disk), disk)) == ["lm-studio/a/b/c"]

    def test_safetensors_and_mlx(self, disk: Path) -> None:
        models = disk / ".lmstudio" / "models"
        for name, config in (("plain/One", {}), ("mlx-community/Two", {}), ("other/Three", {"quantization": {"group_size": 64}})):
            write(models / name / "config.json", json.dumps(config).encode())
            write(models / name / "model.safetensors", b"\0" * 1000)
            write(models / name / "tokenizer.json", b"{}")
            write(models / name / "modeling_evil.py", b"raise SystemExit")
            write(models / name / "pytorch_model.bin", b"\x80\x02")
        found = find(self.places(disk), disk)
        problems = {name: model.problem for name, model in found.items()}
        assert problems == {"lm-studio/plain/One": None, "lm-studio/mlx-community/Two": FOR_MLX, "lm-studio/other/Three": FOR_MLX}
        plain = found["lm-studio/plain/One"]
        assert [(file.role, file.path.name) for file in plain.files] == [
            ("weights", "model.safetensors"),
            ("config", "config.json"),
            ("config", "tokenizer.json"),
        ]
        remote = remote_of(plain)
        assert (str(remote.name), remote.source) == ("one:latest", f"file:{models / 'plain' / 'One'}")
        assert [file.name for file in remote.files] == ["model.safetensors", "config.json", "tokenizer.json"]
        assert remote.files[0].local_path == models / "plain" / "One" / "model.safetensors"


class HfCache:
    """A hub cache with links, as huggingface_hub makes it."""

    def __init__(self, root: Path, repository: str = "models--owner--name") -> None:
        self.root = root
        self.repository = root / repository
        self.places = ForeignPlaces(hf_cache=(root,))

    def main(self, commit: str) -> None:
        write(self.repository / "refs" / "main", commit.encode())

    def add(self, name: str, content: bytes = CONTENT, commit: str = COMMIT) -> Path:
        blob = write(self.repository / "blobs" / sha256(content), content)
        link = self.repository / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        return link


class TestHfCache:
    @pytest.fixture
    def cache(self, disk: Path) -> HfCache:
        made = HfCache(disk / "hub")
        made.main(COMMIT)
        return made

    def test_gguf_files_by_quantisation(self, cache: HfCache, disk: Path) -> None:
        link = cache.add("name-Q4_K_M.gguf")
        cache.add("name-Q8_0.gguf", model_bytes(5))
        cache.add("mmproj-name-f16.gguf", model_bytes(2))
        cache.add("large/name-BF16-00001-of-00002.gguf", shard_bytes(0, 2))
        cache.add("large/name-BF16-00002-of-00002.gguf", shard_bytes(1, 2))
        found = find(cache.places, disk)
        assert list(found) == ["hf-cache/owner/name:bf16", "hf-cache/owner/name:q4_k_m", "hf-cache/owner/name:q8_0"]
        model = found["hf-cache/owner/name:q4_k_m"]
        assert (model.model_path, roles(model), str(model.suggested)) == (link, ["model", "projector"], "name:q4_k_m")
        assert [file.size_bytes for file in model.files] == [len(CONTENT), len(model_bytes(2))]
        assert roles(found["hf-cache/owner/name:bf16"]) == ["shard", "shard"]

    def test_two_files_of_one_quantisation_go_by_their_names(self, cache: HfCache, disk: Path) -> None:
        cache.add("base-Q4_0.gguf", model_bytes(1))
        cache.add("chat-Q4_0.gguf", model_bytes(2))
        cache.add("model.gguf", model_bytes(3))
        found = find(cache.places, disk)
        assert list(found) == ["hf-cache/owner/name:base-q4_0", "hf-cache/owner/name:chat-q4_0", "hf-cache/owner/name:model"]
        assert [str(model.suggested) for model in found.values()] == ["base:q4_0", "chat:q4_0", "name:latest"]

    def test_main_is_preferred_and_older_snapshots_add_what_it_lacks(self, cache: HfCache, disk: Path) -> None:
        new = cache.add("n-Q4_0.gguf", model_bytes(1))
        cache.add("n-Q4_0.gguf", model_bytes(2), commit=OLDER)
        old = cache.add("n-Q8_0.gguf", model_bytes(3), commit=OLDER)
        os.utime(new.parent, (1, 1))
        found = find(cache.places, disk)
        assert {name: model.model_path for name, model in found.items()} == {
            "hf-cache/owner/name:q4_0": new,
            "hf-cache/owner/name:q8_0": old,
        }

    @pytest.mark.parametrize("ref", [b"", b"../../../../etc", b"/etc", b"\xff" * 40, b"x" * 1000, None])
    def test_a_ref_that_makes_no_sense_leaves_the_newest_snapshot(self, cache: HfCache, disk: Path, ref: bytes | None) -> None:
        (cache.repository / "refs" / "main").unlink()
        if ref is not None:
            write(cache.repository / "refs" / "main", ref)
        cache.add("n-Q4_0.gguf", model_bytes(1), commit=OLDER)
        new = cache.add("n-Q4_0.gguf", model_bytes(2))
        os.utime(cache.repository / "snapshots" / OLDER, (1, 1))
        (model,) = find(cache.places, disk).values()
        assert model.model_path == new

    def test_safetensors_whole_and_incomplete(self, cache: HfCache, disk: Path) -> None:
        shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        index = {"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1]}}
        cache.add("config.json", b"{}")
        cache.add("model.safetensors.index.json", json.dumps(index).encode())
        cache.add("tokenizer.model", b"tokens")
        cache.add(shards[0], b"\1" * 1000)
        model = find(cache.places, disk)["hf-cache/owner/name"]
        assert (model.problem, roles(model)[:1]) == (MISSING, ["weights"])
        cache.add(shards[1], b"\2" * 1000)
        model = find(cache.places, disk)["hf-cache/owner/name"]
        assert (model.problem, roles(model)) == (None, ["weights"] * 2 + ["config"] * 3)
        assert remote_of(model).files[0].name == shards[0]

    def test_without_an_index_the_numbers_tell(self, cache: HfCache, disk: Path) -> None:
        cache.add("config.json", b"{}")
        for number in (1, 3, 2):
            cache.add(f"model-0000{number}-of-00003.safetensors", bytes([number]) * 1000)
            problem = find(cache.places, disk)["hf-cache/owner/name"].problem
            assert problem == (None if number == 2 else MISSING)
        cache.add("other-00001-of-99999.safetensors", b"\4" * 1000)
        assert find(cache.places, disk)["hf-cache/owner/name"].problem == MISSING

    def test_a_download_under_way(self, cache: HfCache, disk: Path) -> None:
        write(cache.repository / "blobs" / ("c" * 64 + ".1a2b3c4d.incomplete"), b"cut")
        cache.add("config.json", b"{}")
        model = find(cache.places, disk)["hf-cache/owner/name"]
        assert (model.problem, model.files) == (UNFINISHED, ())

    def test_links_that_lead_nowhere_around_or_to_devices(self, cache: HfCache, disk: Path) -> None:
        directory = cache.add("good-Q4_0.gguf").parent
        (directory / "dangling-Q8_0.gguf").symlink_to("../../blobs/gone")
        (directory / "loop.gguf").symlink_to("loop.gguf")
        (directory / "zero.gguf").symlink_to("/dev/zero")
        (directory / "around").symlink_to(cache.root)
        os.mkfifo(directory / "pipe.gguf")
        (directory / "directory.gguf").mkdir()
        problems = {name: model.problem for name, model in find(cache.places, disk).items()}
        assert problems == {
            "hf-cache/owner/name:q4_0": None,
            "hf-cache/owner/name:q8_0": MISSING,
            "hf-cache/owner/name:loop": MISSING,
        }

    def test_what_is_no_model_is_passed_over(self, cache: HfCache, disk: Path) -> None:
        cache.add("config.json", b"{}")
        for other in ("datasets--a--b", "spaces--a--b", "models--", ".locks", "version.txt"):
            write(cache.root / other / "snapshots" / COMMIT / "x.gguf")
        write(cache.root / "file", b"")
        assert find(cache.places, disk) == {}

    def test_the_cache_as_its_own_library_reads_it(self, cache: HfCache, disk: Path) -> None:
        hub = pytest.importorskip("huggingface_hub")
        link = cache.add("name-Q4_K_M.gguf")
        seen = hub.try_to_load_from_cache("owner/name", "name-Q4_K_M.gguf", cache_dir=cache.root)
        assert Path(seen) == link == find(cache.places, disk)["hf-cache/owner/name:q4_k_m"].model_path


class TestModelscope:
    def test_every_layout(self, disk: Path) -> None:
        root = disk / ".cache" / "modelscope"
        write(root / "hub" / "models" / "Qwen" / "Qwen2___5-1B-GGUF" / "qwen2.5-1b-q4_0.gguf", model_bytes(1))
        write(root / "hub" / "damo" / "old" / "old-q8_0.gguf", model_bytes(2))
        write(root / "models" / "Qwen--Qwen3.5-GGUF" / "snapshots" / "master" / "qwen3.5-q4_0.gguf", model_bytes(3))
        write(root / "models" / "a" / "b" / "config.json", b"{}")
        write(root / "models" / "a" / "b" / "model.safetensors", b"\0" * 1000)
        write(root / "models" / "a" / "cut" / "x.gguf.incomplete", b"cut")
        write(root / "models" / "._____temp" / "a" / "c" / "c.gguf")
        write(root / "hub" / "models" / "._____temp" / "a" / "c" / "c.gguf")
        write(root / "hub" / "datasets" / "a" / "b" / "c.gguf")
        found = find(ForeignPlaces(modelscope=(root,)), disk)
        assert {name: model.problem for name, model in found.items()} == {
            "modelscope/a/b": None,
            "modelscope/a/cut": UNFINISHED,
            "modelscope/damo/old:q8_0": None,
            "modelscope/Qwen/Qwen2.5-1B-GGUF:q4_0": None,
            "modelscope/Qwen/Qwen3.5-GGUF:q4_0": None,
        }
        assert str(found["modelscope/Qwen/Qwen2.5-1B-GGUF:q4_0"].suggested) == "qwen2.5-1b:q4_0"


class TestJan:
    def described(self, data: Path, identifier: str, text: str) -> None:
        write(data / "llamacpp" / "models" / identifier / "model.yml", text.encode())

    def test_described_models(self, disk: Path) -> None:
        data = disk / "Jan" / "data"
        relative = write(data / "llamacpp" / "models" / "unsloth" / "Qwen3-4B-Q4_K_M" / "model.gguf")
        projector = write(relative.with_name("mmproj.gguf"), model_bytes(2))
        yml = "mmproj_path: llamacpp/models/unsloth/Qwen3-4B-Q4_K_M/mmproj.gguf\nname: Qwen\nsize_bytes: 12\n"
        self.described(data, "unsloth/Qwen3-4B-Q4_K_M", "model_path: llamacpp/models/unsloth/Qwen3-4B-Q4_K_M/model.gguf\n" + yml)
        imported = write(disk / "my models" / "Own Model.gguf", model_bytes(5))
        self.described(data, "own", f"model_path: '{imported}'\n")
        self.described(data, "gone", "model_path: llamacpp/models/gone/model.gguf\n")
        self.described(data, "broken", "model_path: [a, b]\n")
        self.described(data, "device", "model_path: /dev/zero\n")
        self.described(data, "evil", "model_path: ..\n")
        found = find(ForeignPlaces(jan=(data,)), disk)
        assert {name: model.problem for name, model in found.items()} == {
            "jan/broken": DAMAGED,
            "jan/device": MISSING,
            "jan/evil": MISSING,
            "jan/gone": MISSING,
            "jan/own": None,
            "jan/unsloth/Qwen3-4B-Q4_K_M": None,
        }
        model = found["jan/unsloth/Qwen3-4B-Q4_K_M"]
        assert [file.path for file in model.files] == [relative, projector]
        assert (str(model.suggested), model.quantisation) == ("qwen3-4b:q4_k_m", "Q4_K_M")
        assert found["jan/own"].model_path == imported

    def test_files_of_earlier_versions_and_another_data_folder(self, disk: Path) -> None:
        write(disk / "jan" / "models" / "tinyllama" / "tinyllama-q4_0.gguf")
        write(disk / "other" / "models" / "cortex.so" / "phi" / "model.gguf", model_bytes(2))
        write(disk / "Jan" / "settings.json", json.dumps({"data_folder": str(disk / "other")}).encode())
        found = find(ForeignPlaces(jan=(disk / "Jan" / "data", disk / "jan")), disk)
        assert list(found) == ["jan/cortex.so/phi/model", "jan/tinyllama/tinyllama-q4_0"]
        assert str(found["jan/cortex.so/phi/model"].suggested) == "phi:latest"

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("key: a/b.gguf", "a/b.gguf"),
            ("key:   a b.gguf  # a comment", "a b.gguf"),
            ("key: 'it''s.gguf'", "it's.gguf"),
            ('key: "C:/a.gguf"', "C:/a.gguf"),
            ("key: C:\\models\\a.gguf\r", "C:\\models\\a.gguf"),
            ("\ufeffkey: a", "a"),
            ("key:a", None),
            ("key:", None),
            (" key: a", None),
            ("key: 'a'b'", None),
            ("key: 'a", None),
            ("key: '", None),
            ('key: "a\\nb"', None),
            ("key: >-\n  a", None),
            ("key: a\n  b", None),
            ("key: *anchor", None),
            ("key: !!python/object a", None),
            ("key: {a: b}", None),
            ("key: a\nkey: b", None),
            ("key: a\x1bb", None),
        ],
    )
    def test_only_simple_lines_of_yaml_are_taken(self, text: str, value: str | None) -> None:
        assert simple_values(text.encode()).get("key") == value

    def test_bytes_that_are_no_text(self) -> None:
        assert simple_values(b"key: \xff") == {}


def test_gpt4all(disk: Path) -> None:
    root = disk / "nomic.ai" / "GPT4All"
    write(root / "Llama-3.2-1B-Instruct-Q4_0.gguf")
    write(root / "incomplete-Phi-3.Q4_0.gguf", b"cut")
    write(root / "localdocs_v3.db", b"")
    write(root / "below" / "no.gguf", model_bytes(2))
    found = find(ForeignPlaces(gpt4all=(root,)), disk)
    assert {name: model.problem for name, model in found.items()} == {
        "gpt4all/Llama-3.2-1B-Instruct-Q4_0": None,
        "gpt4all/Phi-3.Q4_0": UNFINISHED,
    }


class TestFolder:
    def test_models_anywhere_below_it(self, disk: Path) -> None:
        folder = disk / "my models"
        write(folder / "a.gguf", model_bytes(1))
        write(folder / "x" / "y" / "模型 Q4_0.GGUF", model_bytes(2))
        write(folder / ".hidden" / "h.gguf", model_bytes(3))
        write(folder / "tensors" / "config.json", b"{}")
        write(folder / "tensors" / "model.safetensors", b"\0" * 1000)
        write(folder / "tensors" / "consolidated.safetensors", b"\0" * 999)
        found = find(ForeignPlaces(folders=(folder,)), disk)
        assert list(found) == ["folder/my-models/a", "folder/my-models/tensors", "folder/my-models/x/y/模型-Q4_0"]
        assert roles(found["folder/my-models/tensors"]) == ["weights", "config"]

    def test_names_that_read_alike_are_told_apart(self, disk: Path) -> None:
        for number, name in enumerate(("a b.gguf", "a-b.gguf", "A-B.gguf", "a-b-2.gguf")):
            write(disk / name, model_bytes(number + 1))
        found = find(ForeignPlaces(folders=(disk,)), disk)
        assert sorted(name.casefold() for name in found) == [
            "folder/home/a-b",
            "folder/home/a-b-2",
            "folder/home/a-b-3",
            "folder/home/a-b-4",
        ]

    def test_control_characters_do_not_reach_a_name(self, disk: Path) -> None:
        write(disk / "a\x1b[31m\n\u202eb.gguf")
        write(disk / os.fsdecode(b"\xff\xfe.gguf"), model_bytes(2))
        assert list(find(ForeignPlaces(folders=(disk,)), disk)) == ["folder/home/-", "folder/home/a-31m-b"]

    def test_depth_is_bounded(self, disk: Path) -> None:
        write(disk.joinpath(*"123456", "in.gguf"), model_bytes(1))
        write(disk.joinpath(*"1234567", "out.gguf"), model_bytes(2))
        assert list(find(ForeignPlaces(folders=(disk,)), disk)) == ["folder/home/1/2/3/4/5/6/in"]

    def test_sets_that_claim_to_be_endless_cost_nothing(self, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(300):
            write(disk / f"s{number}-00001-of-01000.gguf", model_bytes(1))
            write(disk / f"s{number}-00001-of-99999.gguf", b"")
        looked = 0
        real = Path.stat

        def counted(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
            nonlocal looked
            looked += 1
            return real(path, follow_symlinks=follow_symlinks)

        monkeypatch.setattr(Path, "stat", counted)
        models = find_foreign(ForeignPlaces(folders=(disk,)))
        assert len(models) == 300 and {model.problem for model in models} == {MISSING}
        assert looked < 1000

    def test_the_number_of_entries_is_bounded(self, disk: Path) -> None:
        for number in range(20):
            write(disk / f"{number}" / "x.gguf")
        listings = list(Look(max_entries=10).walk(disk))
        assert sum(len(listing.directories) + len(listing.files) for listing in listings) <= 10

    def test_directories_that_lead_around_are_seen_once(self, disk: Path) -> None:
        write(disk / "a" / "x.gguf")
        (disk / "a" / "up").symlink_to(disk)
        (disk / "b").symlink_to(disk / "a")
        (disk / "self").symlink_to("self")
        assert list(find(ForeignPlaces(folders=(disk, disk / "a")), disk)) == ["folder/home/a/x"]

    def test_folders_that_are_not_there(self, disk: Path) -> None:
        write(disk / "file")
        folders = (disk / "none", disk / "file", disk / "file" / "below", Path("/dev/null"), disk / ("n" * 300))
        assert find(ForeignPlaces(folders=folders), disk) == {}


class TestRemote:
    @pytest.fixture
    def model(self, disk: Path) -> ForeignModel:
        write(disk / "x.gguf")
        (found,) = find_foreign(ForeignPlaces(folders=(disk,)))
        return found

    def test_a_file_that_went_or_changed_since(self, model: ForeignModel, disk: Path) -> None:
        (disk / "x.gguf").write_bytes(CONTENT + b"more")
        with pytest.raises(SourceError, match="has changed just now"):
            remote_of(model)
        (disk / "x.gguf").unlink()
        with pytest.raises(ModelNotFound):
            remote_of(model)

    def test_a_model_with_a_problem(self, model: ForeignModel) -> None:
        with pytest.raises(Unsupported, match="cannot be used: it was not downloaded to the end"):
            remote_of(replace(model, problem=UNFINISHED))
        with pytest.raises(Unsupported):
            remote_of(replace(model, files=()))

    def test_files_of_one_name_are_told_apart_and_weights_come_first(self, model: ForeignModel, disk: Path) -> None:
        projector = write(disk / "p" / "X.gguf", model_bytes(2))
        status = projector.stat()
        second = ForeignFile("projector", projector, status.st_size, (status.st_dev, status.st_ino))
        remote = remote_of(replace(model, files=(second, *model.files)))
        assert [(file.role, file.name) for file in remote.files] == [("model", "x.gguf"), ("projector", "projector-X.gguf")]


def test_programs_that_share_a_file_show_it_once(disk: Path) -> None:
    path = write(disk / ".lmstudio" / "models" / "a" / "b" / "c.gguf")
    (disk / "folder").mkdir()
    (disk / "folder" / "link.gguf").symlink_to(path)
    os.link(path, disk / "folder" / "second.gguf")
    models = find_foreign(ForeignPlaces(lm_studio=(disk / ".lmstudio",), folders=(disk / "folder",)))
    assert [(model.name, model.other_names) for model in models] == [
        ("lm-studio/a/b/c", ("folder/folder/link", "folder/folder/second"))
    ]
    assert find_named(models, "folder/folder/LINK") is models[0]


def test_broken_models_are_not_merged_by_what_is_left_of_them() -> None:
    file = ForeignFile("licence", Path("/l"), 1, (1, 1))
    models = merged(ForeignModel(name, "ollama", (file,), MISSING) for name in ("ollama/a:1", "ollama/b:1"))
    assert [model.name for model in models] == ["ollama/a:1", "ollama/b:1"]


def test_spoken() -> None:
    assert spoken("Some Model (v2)", "../..", "", "x" * 300) == "Some-Model-v2/..-../-/" + "x" * 100


@pytest.mark.parametrize("kind", ["fifo", "large", "directory", "missing", "device"])
def test_read_small_takes_only_small_plain_files(disk: Path, kind: str) -> None:
    path = disk / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "large":
        path.write_bytes(b"x" * 11)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    assert read_small(path, 10) is None


class TestPlaces:
    HOME = Path("/home/me")

    def test_by_system(self) -> None:
        linux = foreign_places(self.HOME, "linux", {})
        assert linux.ollama == (self.HOME / ".ollama/models", Path("/usr/share/ollama/.ollama/models"))
        assert linux.hf_cache == (self.HOME / ".cache/huggingface/hub",)
        assert linux.jan == (self.HOME / ".local/share/Jan/data", self.HOME / ".config/Jan/data", self.HOME / "jan")
        assert linux.gpt4all == (self.HOME / ".local/share/nomic.ai/GPT4All", self.HOME / ".cache/gpt4all")
        mac = foreign_places(self.HOME, "darwin", {})
        assert mac.gpt4all[0] == self.HOME / "Library/Application Support/nomic.ai/GPT4All"
        windows = foreign_places(self.HOME, "win32", {"LOCALAPPDATA": "/local"})
        assert windows.gpt4all[0] == Path("/local/nomic.ai/GPT4All")
        assert windows.jan[0] == self.HOME / "AppData/Roaming/Jan/data"
        assert windows.ollama == (self.HOME / ".ollama/models",)

    def test_variables_come_first_and_the_usual_places_stay(self) -> None:
        variables = {
            "OLLAMA_MODELS": "/data/ollama",
            "HF_HOME": "~/hf",
            "MODELSCOPE_CACHE": "/data/ms",
            "XDG_DATA_HOME": "/data/share",
            "XDG_CACHE_HOME": "/data/cache",
        }
        places = foreign_places(self.HOME, "linux", variables, (Path("/m"), Path("/m")))
        assert places.ollama[0] == Path("/data/ollama") and self.HOME / ".ollama/models" in places.ollama
        usual = self.HOME / ".cache/huggingface/hub"
        assert places.hf_cache == (self.HOME / "hf/hub", Path("/data/cache/huggingface/hub"), usual)
        assert places.modelscope == (Path("/data/ms"), self.HOME / ".cache/modelscope")
        assert places.gpt4all[0] == Path("/data/share/nomic.ai/GPT4All")
        assert places.folders == (Path("/m"),)
        assert foreign_places(self.HOME, "linux", {**variables, "HF_HUB_CACHE": "/hub"}).hf_cache[0] == Path("/hub")

    @pytest.mark.parametrize("value", ["", "relative/path", "/nul\0", "."])
    def test_values_of_no_use(self, value: str) -> None:
        assert foreign_places(self.HOME, "linux", {"OLLAMA_MODELS": value}) == foreign_places(self.HOME, "linux", {})


def test_thousands_of_files_are_looked_at_without_opening_one(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3000):
        path = disk / f"{number % 50}" / f"m{number}-Q4_0.gguf"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(CONTENT[:300])

    def refuse(*_: object, **__: object) -> int:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    assert len(find_foreign(ForeignPlaces(folders=(disk,)))) == 3000
