"""Prompts kept between loads: what is kept, what is dropped, and what is never read."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from zhibei.engines.llama_cpp.prompts import MAX_FILES, PromptStore, Shelf
from zhibei.plans import EngineSpec

VERSION = "2026.1"


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    (tmp_path / "m.gguf").write_bytes(b"model")
    return EngineSpec(
        "llama.cpp", str(tmp_path / "m.gguf"), "m:latest", "generate", 512, 2, 32, 32, 1, None, "f16", "f16", "auto", 0, 0
    )


@pytest.fixture
def store(tmp_path: Path) -> PromptStore:
    return PromptStore(tmp_path / "prompts", 1 << 20)


def shelf_of(store: PromptStore, spec: EngineSpec, version: str = VERSION) -> Shelf:
    shelf = store.shelf(spec, version)
    assert shelf is not None
    return shelf


def state(tokens: list[int], rest: bytes = b"") -> bytes:
    return struct.pack(f"<IIIiII{len(tokens)}I", 0x67677371, 4, len(tokens) + 4, -1, 1, len(tokens), *tokens) + rest


def put(shelf: Shelf, content: bytes, at_s: int | None = None) -> str:
    """Keep a state as an engine would; returns its name."""
    name, before = shelf.new_name(), set(shelf.directory.glob("*.prompt"))
    (shelf.directory / name).write_bytes(content)
    shelf.keep(name)
    (kept,) = set(shelf.directory.glob("*.prompt")) - before
    if at_s is not None:
        os.utime(kept, (at_s, at_s))
    return kept.name


def names(shelf: Shelf) -> set[str]:
    return {path.name for path in shelf.directory.iterdir()}


def test_the_last_ones_come_back_and_only_their_owner_may_read_them(store: PromptStore, spec: EngineSpec) -> None:
    shelf = shelf_of(store, spec)
    old, new = put(shelf, state([1, 2]), 1000), put(shelf, state([3, 4]), 2000)
    assert shelf.newest(1) == [new] and set(shelf.newest(5)) == {old, new}
    assert stat.S_IMODE((shelf.directory / new).stat().st_mode) == 0o600
    assert stat.S_IMODE(shelf.directory.stat().st_mode) == stat.S_IMODE(store.directory.stat().st_mode) == 0o700


def test_what_changes_the_meaning_of_a_state_changes_its_place(store: PromptStore, spec: EngineSpec, tmp_path: Path) -> None:
    usual = shelf_of(store, spec)
    same = replace(spec, ctx_size=4096, num_slots=1, threads=9, model_name="alias:latest")
    assert shelf_of(store, same) == usual
    others = [
        shelf_of(store, replace(spec, cache_type_k="q8_0")),
        shelf_of(store, replace(spec, rope_freq_base=1e6)),
        shelf_of(store, spec, "2026.2"),
    ]
    (tmp_path / "m.gguf").write_bytes(b"another model")
    others.append(shelf_of(store, spec))
    assert len({shelf.directory for shelf in (usual, *others)}) == 5


def test_where_none_are_kept(store: PromptStore, spec: EngineSpec, tmp_path: Path) -> None:
    assert store.shelf(replace(spec, task="embed"), VERSION) is None
    assert store.shelf(replace(spec, draft_model_path="/d.gguf"), VERSION) is None
    assert PromptStore(store.directory, 0).shelf(spec, VERSION) is None
    assert store.shelf(replace(spec, model_path=str(tmp_path / "gone.gguf")), VERSION) is None
    assert not store.directory.exists()


def test_a_conversation_that_went_on_replaces_what_it_was(store: PromptStore, spec: EngineSpec) -> None:
    shelf = shelf_of(store, spec)
    put(shelf, state([1, 2, 3], b"old"))
    other = put(shelf, state([1, 9, 9], b"other"))
    longer = put(shelf, state([1, 2, 3, 4], b"new"))
    assert names(shelf) == {other, longer}


def test_no_more_than_so_many_and_so_many_bytes(store: PromptStore, spec: EngineSpec) -> None:
    shelf = shelf_of(store, spec)
    kept = [put(shelf, state([number]), 1000 + number) for number in range(1, MAX_FILES + 3)]
    assert names(shelf) == set(kept[2:])
    elsewhere = shelf_of(store, replace(spec, cache_type_k="q8_0"))
    large = put(elsewhere, state([7], bytes((1 << 20) - 200)), 9000)
    assert names(elsewhere) == {large}
    assert sum(path.stat().st_size for path in store.directory.glob("*/*")) <= store.max_bytes
    assert len(names(shelf)) < MAX_FILES, "what was used last stays, whosever it is"
    name = elsewhere.new_name()
    (elsewhere.directory / name).write_bytes(bytes((1 << 20) + 1))
    elsewhere.keep(name)
    assert names(elsewhere) == {large}, "more than all there may be is not kept at all"


def test_what_was_changed_or_is_no_file_of_ours_is_never_given_out(store: PromptStore, spec: EngineSpec, tmp_path: Path) -> None:
    shelf = shelf_of(store, spec)
    damaged, whole = put(shelf, state([1])), put(shelf, state([2]))
    (shelf.directory / damaged).write_bytes(b"changed")
    (shelf.directory / "notes.prompt").write_bytes(b"x")
    (tmp_path / "elsewhere").write_bytes(state([3]))
    (shelf.directory / ("0" * 64 + ".prompt")).symlink_to(tmp_path / "elsewhere")
    assert shelf.newest(9) == [whole]
    assert damaged not in names(shelf)


def test_what_was_never_finished_is_swept_away_in_time(store: PromptStore, spec: EngineSpec) -> None:
    shelf = shelf_of(store, spec)
    fresh, stale = shelf.new_name(), shelf.new_name()
    for name in (fresh, stale):
        (shelf.directory / name).write_bytes(b"half")
    os.utime(shelf.directory / stale, (1000, 1000))
    kept = put(shelf, state([1]))
    assert names(shelf) == {fresh, kept}
    shelf.drop(fresh)
    shelf.drop(fresh)
    assert names(shelf) == {kept}


def test_what_cannot_be_removed_stops_nobody(store: PromptStore, spec: EngineSpec) -> None:
    """An engine is ended whatever its prompts do: a directory stands where a file should be."""
    shelf = shelf_of(store, spec)
    (shelf.directory / "x.part" / "within").mkdir(parents=True)
    shelf.drop("x.part")
    assert (shelf.directory / "x.part" / "within").is_dir() and shelf.newest(5) == []
