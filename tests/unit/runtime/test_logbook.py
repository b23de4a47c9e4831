"""What engines wrote is kept: the newest lines of each model, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime, timezone

import pytest

from zhibei.runtime.logbook import MAX_LINE_CHARS, Logbook, LogLine

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.fixture
def book() -> Logbook:
    return Logbook(now=lambda: NOW, max_lines=5, max_bytes=1000, max_models=2)


def texts(book: Logbook, name: str = "m", num_lines: int | None = None) -> list[str]:
    return [line.text for line in book.lines(name, num_lines)]


def test_lines_and_their_times(book: Logbook) -> None:
    book.write("m", "one")
    book.write("m", "two\nthree\r\n")
    assert book.lines("m")[0] == LogLine(NOW, "one")
    assert texts(book) == ["one", "two", "three"]
    assert (texts(book, num_lines=2), texts(book, num_lines=0), texts(book, num_lines=9)) == (["two", "three"], [], texts(book))
    assert (book.lines("other"), book.names()) == ((), ("m",))


def test_a_hundred_thousand_lines_are_no_harm() -> None:
    book = Logbook(max_lines=100, max_bytes=1 << 16)
    for number in range(100_000):
        book.write("m", str(number))
    assert texts(book) == [str(number) for number in range(99_900, 100_000)]


def test_bytes_are_bounded_and_so_is_a_line(book: Logbook) -> None:
    for letter in "abc":
        book.write("m", letter * 400)
    assert [text[0] for text in texts(book)] == ["b", "c"]
    book.write("m", "好" * 400)
    assert texts(book) == ["好" * 400], "the last line is always kept"
    book.write("m", "x" * 10_000_000)
    assert len(texts(book)[0]) == MAX_LINE_CHARS and texts(book)[0].endswith("…")


def test_of_too_many_models_those_that_wrote_last_are_kept(book: Logbook) -> None:
    for name in ("a", "b", "a", "c"):
        book.write(name, name)
    assert book.names() == ("a", "c")


async def take(lines: AsyncGenerator[LogLine, None], num: int) -> list[str]:
    return [(await asyncio.wait_for(anext(lines), 5)).text for _ in range(num)]


async def test_following(book: Logbook) -> None:
    book.write("m", "one")
    book.write("m", "two")
    async with aclosing(book.follow("m", 1)) as lines:
        assert await take(lines, 1) == ["two"]
        waiting = asyncio.ensure_future(take(lines, 2))
        await asyncio.sleep(0)
        book.write("other", "not this")
        book.write("m", "three\nfour")
        assert await waiting == ["three", "four"]


async def test_following_all_that_is_kept_and_only_what_is_new(book: Logbook) -> None:
    book.write("m", "one")
    async with aclosing(book.follow("m", None)) as everything, aclosing(book.follow("m")) as new:
        waiting = asyncio.ensure_future(take(new, 1))
        await asyncio.sleep(0)
        book.write("m", "two")
        assert await take(everything, 2) == ["one", "two"]
        assert await waiting == ["two"]


async def test_following_a_model_that_has_not_written_yet(book: Logbook) -> None:
    async with aclosing(book.follow("m")) as lines:
        waiting = asyncio.ensure_future(take(lines, 1))
        await asyncio.sleep(0)
        book.write("m", "first")
        assert await waiting == ["first"]


async def test_who_reads_slowly_misses_lines_and_goes_on(book: Logbook) -> None:
    book.write("m", "0")
    async with aclosing(book.follow("m", None)) as lines:
        assert await take(lines, 1) == ["0"]
        for number in range(1, 100):
            book.write("m", str(number))
        assert await take(lines, 5) == ["95", "96", "97", "98", "99"]


async def test_a_page_that_was_dropped_and_begun_anew(book: Logbook) -> None:
    book.write("m", "old")
    async with aclosing(book.follow("m", None)) as lines:
        assert await take(lines, 1) == ["old"]
        for name in ("a", "b", "m"):
            book.write(name, "new")
        assert await take(lines, 1) == ["new"]


async def test_a_follower_that_leaves_leaves_nothing(book: Logbook) -> None:
    lines = book.follow("m")
    waiting = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await lines.aclose()
    book.write("m", "x")
    assert texts(book) == ["x"]
