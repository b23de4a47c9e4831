"""Numbers and names out of foreign text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.hardware import quantities as q

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32K", 32 << 10),
        ("64 KiB", 64 << 10),
        ("24576MiB", 24576 * MIB),
        ("24564 MiB", 24564 * MIB),
        ("1.5 MiB (2 instances)", 3 * MIB // 2),
        ("16 GB", 16 << 30),
        ("12", 12),
        ("[N/A]", None),
        ("-1 MiB", None),
        ("9999999999 TB", None),
        ("12 bananas", None),
        ("", None),
        (None, None),
    ],
)
def test_sizes(text: str | None, expected: int | None) -> None:
    assert q.size(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        ("7", 7),
        (" 7\n", 7),
        (True, None),
        (7.0, None),
        ("7.0", None),
        ("-7", None),
        (-7, None),
        ("٧", None),
        ("9" * 30, None),
    ],
)
def test_whole_numbers(value: object, expected: int | None) -> None:
    assert q.whole(value) == expected


def test_bounds() -> None:
    assert (q.whole(5, 5, 6), q.whole(4, 5, 6), q.whole(7, 5, 6)) == (5, None, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("00000000:0A:00.0", "0000:0a:00.0"),
        ("0000000F:01:00.0", "000f:01:00.0"),
        ("0000:C4:00.0", "0000:c4:00.0"),
        ("c4:00.1", "0000:c4:00.1"),
        ("10000:e1:00.0", "10000:e1:00.0"),
        ("", None),
        ("N/A", None),
        ("0000:01:00", None),
        (5, None),
    ],
)
def test_addresses(value: object, expected: str | None) -> None:
    assert q.pci_address(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-3,8\n", {0, 1, 2, 3, 8}), ("5", {5}), ("", set()), ("a", set()), ("1-", set()), ("3-1", set()), ("0-999999", set())],
)
def test_lists_of_numbers(text: str, expected: set[int]) -> None:
    assert q.numbers(text) == expected
    assert q.members(text) == (len(expected) or None)


@pytest.mark.parametrize(
    ("value", "expected"), [("550.54.14", "550.54.14"), ("12.4", "12.4"), ("", None), ("N/A", None), (5, None)]
)
def test_versions(value: object, expected: str | None) -> None:
    assert q.version(value) == expected


@given(st.text())
def test_labels_are_short_and_printable(text: str) -> None:
    found = q.label(text)
    assert found is None or (0 < len(found) <= q.MAX_TEXT and found.isprintable() and found == found.strip())


@given(st.text())
def test_nothing_raises(text: str) -> None:
    q.size(text), q.whole(text), q.version(text), q.pci_address(text), q.numbers(text), q.document(text), q.field(text, "name")
