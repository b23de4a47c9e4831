"""``key``: the keys of this machine's server."""

from __future__ import annotations

import json
import re
import stat
import sys

from support.program import Program
from zhibei.server.keys import KeyFile


def test_a_key_is_printed_once_and_then_only_known_by_its_id(program: Program) -> None:
    made = program("key", "create", "--name", "for Ann")
    assert made.code == 0
    text = made.out.strip()
    assert re.fullmatch(r"zb-[A-Za-z0-9_-]{43}", text)
    assert "shown only now" in made.err and "wants a key with every request" in made.err and text not in made.err
    (key,) = KeyFile(program.home).keys()
    assert (key.name, key.scopes, key.expires_at) == ("for Ann", {"chat", "read"}, None)
    listed = program("key", "list")
    assert listed.code == 0
    assert listed.out.splitlines()[0].split() == [
        "ID",
        "NAME",
        "SCOPES",
        "CREATED",
        "EXPIRES",
        "REQUESTS/MIN",
        "TOKENS/MIN",
        "AT",
        "ONCE",
    ]
    assert listed.out.splitlines()[1].startswith(f"{key.id}  for Ann  chat, read  [TIME]")
    for shown in (listed.out, program("key", "list", "--json").out, program("config").out):
        assert text not in shown and key.digest.hex() not in shown
    if sys.platform != "win32":
        assert stat.S_IMODE((program.home / "keys.json").stat().st_mode) == 0o600


def test_scopes_limits_and_an_end(program: Program) -> None:
    words = (
        "--scope",
        "admin",
        "--requests-per-minute",
        "60",
        "--tokens-per-minute",
        "9000",
        "--concurrent",
        "2",
        "--expires",
        "30d",
    )
    made = json.loads(program("key", "create", "--json", *words).out)
    assert made["key"].startswith("zb-") and made["scopes"] == ["admin"]
    assert (made["requests_per_minute"], made["tokens_per_minute"], made["concurrent"]) == (60, 9000, 2)
    (key,) = KeyFile(program.home).keys()
    assert key.expires_at is not None and (key.expires_at - key.created_at).days == 30
    (listed,) = json.loads(program("key", "list", "--json").out)["keys"]
    assert listed == {name: value for name, value in made.items() if name != "key"} | {
        name: listed[name] for name in ("created_at", "expires_at")
    }


def test_revoking(program: Program) -> None:
    first, second = (json.loads(program("key", "create", "--json").out)["id"] for _ in range(2))
    one = program("key", "revoke", first)
    assert (one.code, one.err) == (0, f"Revoked {first}.\n")
    last = program("key", "revoke", second)
    assert last.code == 0 and "That was the last key." in last.err
    assert program("key", "list").err == "There are no keys. Make one: zhibei key create\n"
    unknown = program("key", "revoke", first)
    assert unknown.code == 2 and f"There is no key {first}." in unknown.err


def test_mistakes(program: Program) -> None:
    for words, said in (
        ((), "is missing"),
        (("make",), "create, list or revoke"),
        (("revoke",), "ID is missing"),
        (("list", "k_1"), "Unexpected argument: k_1"),
        (("create", "k_1"), "Unexpected argument: k_1"),
        (("list", "--scope", "read"), "--scope is for create alone"),
        (("create", "--scope", "everything"), "--scope takes one of"),
        (("create", "--requests-per-minute", "0"), "must be from 1"),
        (("create", "--expires", "soon"), "not a duration"),
        (("create", "--expires", "0"), "expires at once"),
        (("create", "--name", "x" * 101), "at most 100"),
    ):
        ran = program("key", *words)
        assert ran.code == 2 and said in ran.err, words
    assert not (program.home / "keys.json").exists()
    elsewhere = program("--host", "192.0.2.1", "key", "create")
    assert elsewhere.code == 2 and "192.0.2.1" in elsewhere.err


def test_a_damaged_file_is_not_overwritten(program: Program) -> None:
    program.home.mkdir()
    (program.home / "keys.json").write_text("{")
    for words in (("create",), ("list",), ("revoke", "k_1"), ()):
        ran = program("key", *words) if words else program("serve", "--port", "0")
        assert ran.code == 2 and "damaged" in ran.err
    assert (program.home / "keys.json").read_text() == "{"
