"""Who is let in: one check, whichever header the key came in."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from zhibei.errors import BadSetting, NotPermitted
from zhibei.server.access import SCOPES, Scope
from zhibei.server.ask import ANYBODY, NOBODY, Caller
from zhibei.server.auth import MAX_WRONG_KEYS, SETTING_ID, WINDOW_S, Keeper, KeyNeeded, TooManyWrongKeys
from zhibei.server.keys import KeyFile, KeyLimits

KEY = "correct horse"


def check(keeper: Keeper, *headers: tuple[str, str], scope: Scope | None = "read", address: str = "a") -> Caller:
    return keeper.admit(scope, [(name.encode(), value.encode()) for name, value in headers], address)[0]


def test_without_a_key_configured_everybody_may_do_everything() -> None:
    for scope in (None, *SCOPES):
        assert check(Keeper(None), scope=scope) == ANYBODY


HEADERS = [
    ("authorization", f"Bearer {KEY}"),
    ("authorization", f"bEaReR  {KEY} "),
    ("x-api-key", KEY),
    ("api-key", KEY),
    ("x-goog-api-key", KEY),
]


@pytest.mark.parametrize("header", HEADERS)
def test_the_key_is_taken_from_every_header_that_clients_use(header: tuple[str, str]) -> None:
    for scope in SCOPES:
        assert check(Keeper(KEY), header, scope=scope) == Caller(SETTING_ID, frozenset(SCOPES))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", KEY)],
        [("authorization", f"Basic {KEY}")],
        [("authorization", "Bearer ")],
        [("x-api-key", KEY + "x")],
        [("x-api-key", KEY[:-1])],
        [("x-api-key", "")],
        [("cookie", f"key={KEY}")],
        [("x-key", KEY)],
        [("proxy-authorization", f"Bearer {KEY}")],
        [("authorization", "Bearer wrong"), ("x-api-key", KEY)],
    ],
)
def test_everything_else_is_refused(headers: list[tuple[str, str]]) -> None:
    for scope in SCOPES:
        with pytest.raises(KeyNeeded):
            check(Keeper(KEY), *headers, scope=scope)


def test_what_is_public_needs_no_key_and_a_wrong_one_does_not_matter() -> None:
    assert check(Keeper(KEY), scope=None) == check(Keeper(KEY), ("x-api-key", "wrong"), scope=None) == NOBODY


def test_a_key_of_the_file_opens_what_it_is_for(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    limits = KeyLimits(5, 6, 7)
    chat, chat_text = file.create("", ("chat",), limits)
    admin, admin_text = file.create("", ("admin",))
    keeper = Keeper(None, file)
    assert keeper.admit("chat", [(b"x-api-key", chat_text.encode())], "a") == (Caller(chat.id, frozenset(("chat",))), limits)
    for scope in ("read", "admin"):
        with pytest.raises(NotPermitted, match=f"scope {scope}") as caught:
            check(keeper, ("x-api-key", chat_text), scope=scope)  # type: ignore[arg-type]
        assert not isinstance(caught.value, KeyNeeded)
    for scope in SCOPES:
        assert check(keeper, ("api-key", admin_text), scope=scope) == Caller(admin.id, frozenset(SCOPES))


def test_the_settings_key_and_the_files_hold_side_by_side(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    key, text = file.create("", ("read",))
    keeper = Keeper(KEY, file)
    assert check(keeper, ("x-api-key", KEY)).id == SETTING_ID
    assert check(keeper, ("x-api-key", text)).id == key.id


def test_a_revoked_key_opens_nothing_from_then_on_and_the_server_stays_closed(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    keeper = Keeper(None, file)
    assert not keeper.needs_key()
    key, text = KeyFile(tmp_path).create("", ("read",))
    assert keeper.needs_key() and keeper.holds(key.id)
    assert check(keeper, ("x-api-key", text)).id == key.id
    KeyFile(tmp_path).revoke(key.id)
    assert not keeper.holds(key.id) and keeper.needs_key()
    for headers in ([], [("x-api-key", text)]):
        with pytest.raises(KeyNeeded):
            check(keeper, *headers)
    file.path.unlink()
    with pytest.raises(KeyNeeded):
        check(keeper)


def test_an_expired_key_says_so(tmp_path: Path) -> None:
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    key, text = KeyFile(tmp_path).create("", ("read",), expires_at=past)
    keeper = Keeper(None, KeyFile(tmp_path))
    assert keeper.needs_key() and not keeper.holds(key.id)
    with pytest.raises(KeyNeeded, match="expired"):
        check(keeper, ("x-api-key", text))


def test_a_damaged_file_opens_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = KeyFile(tmp_path)
    _, text = file.create("", ("read",))
    keeper, fresh = Keeper(KEY, file), Keeper(None, KeyFile(tmp_path))
    good = file.path.read_text()
    file.path.write_text("{")
    with pytest.raises(BadSetting):
        fresh.needs_key()
    for _ in range(3):
        for each in (keeper, fresh):
            for headers in ([], [("x-api-key", text)]):
                with pytest.raises(KeyNeeded):
                    check(each, *headers)
    assert check(keeper, ("x-api-key", KEY)).id == SETTING_ID
    assert len(caplog.records) == 2 and json.loads(good)["keys"][0]["sha256"] not in caplog.text
    file.path.write_text(good)
    assert check(keeper, ("x-api-key", text)).id.startswith("k_")


@pytest.mark.parametrize("wrong", ["x" * len(KEY), "x" * (len(KEY) + 1), ""])
def test_keys_are_compared_as_hashes_in_constant_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str) -> None:
    file = KeyFile(tmp_path)
    texts = [file.create("", ("read",))[1] for _ in range(3)]
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    def digest(text: str) -> bytes:
        return hashlib.sha256(text.encode()).digest()

    monkeypatch.setattr(hmac, "compare_digest", compare)
    with pytest.raises(KeyNeeded):
        check(Keeper(KEY, file), ("x-api-key", wrong))
    assert compared == [(digest(wrong), digest(text)) for text in (KEY, *texts)]
    # A right one is compared with all others as well, so that the time does not tell which it was.
    compared.clear()
    check(Keeper(KEY, file), ("x-api-key", KEY))
    assert compared == [(digest(KEY), digest(text)) for text in (KEY, *texts)]


def test_guessing_is_refused_after_ten_different_keys_until_a_minute_has_passed() -> None:
    now = [0.0]
    keeper = Keeper(KEY, clock=lambda: now[0])
    for number in range(MAX_WRONG_KEYS):
        with pytest.raises(KeyNeeded):
            check(keeper, ("x-api-key", f"guess {number}"))
    for key in ("another guess", KEY):
        with pytest.raises(TooManyWrongKeys):
            check(keeper, ("x-api-key", key))
    check(keeper, ("x-api-key", KEY), address="b")
    now[0] = WINDOW_S + 1
    check(keeper, ("x-api-key", KEY))


def test_one_wrong_key_again_and_again_locks_nobody_out() -> None:
    keeper = Keeper(KEY)
    for _ in range(5 * MAX_WRONG_KEYS):
        with pytest.raises(KeyNeeded):
            check(keeper, ("x-api-key", "an old key"))
    check(keeper, ("x-api-key", KEY))


def test_what_is_remembered_of_guesses_is_bounded() -> None:
    keeper = Keeper(KEY)
    for number in range(5000):
        with pytest.raises(KeyNeeded):
            check(keeper, ("x-api-key", "wrong"), address=str(number))
    assert len(keeper._wrong) <= 1024
