from __future__ import annotations

import hashlib
import hmac

import pytest

from zhibei.server.auth import MAX_WRONG_KEYS, WINDOW_S, Keeper, KeyNeeded, TooManyWrongKeys

KEY = "correct horse"


def check(keeper: Keeper, *headers: tuple[str, str], method: str = "GET", path: str = "/v1/models", address: str = "a") -> None:
    keeper.check(method, path, [(name.encode(), value.encode()) for name, value in headers], address)


def test_without_a_key_configured_everybody_may_ask() -> None:
    check(Keeper(None))


@pytest.mark.parametrize("header", [("authorization", f"Bearer {KEY}"), ("authorization", f"bEaReR  {KEY} "), ("x-api-key", KEY)])
def test_the_key_is_taken_from_either_header(header: tuple[str, str]) -> None:
    check(Keeper(KEY), header)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", KEY)],
        [("authorization", f"Basic {KEY}")],
        [("authorization", "Bearer ")],
        [("x-api-key", KEY + "x")],
        [("x-api-key", KEY[:-1])],
        [("cookie", f"key={KEY}")],
        [("authorization", "Bearer wrong"), ("x-api-key", KEY)],
    ],
)
def test_everything_else_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(KeyNeeded):
        check(Keeper(KEY), *headers)


def test_only_health_is_public() -> None:
    check(Keeper(KEY), path="/health")
    for method, path in (("POST", "/health"), ("GET", "/health/"), ("GET", "/docs"), ("GET", "/nowhere"), ("GET", "/Health")):
        with pytest.raises(KeyNeeded):
            check(Keeper(KEY), method=method, path=path)


@pytest.mark.parametrize("wrong", ["x" * len(KEY), "x" * (len(KEY) + 1), ""])
def test_keys_are_compared_as_hashes_in_constant_time(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    with pytest.raises(KeyNeeded):
        check(Keeper(KEY), ("x-api-key", wrong))
    assert compared == [(hashlib.sha256(wrong.encode()).digest(), hashlib.sha256(KEY.encode()).digest())]


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
