"""The file of keys: what is kept, who may read it, and what happens when it changes or is damaged."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from zhibei.errors import BadRequest, BadSetting, StoreError
from zhibei.server import keys as keys_module
from zhibei.server.keys import Key, KeyFile, KeyLimits

LATER = datetime(2100, 1, 1, tzinfo=timezone.utc)


def test_without_a_file_there_are_no_keys_and_none_is_made(tmp_path: Path) -> None:
    assert KeyFile(tmp_path / "home").keys() == ()
    assert not (tmp_path / "home").exists()


def test_a_key_comes_back_as_it_was_made(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    key, text = file.create("for Ann", ("chat", "admin"), KeyLimits(10, 2000, 3), LATER)
    assert KeyFile(tmp_path).keys() == file.keys() == (key,)
    assert (key.name, key.scopes, key.limits, key.expires_at) == ("for Ann", {"chat", "admin"}, KeyLimits(10, 2000, 3), LATER)
    assert key.created_at.tzinfo is not None and not key.is_expired(datetime.now(timezone.utc)) and key.is_expired(LATER)
    assert key.digest == hashlib.sha256(text.encode()).digest()
    assert text.startswith("zb-") and len(text) == 46


def test_only_the_hash_is_kept_and_only_for_its_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        _, text = KeyFile(tmp_path).create("", ("chat",))
    finally:
        os.umask(before)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in kept) == [".keys.lock", "keys.json"]
    for path in kept:
        assert text.encode() not in path.read_bytes() and text[3:].encode() not in path.read_bytes()
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_no_two_keys_are_alike(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    made = [file.create("", ("read",)) for _ in range(20)]
    assert len({text for _, text in made}) == len({key.id for key, _ in made}) == len(file.keys()) == 20


def test_a_revoked_key_is_gone_for_everybody_who_looks_again(tmp_path: Path) -> None:
    one, other = KeyFile(tmp_path), KeyFile(tmp_path)
    first, _ = one.create("first", ("chat",))
    second, _ = other.create("second", ("read",))
    assert one.keys() == other.keys() == (first, second)
    assert one.revoke(first.id) == first
    assert other.keys() == (second,)
    with pytest.raises(BadRequest, match=first.id):
        other.revoke(first.id)


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = KeyFile(tmp_path)
    file.create("", ("chat",))
    first = file.keys()
    monkeypatch.setattr(keys_module, "_read", lambda path: pytest.fail("it was read"))
    assert file.keys() is first


def test_keys_that_are_made_at_once_are_all_kept(tmp_path: Path) -> None:
    def make() -> None:
        KeyFile(tmp_path).create("", ("chat",))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(KeyFile(tmp_path).keys()) == 8


@pytest.mark.parametrize("name", ["x" * 101, "two\nlines", "\x1b[31m"])
def test_names_are_short_and_printable(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        KeyFile(tmp_path).create(name, ("chat",))
    assert KeyFile(tmp_path).keys() == ()


def test_there_is_an_end_to_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "MAX_KEYS", 2)
    file = KeyFile(tmp_path)
    file.create("", ("chat",))
    file.create("", ("chat",))
    with pytest.raises(BadRequest, match="already 2"):
        file.create("", ("chat",))


def good() -> dict[str, Any]:
    return {"id": "k_01234567", "sha256": "0" * 64, "scopes": ["chat"], "created_at": "2026-01-01T00:00:00+00:00"}


def documents() -> list[Any]:
    def one(**changes: Any) -> dict[str, Any]:
        return {"version": 1, "keys": [{**good(), **changes}]}

    return [
        None,
        [],
        {},
        {"version": 1},
        {"version": 2, "keys": []},
        {"version": 1, "keys": [None]},
        {"version": 1, "keys": [good(), good()]},
        one(id="../x"),
        one(id=5),
        one(sha256="0" * 63),
        one(sha256="0" * 64 + "\n"),
        one(scopes="chat"),
        one(scopes=["everything"]),
        one(scopes=[["chat"]]),
        one(requests_per_minute=0),
        one(tokens_per_minute="5"),
        one(concurrent=True),
        one(expires_at="soon"),
        one(expires_at="2026-01-01T00:00:00"),
        one(created_at=0),
    ]


@pytest.mark.parametrize("document", documents())
def test_a_damaged_file_is_said_to_be_and_nobody_is_let_in_by_it(tmp_path: Path, document: Any) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(document))
    with pytest.raises(BadSetting, match="damaged"):
        KeyFile(tmp_path).keys()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (5 << 20)])
def test_what_is_no_json_is_damaged_too(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "keys.json").write_bytes(data)
    file = KeyFile(tmp_path)
    for work in (file.keys, lambda: file.create("", ("chat",)), lambda: file.revoke("k_01234567")):
        with pytest.raises(BadSetting, match="damaged"):
            work()
    assert (tmp_path / "keys.json").read_bytes() == data


def test_a_file_that_is_mended_is_read_again(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    path = tmp_path / "keys.json"
    path.write_text("{")
    with pytest.raises(BadSetting):
        file.keys()
    path.write_text(json.dumps({"version": 1, "keys": [good()]}))
    (key,) = file.keys()
    assert key.id == "k_01234567"
    path.unlink()
    assert file.keys() == ()


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = KeyFile(tmp_path)
    key, _ = file.create("", ("chat",))

    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    for work in (lambda: file.create("", ("chat",)), lambda: file.revoke(key.id)):
        with pytest.raises(StoreError, match="No space left"):
            work()
    assert KeyFile(tmp_path).keys() == (key,)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keys.lock", "keys.json"]


def test_a_key_that_lasts_for_ever_does() -> None:
    now = datetime.now(timezone.utc)
    key = Key("k_01234567", "", b"", frozenset(), KeyLimits(), now)
    assert not key.is_expired(now + timedelta(days=100_000))
