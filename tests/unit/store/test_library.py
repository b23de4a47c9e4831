"""The library's own rules: names, the catalogue, paths, shards, what a pull yields."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.models import model_bytes, shard_bytes
from support.pulling import QUICK_PULL, blobs, pull, pull_events
from zhibei.errors import BadReference, BadRequest, ModelFileError, ModelNotFound, Offline, ZhibeiError
from zhibei.events import Inspected, Notice, Progress, Pulled
from zhibei.formats.inspect import inspect_path
from zhibei.refs import ModelName, ModelRef
from zhibei.store.catalog import Catalog
from zhibei.store.library import Library
from zhibei.store.options import FetchOptions, PullOptions

CONTENT = model_bytes(40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "Some Model-Q4_K_M.gguf"
    made.write_bytes(CONTENT)
    return made


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home", options=QUICK_PULL)


def write_catalog(path: Path, refs: list[str]) -> Catalog:
    head = '[[model]]\nname = "tiny:2b"\ndefault = true\ntitle = "T"\nlicence = "MIT"\nlanguages = ["en"]\ntasks = ["generate"]\n'
    path.write_text(head + "".join(f'[[model.sources]]\nref = "{ref}"\n' for ref in refs))
    return Catalog(path)


class TestPull:
    async def test_in_place_nothing_is_copied(self, library: Library, path: Path) -> None:
        events = await pull_events(library, str(path))
        assert [type(event) for event in events] == [Inspected, Pulled]
        assert isinstance(events[0], Inspected) and isinstance(events[-1], Pulled)
        assert events[0].name == "some-model:q4_k_m" and events[0].total_bytes == len(CONTENT)
        model = events[-1].model
        assert model == library.get(ModelName.parse("some-model:q4_k_m"))
        assert (model.in_place, model.model_path, model.source) == (True, path, f"file:{path}")
        assert (model.licence, model.info) == ("apache-2.0", events[0].info)
        assert blobs(library.home) == []

    async def test_by_copy(self, library: Library, path: Path) -> None:
        events = await pull_events(library, str(path), copy=True, name="mine:v1")
        assert isinstance(events[0], Inspected) and events[0].info is not None
        progress = [event for event in events if isinstance(event, Progress)]
        assert (progress[0].done, progress[-1].done) == (0, len(CONTENT))
        assert all(event.total == len(CONTENT) for event in progress)
        model = library.get(ModelName.parse("mine:v1"))
        path.unlink()
        assert not model.in_place and model.model_path.read_bytes() == CONTENT

    async def test_relative_paths_and_links(self, library: Library, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        (path.parent / "link.gguf").symlink_to(path)
        assert (await pull(library, f"./{path.name}", name="a")).model_path == path
        assert (await pull(library, "file:link.gguf", name="b")).model_path == path.parent / "link.gguf"
        monkeypatch.setenv("HOME", str(path.parent))
        assert (await pull(library, "~/link.gguf", name="c")).problem is None

    async def test_a_relative_home(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        library = Library(Path("home"))
        monkeypatch.chdir("/")
        assert (await pull(library, str(path), copy=True)).model_path.is_relative_to(path.parent / "home")

    async def test_a_file_that_is_no_model_does_not_become_visible(self, library: Library, tmp_path: Path) -> None:
        (tmp_path / "x.gguf").write_bytes(b"GGUFnonsense")
        for copy in (False, True):
            with pytest.raises(ModelFileError):
                await pull(library, str(tmp_path / "x.gguf"), copy=copy)
        assert library.list() == [] and blobs(library.home) == []

    async def test_a_directory_or_nothing(self, library: Library, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match="without a model"):
            await pull(library, str(tmp_path))
        with pytest.raises(ModelNotFound):
            await pull(library, str(tmp_path / "nothing.gguf"))

    async def test_a_file_without_a_usable_name_wants_one(self, library: Library, tmp_path: Path) -> None:
        odd = tmp_path / "模型.gguf"
        odd.write_bytes(CONTENT)
        with pytest.raises(BadReference, match="name") as caught:
            await pull(library, str(odd))
        assert "--name" in (caught.value.hint_text or "")
        assert (await pull(library, str(odd), name="odd")).problem is None

    async def test_a_name_is_not_taken_from_another_model(self, library: Library, path: Path, tmp_path: Path) -> None:
        await pull(library, str(path), name="mine", copy=True)
        other = tmp_path / "other.gguf"
        other.write_bytes(model_bytes(41, seed=5))
        with pytest.raises(BadRequest, match="already a model mine:latest"):
            await pull(library, str(other), name="mine")
        assert library.get(ModelName.parse("mine")).source == f"file:{path}"

    async def test_pulling_again_takes_the_new_version_and_removes_the_old_blob(self, library: Library, path: Path) -> None:
        old = await pull(library, str(path), name="mine", copy=True)
        path.write_bytes(model_bytes(40, seed=6))
        new = await pull(library, str(path), name="mine", copy=True)
        assert new.files[0].digest != old.files[0].digest
        assert blobs(library.home) == [new.model_path]

    async def test_pulling_again_what_did_not_change_reads_nothing(self, library: Library, path: Path) -> None:
        await pull(library, str(path), name="mine", copy=True)
        progress = [
            event for event in await pull_events(library, str(path), name="mine", copy=True) if isinstance(event, Progress)
        ]
        assert [event.done for event in progress] == [len(CONTENT)]

    async def test_unknown_names_and_sources(self, library: Library) -> None:
        with pytest.raises(ModelNotFound, match="neither here nor in the catalogue"):
            await pull(library, "nonesuch")
        offline = Library(library.home, options=PullOptions(fetch=FetchOptions(is_offline=True)))
        for ref in ("hf:owner/name", "ms:owner/name", "ollama:name", "pypi:name", "url:https://models.example/x.gguf"):
            with pytest.raises(Offline, match="set to be offline"):
                await pull(offline, ref)

    async def test_a_local_name_that_is_here_is_already_pulled(self, library: Library, path: Path) -> None:
        await pull(library, str(path), name="mine")
        assert [type(event) for event in await pull_events(library, "mine")] == [Inspected, Pulled]

    async def test_pulls_run_side_by_side(self, library: Library, tmp_path: Path) -> None:
        paths = [tmp_path / f"m{number}.gguf" for number in range(8)]
        for number, made in enumerate(paths):
            made.write_bytes(model_bytes(10, seed=number))
        await asyncio.gather(*(pull(library, str(made), copy=True) for made in paths))
        assert [model.name for model in library.list()] == [f"m{number}:latest" for number in range(8)]


class TestShards:
    @pytest.fixture
    def shards(self, tmp_path: Path) -> list[Path]:
        paths = [tmp_path / f"Big-Q8_0-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
        for number, made in enumerate(paths):
            made.write_bytes(shard_bytes(number, 3))
        return paths

    async def test_a_set_is_one_model_whichever_file_is_named(self, library: Library, shards: list[Path]) -> None:
        for named in shards:
            model = await pull(library, str(named))
            assert model.name == "big:q8_0"
            assert [file.path for file in model.files] == shards and {file.role for file in model.files} == {"shard"}
            assert model.model_path == shards[0] and model.size_bytes == sum(made.stat().st_size for made in shards)
            assert model.info is not None and model.info.split_count == 3
        assert library.resolve(str(shards[1])).files == model.files

    async def test_a_missing_shard_is_named(self, library: Library, shards: list[Path]) -> None:
        shards[1].unlink()
        with pytest.raises(ModelNotFound, match="00002-of-00003"):
            await pull(library, str(shards[0]))

    async def test_a_shard_that_goes_breaks_the_model(self, library: Library, shards: list[Path]) -> None:
        await pull(library, str(shards[0]))
        shards[2].unlink()
        assert "00003-of-00003" in (library.list()[0].problem or "")

    async def test_a_copy_keeps_the_names_that_an_engine_goes_by(self, library: Library, shards: list[Path]) -> None:
        model = await pull(library, str(shards[0]), copy=True)
        assert [file.path.name for file in model.files] == [path.name for path in shards]
        assert [file.path.read_bytes() for file in model.files] == [path.read_bytes() for path in shards]
        assert library.home in model.model_path.parents and not model.in_place
        assert inspect_path(model.model_path) == model.info

    async def test_a_view_that_was_lost_is_made_again_and_goes_with_its_model(self, library: Library, shards: list[Path]) -> None:
        model = await pull(library, str(shards[0]), name="set", copy=True)
        shutil.rmtree(model.model_path.parent)
        assert library.list()[0].problem is not None
        assert library.get(ModelName.parse("set")).model_path.is_file()
        library.copy(ModelName.parse("set"), ModelName.parse("twin"))
        library.remove(ModelName.parse("set"))
        assert library.get(ModelName.parse("twin")).model_path.is_file()
        library.remove(ModelName.parse("twin"))
        assert list(library.home.rglob("*.gguf")) == [] and blobs(library.home) == []


class TestCatalogue:
    async def test_the_short_form_works_everywhere(self, tmp_path: Path, path: Path) -> None:
        library = Library(tmp_path / "home", catalog=write_catalog(tmp_path / "c.toml", [str(path)]))
        short = ModelName.parse("tiny")
        assert library.pullable(short) and library.pullable(ModelName.parse("tiny:2b"))
        assert not library.pullable(ModelName.parse("tiny:3b")) and not library.pullable(ModelName.parse("other"))
        with pytest.raises(ModelNotFound) as caught:
            library.get(short)
        assert caught.value.hint_text == "Pull it: zhibei pull tiny:2b"
        model = await pull(library, "tiny")
        assert (model.name, model.licence) == ("tiny:2b", "MIT")
        assert library.get(short) == library.resolve("tiny") == model
        library.copy(short, ModelName.parse("mine"))
        library.remove(short)
        assert [found.name for found in library.list()] == ["mine:latest"]

    async def test_a_source_that_fails_gives_way_to_the_next(self, tmp_path: Path, path: Path) -> None:
        catalog = write_catalog(tmp_path / "c.toml", [str(tmp_path / "gone.gguf"), str(path)])
        events = await pull_events(Library(tmp_path / "home", catalog=catalog), "tiny")
        assert isinstance(events[0], Notice) and "gone.gguf" in str(events[0])
        assert isinstance(events[-1], Pulled)

    async def test_when_all_fail_the_first_error_is_raised(self, tmp_path: Path) -> None:
        catalog = write_catalog(tmp_path / "c.toml", [str(tmp_path / "gone.gguf"), str(tmp_path / "lost.gguf")])
        with pytest.raises(ModelNotFound, match="gone"):
            await pull(Library(tmp_path / "home", catalog=catalog), "tiny")

    async def test_another_model_under_the_name_gives_way_to_the_catalogues(self, tmp_path: Path, path: Path) -> None:
        library = Library(tmp_path / "home", catalog=write_catalog(tmp_path / "c.toml", [str(path)]))
        other = tmp_path / "other.gguf"
        other.write_bytes(model_bytes(3))
        await pull(library, str(other), name="tiny:2b")
        assert (await pull(library, "tiny")).model_path == path

    def test_ours_is_sound(self) -> None:
        entries = Catalog().entries
        assert str(Catalog().find(ModelName.parse("smollm2")).name) == "smollm2:135m"  # type: ignore[union-attr]
        defaults = [entry.name.name for entry in entries.values() if entry.is_default]
        assert len(defaults) == len(set(defaults))
        for entry in entries.values():
            assert entry.sources and entry.licence and entry.tasks
            assert all(source.ref.source is not None for source in entry.sources)
            pinned = [source for source in entry.sources if source.ref.source in ("pypi", "url")]
            assert all(source.digest and source.size_bytes for source in pinned)


class TestResolve:
    def test_a_path_is_used_without_import(self, library: Library, path: Path) -> None:
        model = library.resolve(str(path))
        assert (model.name, model.model_path, model.in_place) == (f"file:{path}", path, True)
        assert library.resolve(model.name) == model
        assert library.list() == [] and not library.home.exists()

    @pytest.mark.parametrize(
        ("ref", "error"),
        [
            ("pypi:x", BadRequest),
            ("https://host/x.gguf", BadRequest),
            ("nothing", ModelNotFound),
            ("./nothing.gguf", ModelNotFound),
            ("", BadReference),
            ("../../etc/passwd:x:y", ZhibeiError),
        ],
    )
    def test_what_is_not_here(self, library: Library, ref: str, error: type[Exception]) -> None:
        with pytest.raises(error):
            library.resolve(ref)


class TestCopy:
    async def test_names_share_the_bytes(self, library: Library, path: Path) -> None:
        await pull(library, str(path), name="one", copy=True)
        library.copy(ModelName.parse("one"), ModelName.parse("team/sub/two:v1"))
        library.copy(ModelName.parse("one"), ModelName.parse("team/sub/two:v1"))
        one, two = library.list()
        assert (one.name, two.name) == ("one:latest", "team/sub/two:v1") and one.files == two.files

    async def test_it_does_not_write_over_another_model(self, library: Library, path: Path, tmp_path: Path) -> None:
        (tmp_path / "o.gguf").write_bytes(model_bytes(3))
        await pull(library, str(path), name="one", copy=True)
        await pull(library, str(tmp_path / "o.gguf"), name="two", copy=True)
        with pytest.raises(BadRequest):
            library.copy(ModelName.parse("one"), ModelName.parse("two"))

    async def test_names_that_look_like_each_others_paths(self, library: Library, path: Path) -> None:
        names = ["a", "a:b", "a/b", "a/b/c", "a/b.json", "a:b.json", "a/b.json/c"]
        for name in names:
            await pull(library, str(path), name=name)
        assert {model.name for model in library.list()} == {str(ModelName.parse(name)) for name in names}
        for name in names:
            library.remove(ModelName.parse(name))
        assert library.list() == [] and list((library.home / "manifests").iterdir()) == []


def test_importing_the_library_brings_in_nothing_heavy() -> None:
    code = "import sys, zhibei.store.library; print(' '.join(sorted(sys.modules)))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    heavy = set("aiohttp asyncio hashlib psutil pydantic ssl subprocess tomllib zipfile socket".split())
    assert not heavy & loaded
    assert not {name for name in loaded if name.startswith("zhibei.") and name.endswith((".pull", ".fetch", ".parts"))}


async def test_offline_is_an_error_of_its_own(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_network(*args: object, **kwargs: object) -> object:
        raise OSError(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_network)
    with pytest.raises(Offline):
        async for _ in library.pull(ModelRef.parse("https://models.example/x.gguf")):
            pass
