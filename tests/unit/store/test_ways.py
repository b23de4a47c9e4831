"""From a reference to the sources that are tried, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.errors import ModelNotFound
from zhibei.refs import ModelName, ModelRef
from zhibei.store.catalog import Catalog
from zhibei.store.digests import Digest
from zhibei.store.ways import Way, is_closer, rivals, variants_of, ways_to, with_first

HEAD = 'title = "T"\nlicence = "MIT"\nlanguages = ["en"]\ntasks = ["generate"]\n'
TEXT = f"""
[[model]]
name = "tiny:2b"
default = true
{HEAD}
sources = [
    {{ ref = "hf:o/Tiny-GGUF" }},
    {{ ref = "ms:other/Tiny-GGUF" }},
    {{ ref = "pypi:llm-tiny", size_bytes = 5, sha256 = "{"ab" * 32}" }},
]
"""
NAME = ModelName("tiny", "2b")
MINE = ModelName("mine")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    (tmp_path / "catalog.toml").write_text(TEXT, encoding="utf-8")
    return Catalog(tmp_path / "catalog.toml")


def refs(ways: tuple[Way, ...]) -> list[str]:
    return [str(way.ref) for way in ways]


def to(text: str, catalog: Catalog, name: ModelName | None = None) -> tuple[Way, ...]:
    return ways_to(ModelRef.parse(text), name, catalog)


class TestWays:
    def test_a_name_of_the_catalogue_leads_to_all_its_sources(self, catalog: Catalog) -> None:
        ways = to("tiny", catalog)
        assert refs(ways) == ["hf:o/Tiny-GGUF", "ms:other/Tiny-GGUF", "pypi:llm-tiny"]
        assert all((way.name, way.licence, way.may_replace, way.is_second) == (NAME, "MIT", True, False) for way in ways)
        assert (ways[2].size_bytes, ways[2].digest) == (5, Digest("ab" * 32))

    def test_under_a_name_of_ones_own_it_replaces_nothing(self, catalog: Catalog) -> None:
        assert {(way.name, way.may_replace) for way in to("tiny:2b", catalog, MINE)} == {(MINE, False)}

    def test_an_unknown_name_says_where_to_look(self, catalog: Catalog) -> None:
        with pytest.raises(ModelNotFound) as caught:
            to("nothing", catalog)
        assert "zhibei search nothing" in (caught.value.hint_text or "")

    def test_a_repository_is_looked_for_at_the_other_hub_too(self, catalog: Catalog) -> None:
        for here, there in (("hf:a/b:Q8_0", "ms:a/b:Q8_0"), ("ms:a/b", "hf:a/b")):
            first, second = to(here, catalog, MINE)
            assert first == Way(ModelRef.parse(here), MINE)
            assert second == Way(ModelRef.parse(there), MINE, is_second=True)

    def test_but_not_a_revision_that_only_the_one_knows(self, catalog: Catalog) -> None:
        assert refs(to("hf:a/b@v1.0:Q8_0", catalog)) == ["hf:a/b@v1.0:Q8_0"]

    def test_where_the_catalogue_has_it_elsewhere_that_is_the_second_way(self, catalog: Catalog) -> None:
        first, *others = to("hf:o/Tiny-GGUF", catalog)
        assert (str(first.ref), first.is_second, first.name) == ("hf:o/Tiny-GGUF", False, None)
        assert refs(tuple(others)) == ["ms:other/Tiny-GGUF", "pypi:llm-tiny"]
        assert all(way.is_second and not way.may_replace and way.name == NAME for way in others)

    @pytest.mark.parametrize("text", ["pypi:llm-tiny", "ollama:tiny", "https://a.example/x.gguf", "./x.gguf"])
    def test_other_sources_are_the_only_way(self, catalog: Catalog, text: str) -> None:
        assert refs(to(text, catalog)) == [str(ModelRef.parse(text))]


class TestOrder:
    def test_hubs_of_a_name_are_rivals(self, catalog: Catalog) -> None:
        ways = to("tiny", catalog)
        assert refs(rivals(ways)) == ["hf:o/Tiny-GGUF", "ms:other/Tiny-GGUF"]
        assert rivals(ways[1:]) == ()

    def test_a_makeshift_is_no_rival(self, catalog: Catalog) -> None:
        assert rivals(to("hf:a/b", catalog)) == ()

    def test_the_faster_hub_comes_first_and_the_rest_stay(self, catalog: Catalog) -> None:
        ways = to("tiny", catalog)
        assert refs(with_first(ways, "ms")) == ["ms:other/Tiny-GGUF", "hf:o/Tiny-GGUF", "pypi:llm-tiny"]
        assert with_first(ways, "hf") == ways
        mixed = (ways[2], ways[0], ways[1])
        assert refs(with_first(mixed, "ms")) == ["pypi:llm-tiny", "ms:other/Tiny-GGUF", "hf:o/Tiny-GGUF"]

    @given(st.lists(st.sampled_from(["hf", "ms", "pypi", "url"]), max_size=6), st.sampled_from(["hf", "ms", "none"]))
    def test_ordering_loses_no_way_and_makes_none(self, sources: list[str], hub: str) -> None:
        ways = tuple(Way(ModelRef(source, f"a/{number}"), None) for number, source in enumerate(sources))
        ordered = with_first(ways, hub)
        assert sorted(ordered, key=str) == sorted(ways, key=str)
        assert [way for way in ordered if way.ref.source not in ("hf", "ms")] == [
            way for way in ways if way.ref.source not in ("hf", "ms")
        ]


class TestRecordedSources:
    @pytest.mark.parametrize(
        ("source", "ref"),
        [
            ("hf:o/n", "hf:o/n"),
            ("hf:o/n:Q4_K_M", "hf:o/n"),
            ("ms:o/n:Q4_K_M", "ms:o/n"),
            ("hf:o/n@v1:Q4_K_M", "hf:o/n@v1"),
            ("file:/x.gguf", "file:/x.gguf"),
        ],
    )
    def test_that_are_what_was_asked_for(self, source: str, ref: str) -> None:
        assert is_closer(source, ref)

    @pytest.mark.parametrize(
        ("source", "ref"),
        [
            ("hf:o/n", "hf:o/n:Q4_K_M"),
            ("hf:o/n:Q4_K_M", "hf:o/n:Q8_0"),
            ("hf:o/n:Q4_K_M", "ms:o/n"),
            ("hf:o/name:Q4_K_M", "hf:o/n"),
            ("hf:o/n@v1:Q4_K_M", "hf:o/n"),
            ("hf:o/n:draft-x-Q8_0.gguf", "hf:o/n"),
            ("ollama:tiny:2b", "ollama:tiny"),
            ("file:/x:y", "file:/x"),
            ("", "hf:o/n"),
        ],
    )
    def test_that_are_not(self, source: str, ref: str) -> None:
        assert not is_closer(source, ref)

    def test_name_the_variants_that_are_here(self) -> None:
        sources = ("hf:o/n:Q4_K_M", "hf:o/n:Q8_0", "ms:o/n:Q2_K", "hf:o/n", "hf:o/n:x.gguf", "", "hf:o/n@v1:F16")
        assert variants_of("hf:o/n", sources) == {"Q4_K_M", "Q8_0"}
        assert variants_of("hf:o/n@v1", sources) == {"F16"}
        assert variants_of("hf:o/n:Q4_K_M", sources) == frozenset()
