"""Bytes, counts and durations to text and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.errors import BadRequest
from zhibei.units import format_bytes, format_count, format_duration, parse_bytes, parse_keep_alive


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (100 * 1024, "100 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**2, "1.0 MiB"),
        (98362432, "93.8 MiB"),
        (1024**3 - 1, "1.0 GiB"),
        (16 * 1024**3, "16.0 GiB"),
        (1024**5, "1024 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_bytes_for_people(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1024B", 1024),
        ("8GiB", 8 * 1024**3),
        ("8 gib", 8 * 1024**3),
        ("8Gi", 8 * 1024**3),
        ("500 MB", 500_000_000),
        ("500m", 500_000_000),
        ("1.5KiB", 1536),
        ("0.1 KB", 100),
        (" 2 TiB ", 2 * 1024**4),
        ("9007199254740993", 9007199254740993),
        ("999999999999999999", 999999999999999999),
    ],
)
def test_bytes_of_people(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "GiB",
        "-1",
        "+1",
        "1e3",
        "1.",
        ".5",
        "1 PiB",
        "1 2",
        "1,5",
        "nan",
        "inf",
        "0x10",
        "٣",
        "1_000",
        "9" * 400,
        "1." + "0" * 400,
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_bytes(text)
    assert caught.value.hint_text


@given(st.integers(0, 2**60))
def test_written_bytes_read_back_as_nearly_the_same(num_bytes: int) -> None:
    assert math.isclose(parse_bytes(format_bytes(num_bytes)), num_bytes, rel_tol=0.06)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0K"),
        (999_949, "999.9K"),
        (999_950, "1.0M"),
        (134_515_008, "134.5M"),
        (999_999_999, "1.0B"),
        (7_615_616_512, "7.6B"),
        (2 * 10**12, "2.0T"),
    ],
)
def test_counts(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (1.24, "1.2s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (12, "12s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (75, "1m15s"),
        (3599.6, "1h00m"),
        (3600, "1h00m"),
        (86400, "24h00m"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300.0),
        ("30", 30.0),
        ("30s", 30.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("2D", 172800.0),
        (" 10s ", 10.0),
        ("0", 0.0),
        ("-0", 0.0),
        (0, 0.0),
        (-0.0, 0.0),
        (90, 90.0),
        (0.5, 0.5),
        ("forever", None),
        ("FOREVER", None),
        ("inf", None),
        ("-1", None),
        ("-5m", None),
        (-1, None),
        (-0.5, None),
        (-math.inf, None),
        (10**9, 1e9),
    ],
)
def test_keep_alive(text: str | float, seconds: float | None) -> None:
    assert parse_keep_alive(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "5 m",
        "5w",
        "1e3",
        "nan",
        "--5",
        "+5",
        "1.",
        "٥m",
        "9" * 30,
        "999999999d",
        "1000000001",
        True,
        math.nan,
        math.inf,
        1e30,
        10**40,
    ],
)
def test_what_is_no_duration(text: str | float) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_keep_alive(text)
    assert caught.value.hint_text
    assert "keep" not in str(caught.value) and str(text)[:20] in str(caught.value)


@given(st.one_of(st.floats(), st.integers(), st.text(max_size=12)))
def test_a_duration_is_never_negative_and_fits_a_calendar(text: str | float) -> None:
    try:
        seconds = parse_keep_alive(text)
    except BadRequest:
        return
    assert seconds is None or 0 <= seconds <= 10**9
