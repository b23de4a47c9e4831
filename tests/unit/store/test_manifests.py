"""What is remembered of manifests: nothing that is no longer so."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from zhibei.refs import ModelName
from zhibei.store import manifests
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.manifests import Manifest, ManifestFile, ManifestStore

NAME = ModelName("a", "b")
FILE = ManifestFile("model", "a.gguf", 5, Digest.parse("sha256:" + "0" * 64))
MANIFEST = Manifest(NAME, "hf:x/1", datetime(2026, 1, 1, tzinfo=timezone.utc), (FILE,), mentioned=frozenset())
LONG_AGO_S = 1_000_000_000


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[ModelName]:
    """The names whose manifests were parsed."""
    names: list[ModelName] = []
    parse = manifests._parse

    def counting(name: ModelName, data: bytes) -> Manifest:
        names.append(name)
        return parse(name, data)

    monkeypatch.setattr(manifests, "_parse", counting)
    # The status of a file that was changed just now is not to be trusted; here it is.
    monkeypatch.setattr(manifests, "_SETTLED_NS", -(10**12))
    return names


def test_a_manifest_is_parsed_once(tmp_path: Path, parsed: list[ModelName]) -> None:
    store = ManifestStore(tmp_path, Disk())
    store.write(MANIFEST)
    assert [store.read(NAME) for _ in range(3)] == [MANIFEST] * 3 and parsed == [NAME]


def test_what_another_process_changes_is_seen(tmp_path: Path, parsed: list[ModelName]) -> None:
    store, other = (ManifestStore(tmp_path, Disk()) for _ in range(2))
    store.write(MANIFEST)
    assert store.read(NAME) == MANIFEST
    other.write(replace(MANIFEST, source="hf:x/2"))
    assert store.read(NAME) == replace(MANIFEST, source="hf:x/2")
    other.remove(NAME)
    assert store.read(NAME) is None
    other.write(MANIFEST)
    assert store.read(NAME) == MANIFEST and len(parsed) == 3


def test_one_that_was_damaged_is_seen(tmp_path: Path, parsed: list[ModelName]) -> None:
    store = ManifestStore(tmp_path, Disk())
    store.write(MANIFEST)
    path, text = store.path(NAME), store.path(NAME).read_bytes()
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    assert store.read(NAME) == MANIFEST
    path.write_bytes(text[:-1] + b"!")
    os.utime(path, (LONG_AGO_S + 1, LONG_AGO_S + 1))
    damaged = store.read(NAME)
    assert damaged is not None and damaged.problem is not None


def test_what_changed_just_now_is_not_remembered(
    tmp_path: Path, parsed: list[ModelName], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "_SETTLED_NS", 10**15)
    store = ManifestStore(tmp_path, Disk())
    store.write(MANIFEST)
    assert store.read(NAME) == store.read(NAME) == MANIFEST and len(parsed) == 2


def test_not_everything_is_remembered(tmp_path: Path, parsed: list[ModelName], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_MAX_KNOWN", 2)
    store, names = ManifestStore(tmp_path, Disk()), [ModelName("a", str(tag)) for tag in range(5)]
    for name in names:
        store.write(replace(MANIFEST, name=name))
    assert [store.read(name) for name in names] == [replace(MANIFEST, name=name) for name in names]
    assert len(store._known) <= 2
