"""Models mended and brought up to date: copied ones stay copies, those in place stay where they lie, with all that is theirs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from support.models import model_bytes, sha256
from support.pulling import QUICK_PULL, blobs, pull
from zhibei.errors import ModelNotFound
from zhibei.events import Checked, Pulled
from zhibei.models import StoredModel
from zhibei.refs import ModelName
from zhibei.store.foreign import ForeignPlaces
from zhibei.store.library import Library

MEDIA = "application/vnd.ollama.image."
TINY = ModelName("tiny")


async def events_of(work: AsyncGenerator[Any, None]) -> list[Any]:
    async with aclosing(work) as events:
        return [event async for event in events]


async def model_of(work: AsyncGenerator[Any, None]) -> StoredModel:
    last = (await events_of(work))[-1]
    assert isinstance(last, Pulled)
    return last.model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "tiny.gguf"
    made.write_bytes(model_bytes(40))
    return made


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home", options=QUICK_PULL)


class TestCopies:
    async def test_that_went_bad_are_copied_again_and_stay_copies(self, library: Library, path: Path) -> None:
        good = await pull(library, str(path), name="tiny", copy=True)
        good.model_path.write_bytes(b"?" * good.size_bytes)
        mended = await model_of(library.repair(TINY))
        assert (mended.in_place, mended.files) == (False, good.files)
        assert mended.model_path.read_bytes() == path.read_bytes()

    async def test_of_what_is_gone_are_copied_again(self, library: Library, path: Path) -> None:
        good = await pull(library, str(path), name="tiny", copy=True)
        good.model_path.unlink()
        events = await events_of(library.repair(TINY))
        assert isinstance(events[0], Checked) and "missing" in (events[0].problem or "")
        assert library.get(TINY).model_path.read_bytes() == path.read_bytes()

    async def test_are_updated_and_the_old_bytes_go(self, library: Library, path: Path) -> None:
        await pull(library, str(path), name="tiny", copy=True)
        path.write_bytes(model_bytes(41, seed=1))
        model = await model_of(library.update(TINY))
        assert not model.in_place and model.model_path.read_bytes() == path.read_bytes()
        assert blobs(library.home) == [model.model_path]

    async def test_a_second_name_keeps_the_version_it_had(self, library: Library, path: Path) -> None:
        old = await pull(library, str(path), name="tiny", copy=True)
        library.copy(TINY, ModelName("kept"))
        path.write_bytes(model_bytes(41, seed=1))
        await model_of(library.update(TINY))
        assert library.get(ModelName("kept")).files == old.files

    async def test_whose_source_is_gone_stay_as_they_are(self, library: Library, path: Path) -> None:
        old = await pull(library, str(path), name="tiny", copy=True)
        path.unlink()
        with pytest.raises(ModelNotFound):
            await events_of(library.update(TINY))
        assert (await model_of(library.repair(TINY))) == old, "one that is sound needs no source"
        assert library.get(TINY) == old


class TestInPlace:
    async def test_a_file_that_changed_is_taken_as_it_is_now(self, library: Library, path: Path) -> None:
        await pull(library, str(path), name="tiny")
        path.write_bytes(model_bytes(41, seed=1))
        assert library.look(TINY).problem is not None
        model = await model_of(library.repair(TINY))
        assert (model.in_place, model.model_path, model.problem) == (True, path, None)
        assert blobs(library.home) == []

    @pytest.fixture
    def ollama(self, tmp_path: Path) -> Path:
        root = tmp_path / "ollama"
        (root / "blobs").mkdir(parents=True)

        def layer(kind: str, content: bytes) -> dict[str, object]:
            (root / "blobs" / f"sha256-{sha256(content)}").write_bytes(content)
            return {"mediaType": MEDIA + kind, "digest": f"sha256:{sha256(content)}", "size": len(content)}

        layers = [layer("model", model_bytes(4)), layer("projector", model_bytes(2, seed=1)), layer("system", b"Be terse.")]
        manifest = {"schemaVersion": 2, "config": layer("config", b'{"model_format": "gguf"}'), "layers": layers}
        path = root / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(manifest))
        return root

    async def test_another_programs_model_keeps_all_that_belongs_to_it(self, tmp_path: Path, ollama: Path) -> None:
        library = Library(tmp_path / "home", options=QUICK_PULL, places=lambda: ForeignPlaces(ollama=(ollama,)))
        used = library.use("ollama/tiny:latest", name="mine")
        assert [file.role for file in used.files] == ["model", "projector", "system"]
        assert used.defaults is not None and used.defaults.system == "Be terse."
        for work in (library.update, library.repair):
            events = await events_of(work(ModelName("mine")))
            assert isinstance(events[-1], Pulled)
            found = library.get(ModelName("mine"))
            assert (found.files, found.defaults, found.source) == (used.files, used.defaults, used.source)
        assert [model.name for model in library.list()] == ["mine:latest"] and blobs(library.home) == []

    async def test_another_programs_model_that_is_gone_is_said_to_be(self, tmp_path: Path, ollama: Path) -> None:
        library = Library(tmp_path / "home", options=QUICK_PULL, places=lambda: ForeignPlaces(ollama=(ollama,)))
        used = library.use("ollama/tiny:latest", name="mine")
        used.model_path.unlink()
        for work in (library.update, library.repair):
            with pytest.raises(ModelNotFound):
                await events_of(work(ModelName("mine")))
        assert "missing" in (library.look(ModelName("mine")).problem or "")
