"""File names from outside (D-08): the rules of POSIX and of Windows hold everywhere."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zhibei.errors import SourceError
from zhibei.store.filenames import check_distinct, check_file_name, check_relative, harmless

GOOD = [
    "model.gguf", "a/b/c.gguf", "Modell-Größe.gguf", "模型/权重.gguf", "a b.gguf", ".hidden", "a..b", "consult.txt", "com.txt",
]  # fmt: skip
BAD = [
    "", ".", "..", "../x", "a/../../x", "/abs", "//x", "a//b", "a/", "./a", "a/.", "C:\\x", "C:/x", "D:x", "\\\\h\\s\\x",
    "a\\..\\..\\x", "a\\b", "con", "con.txt", "CON.gguf", "nul", "aux.tar.gz", "com1", "lpt9.x", "com¹", "x.", "x ", " x",
    "a/x. /b", "x\0y", "a\nb", "a\x7fb", "x" * 300, "/".join(["abc"] * 400), ".git/config", "a/.GIT/hooks", "a:b", "a*b", "a?b",
    'a"b', "a<b", "a|b", "\u2025", "\uff0e\uff0e/x", "a\uff0fb", "a\uff3cb", "\u2024\u2024/x", "x\u202egnp.exe", "a\u200bb",
    "\ud800", "ｃｏｎ",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_harmless_names_are_taken(name: str) -> None:
    assert str(check_relative(name)) == name


@pytest.mark.parametrize("name", BAD)
def test_others_are_refused(name: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_relative(name)
    assert str(caught.value).isprintable()


def test_a_file_name_has_no_directory() -> None:
    assert check_file_name("a.gguf") == "a.gguf"
    with pytest.raises(SourceError):
        check_file_name("a/b.gguf")


@pytest.mark.parametrize("names", [("a", "A"), ("é", "e\u0301"), ("ß", "SS"), ("ﬁ", "fi"), ("x", "x")])
def test_names_that_a_file_system_may_take_for_one(names: tuple[str, str]) -> None:
    with pytest.raises(SourceError):
        check_distinct(names)
    check_distinct(("a", "b", "c"))


@given(st.text(max_size=300))
@example("con.gguf")
@example("a/COM0")
@example("nul" + "." * 300)
def test_what_is_made_harmless_passes_the_rules(name: str) -> None:
    assert "/" not in harmless(name)
    check_file_name(harmless(name))


@given(st.text(alphabet=st.sampled_from("ab./\\: ~\0\u2024Cc1"), max_size=12))
def test_what_passes_stays_below_any_directory(name: str) -> None:
    try:
        path = check_relative(name)
    except SourceError:
        return
    assert not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
