"""Stop strings in text that comes in pieces: nothing of them is ever shown, and nothing else is lost or late."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zhibei.text.stops import StopMatcher


def feed(stops: tuple[str, ...], pieces: Iterable[str]) -> tuple[list[str], str, bool]:
    """(what each piece let out, what the end let out, whether it stopped)."""
    matcher = StopMatcher(stops)
    shown = [matcher.feed(piece) for piece in pieces]
    return shown, matcher.finish(), matcher.stopped


@pytest.mark.parametrize(
    ("stops", "text", "shown", "rest", "stopped"),
    [
        ((), "abc", "a|b|c", "", False),
        (("",), "abc", "a|b|c", "", False),
        (("x",), "abc", "a|b|c", "", False),
        (("b",), "abc", "a||", "", True),
        (("bc",), "abcd", "a|||", "", True),
        (("bx",), "abc", "a||bc", "", False),
        (("bcx",), "abc", "a||", "bc", False),
        (("aab",), "aaab", "||a|", "", True),
        (("aab",), "aaaab", "||a|a|", "", True),
        (("abab",), "abaab", "|||aba|", "ab", False),
        (("###", "##\n"), "a##b", "a|||##b", "", False),
        (("###", "##\n"), "a##\nb", "a||||", "", True),
        (("ab", "abc"), "xabc", "x|||", "", True),
        (("abcd", "bc"), "abcd", "||a|", "", True),
        (("</s>", "<|im_end|>"), "a<|im", "a||||", "<|im", False),
        (("</s>", "<|im_end|>"), "<|im_end|>", "|" * 9, "", True),
        (("\n\n",), "a\nb\n\nc", "a||\nb|||", "", True),
        (("停",), "请停下", "请||", "", True),
        (("👩‍🔬",), "👩‍🎓", "||👩‍🎓", "", False),
        (("👩‍🔬",), "a👩‍🔬b", "a||||", "", True),
        (("é",), "e\N{COMBINING ACUTE ACCENT}", "e|\N{COMBINING ACUTE ACCENT}", "", False),
    ],
)
def test_one_character_at_a_time(stops: tuple[str, ...], text: str, shown: str, rest: str, stopped: bool) -> None:
    assert feed(stops, text) == (shown.split("|"), rest, stopped)


def test_after_a_stop_nothing_more_comes_out() -> None:
    matcher = StopMatcher(("b",))
    assert [matcher.feed("ab"), matcher.feed("cd"), matcher.feed("b"), matcher.finish()] == ["a", "", "", ""]
    assert matcher.stopped


def test_a_stop_within_one_piece() -> None:
    assert feed(("END",), ["one END two"]) == (["one "], "", True)
    assert feed(("END",), ["one E", "", "ND two"]) == (["one ", "", ""], "", True)


def test_what_is_held_back_is_given_once() -> None:
    matcher = StopMatcher(("xyz",))
    assert [matcher.feed("axy"), matcher.finish(), matcher.finish()] == ["a", "xy", ""]


def split(text: str, cuts: list[int]) -> list[str]:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


letters = st.text("ab<\n", max_size=24)


@given(
    st.lists(st.text("ab<\n", min_size=1, max_size=5), max_size=3).map(tuple), letters, st.lists(st.integers(0, 24), max_size=6)
)
@example(("abcd", "bc"), "abcd", [])
def test_however_it_is_cut_the_result_is_the_same(stops: tuple[str, ...], text: str, cuts: list[int]) -> None:
    by_letter, letter_rest, letter_stopped = feed(stops, text)
    by_piece, piece_rest, piece_stopped = feed(stops, split(text, cuts))
    assert ("".join(by_piece) + piece_rest, piece_stopped) == ("".join(by_letter) + letter_rest, letter_stopped)
    whole = "".join(by_letter) + letter_rest
    assert text.startswith(whole)
    assert not any(stop in whole for stop in stops)
    assert letter_stopped == any(stop in text for stop in stops)
    assert letter_stopped or whole == text


@given(st.lists(st.text("ab<\n", min_size=1, max_size=5), min_size=1, max_size=3).map(tuple), letters)
def test_no_more_is_held_back_than_may_become_a_stop(stops: tuple[str, ...], text: str) -> None:
    matcher = StopMatcher(stops)
    shown = ""
    for position, letter in enumerate(text, 1):
        shown += matcher.feed(letter)
        if matcher.stopped:
            return
        held = text[len(shown) : position]
        assert not held or any(stop.startswith(held) for stop in stops)
