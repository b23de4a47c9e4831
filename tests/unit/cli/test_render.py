"""Columns, not characters."""

from __future__ import annotations

import pytest

from zhibei.cli.render import columns, cut, cut_middle, definitions, named_table, pad, pairs, printable, table, wrap


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("模型", 4), ("a模", 3), ("e\u0301", 1), ("ﾊ", 1), ("Ａ", 2), ("", 0), ("\u200b", 0)]
)
def test_columns(text: str, width: int) -> None:
    assert columns(text) == width


def test_pad_and_cut() -> None:
    assert pad("模", 4) == "模  "
    assert pad("模", 4, right=True) == "  模"
    assert pad("long", 2) == "long"
    assert cut("模型名称", 5) == "模型…"
    assert cut("short", 9) == "short"


def test_a_table_of_mixed_width() -> None:
    assert table(["名称", "SIZE"], [["a", "1"], ["模型模型", "10"]], right=(1,)) == [
        "名称      SIZE",
        "a            1",
        "模型模型    10",
    ]


def test_a_cell_is_one_line_without_control_characters() -> None:
    assert table(["A"], [["x\ny\tz\x1b[31m"]]) == ["A", "x y z[31m"]


def test_pairs() -> None:
    assert pairs([("a", "1"), ("long", "2")]) == ["a     1", "long  2"]
    assert pairs([]) == []


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("the quick brown fox", 10, ["the quick", "brown fox"]),
        ("unbreakable words", 5, ["unbreakable", "words"]),
        ("模型在首次被请求时加载。", 10, ["模型在首次", "被请求时加", "载。"]),
        ("请求时加载，然后", 10, ["请求时加载，", "然后"]),
        ("用 --json 输出", 9, ["用 --json", "输出"]),
        ("", 10, []),
        ("   ", 10, []),
    ],
)
def test_wrap(text: str, width: int, lines: list[str]) -> None:
    assert wrap(text, width) == lines


def test_definitions() -> None:
    rows = [("-a", "short"), ("--a-very-long-option-with-a VALUE", "its meaning"), ("-b", "")]
    assert definitions(rows, 40, left=10) == [
        "  -a          short",
        "  --a-very-long-option-with-a VALUE",
        "              its meaning",
        "  -b",
    ]


def test_printable() -> None:
    assert printable("plain 文字 🙂\n\tnext") == "plain 文字 🙂\n\tnext"
    assert printable("a\x1b[2Jb\x07c\rd\x9be\x00") == "a[2Jbcde"
    assert printable("lone \ud800 surrogate") == "lone  surrogate"


def test_a_file_name_keeps_its_end_when_it_is_cut() -> None:
    assert cut_middle("short.gguf", 12) == "short.gguf"
    assert cut_middle("a-very-long-name-Q4_K_M.gguf", 16) == "a-very-…K_M.gguf"
    assert columns(cut_middle("很长很长很长的名字.gguf", 12)) <= 12


def test_names_in_a_table_are_never_cut() -> None:
    lines = named_table(("NAME", "SIZE"), [("short", "1 KiB"), ("n" * 30, "12 KiB")], 24, right=(1,))
    assert lines == ["NAME     SIZE", "short   1 KiB", "n" * 30, "       12 KiB"]
