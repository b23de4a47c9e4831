"""Cutting Markdown: the blocks must not depend on how the text arrives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.cli.blocks import Blocks

CASES = [
    ("one\n\ntwo", ["one"], "two"),
    ("a\nb\n\nc\n\n", ["a\nb"], "c"),
    ("# title\ntext", ["# title"], "text"),
    ("text\n# title\n", ["text", "# title"], ""),
    ("```py\na\n\nb\n```\nafter", ["```py\na\n\nb\n```"], "after"),
    ("text\n```\ncode\n```\n", ["text", "```\ncode\n```"], ""),
    ("```\nnever closed\n\nstill code", [], "```\nnever closed\n\nstill code"),
    ("````\n```\n````\n", ["````\n```\n````"], ""),
    ("- a\n\n- b\n\n  more of b\n\nafter", ["- a\n\n- b\n\n  more of b"], "after"),
    ("1. a\n   ```\n   code\n\n   ```\n2. b\n\nend", ["1. a\n   ```\n   code\n\n   ```\n2. b"], "end"),
    ("\n\n\ntext\n", [], "text"),
    ("| a |\n|---|\n| b |\n\nx", ["| a |\n|---|\n| b |"], "x"),
]


@pytest.mark.parametrize(("text", "blocks", "rest"), CASES)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_cut(text: str, blocks: list[str], rest: str, size: int) -> None:
    cutter = Blocks()
    found: list[str] = []
    for start in range(0, len(text), size):
        found += cutter.feed(text[start : start + size])
    assert found == blocks
    assert cutter.open == rest
    assert cutter.finish() == rest
    assert cutter.open == ""


@given(st.lists(st.text(alphabet="a`~#-1. \n|>", max_size=12), max_size=12))
def test_nothing_is_lost(pieces: list[str]) -> None:
    cutter = Blocks()
    found = [block for piece in pieces for block in cutter.feed(piece)] + [cutter.finish()]
    assert "".join("".join(found).split()) == "".join("".join(pieces).split())
