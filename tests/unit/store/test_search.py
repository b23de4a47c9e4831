"""Search: what words mean, how hits are ranked and filtered, and that a hub which fails does not spoil the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from zhibei.errors import SourceError
from zhibei.refs import ModelName, ModelRef
from zhibei.store.catalog import Catalog, CatalogEntry, CatalogSource
from zhibei.store.options import FetchOptions
from zhibei.store.repositories import HubHit
from zhibei.store.search import (
    Filters,
    SearchHit,
    catalogue_hit,
    judged,
    merge,
    search,
    search_catalogue,
    search_hubs,
    shared_out,
)
from zhibei.store.sources.base import SourceContext, Variant


def entry(name: str, **facts: object) -> CatalogEntry:
    usual: dict[str, object] = {
        "title": name,
        "licence": "MIT",
        "languages": ("en",),
        "tasks": ("generate",),
        "sources": (CatalogSource(ModelRef.parse(f"hf:owner/{name.replace(':', '-')}")),),
        "commercial": True,
    }
    return CatalogEntry(name=ModelName.parse(name), **{**usual, **facts})  # type: ignore[arg-type]


ENTRIES = (
    entry("alpha:7b", num_parameters=7_000_000_000, is_default=True, title="Alpha 7B", released_on=date(2024, 1, 1)),
    entry("alpha:27b", num_parameters=27_000_000_000, title="Alpha 27B", released_on=date(2024, 1, 1)),
    entry("alpha:1b", num_parameters=1_000_000_000, strengths=("code",), title="Alpha 1B", released_on=date(2024, 1, 1)),
    entry("alpha2:7b", num_parameters=7_000_000_000, is_default=True, title="Alpha 2", released_on=date(2025, 1, 1)),
    entry("not-alpha:7b", num_parameters=7_000_000_000, title="Trained on Alpha", is_default=True),
    entry("beta-small:24b", num_parameters=24_000_000_000, title="Beta Small", languages=("zh", "en"), commercial=False),
    entry("embed-zh:v1", num_parameters=300_000_000, tasks=("embed",), languages=("zh",), aliases=(ModelName.parse("vectors"),)),
    entry("embed-all:v1", num_parameters=300_000_000, tasks=("embed",), languages=("en", "de", "zh"), licence="Gemma"),
    entry("order:v1", num_parameters=600_000_000, tasks=("rerank",), languages=("en",)),
    entry("talk:9b", num_parameters=9_000_000_000, strengths=("translation",), languages=("en", "zh")),
)


def found(*words: str, filters: Filters = Filters()) -> list[str]:
    return [hit.ref for hit in search_catalogue(words, ENTRIES, filters)]


class TestWords:
    @pytest.mark.parametrize(
        ("words", "refs"),
        [
            ("alpha2", ["alpha2:7b"]),
            ("alpha:27b", ["alpha:27b"]),
            ("ALPHA 7B", ["alpha:7b", "alpha2:7b", "not-alpha:7b"]),
            ("vectors", ["embed-zh:v1", "embed-all:v1"]),
            ("code", ["alpha:1b"]),
            ("代码", ["alpha:1b"]),
            ("写代码的小模型", ["alpha:1b"]),
            ("翻译", ["talk:9b"]),
            ("translate chinese", ["talk:9b"]),
            ("嵌入", ["embed-all:v1", "embed-zh:v1"]),
            ("中文嵌入小模型", ["embed-zh:v1", "embed-all:v1"]),
            ("chinese embedding", ["embed-zh:v1", "embed-all:v1"]),
            ("german", ["embed-all:v1"]),
            ("重排序", ["order:v1"]),
            ("gemma", ["embed-all:v1"]),
            ("alpha 翻译", []),
            ("xyzzy", []),
            ("模型", [str(item.name) for item in ENTRIES]),
        ],
    )
    def test_what_they_find(self, words: str, refs: list[str]) -> None:
        hits = found(words)
        assert (hits if len(refs) < len(ENTRIES) else sorted(hits)) == (refs if len(refs) < len(ENTRIES) else sorted(refs))

    def test_words_given_apart_or_together_are_the_same(self) -> None:
        assert found("chinese", "embedding") == found("chinese embedding") == found("中文", "嵌入")

    def test_a_size_does_not_find_a_longer_number(self) -> None:
        assert found("7b") == found("7B") and "alpha:27b" not in found("7b")

    def test_small_is_a_size_and_may_be_a_name_but_not_one_in_a_title(self) -> None:
        hits = found("small")
        assert hits[0] == "beta-small:24b"
        assert set(hits[1:]) == {"alpha:1b", "embed-zh:v1", "embed-all:v1", "order:v1"}

    def test_names_that_begin_so_come_first_then_defaults_then_the_newest(self) -> None:
        assert found("alpha") == ["alpha:7b", "alpha:1b", "alpha:27b", "alpha2:7b", "not-alpha:7b"]
        assert found("alp") == ["alpha2:7b", "alpha:7b", "alpha:1b", "alpha:27b", "not-alpha:7b"]

    @pytest.mark.parametrize("word", ["通义千问", "qwen"])
    def test_a_maker_by_its_chinese_name(self, word: str) -> None:
        hits = search_catalogue([word], [entry("qwen9:1b"), entry("other:1b")])
        assert [hit.ref for hit in hits] == ["qwen9:1b"]

    @pytest.mark.parametrize(
        ("words", "ref"),
        [
            ("qwen2.5 7b", "qwen2.5:7b"),
            ("qwen3:8b", "qwen3:8b"),
            ("bge zh large", "bge-large-zh:v1.5"),
            ("yi1.5:32b", "yi1.5:34b"),
            ("智谱 视觉", "glm-4.6v-flash:9b"),
        ],
    )
    def test_ours(self, words: str, ref: str) -> None:
        assert ref in [hit.ref for hit in search_catalogue([words], Catalog().entries.values())][:3]


class TestFilters:
    def test_each(self) -> None:
        assert found(filters=Filters(task="rerank")) == ["order:v1"]
        assert found("embed", filters=Filters(language="de")) == ["embed-all:v1"]
        assert "beta-small:24b" not in found(filters=Filters(is_commercial=True))
        assert len(found(filters=Filters(is_commercial=True))) == len(ENTRIES) - 1

    def test_what_is_not_known_does_not_pass(self) -> None:
        restricted = entry("some:1b", commercial="restricted")
        unknown = entry("some:2b", commercial=None)
        assert search_catalogue(["some"], [restricted, unknown], Filters(is_commercial=True)) == ()


class TestHits:
    def test_the_usual_size_is_of_four_bits(self) -> None:
        hit = SearchHit("x", "X", "hf", sizes=(("Q8_0", 8), ("Q4_K_M", 4), ("F16", 16)))
        assert hit.usual == ("Q4_K_M", 4)
        assert SearchHit("x", "X", "hf").usual is None

    def test_the_judge_is_asked_about_it(self) -> None:
        hit = SearchHit("x", "X", "hf", sizes=(("Q8_0", 8), ("Q4_K_M", 4)))
        assert judged(hit, lambda size_bytes: f"{size_bytes} bytes").fits == "4 bytes"
        assert judged(SearchHit("x", "X", "hf"), lambda size_bytes: "yes").fits is None

    def test_what_the_catalogue_has_is_shown_once(self) -> None:
        known = [catalogue_hit(item) for item in ENTRIES]
        at_hub = SearchHit("hf:Owner/Alpha-7b", "Alpha-7b", "hf", num_downloads=12)
        at_other = SearchHit("hf:owner/alpha-27b", "x", "hf", num_downloads=None)
        foreign = SearchHit("hf:else/alpha", "alpha", "hf", num_downloads=5, sources=("hf:else/alpha",))
        mirrored = SearchHit("ms:Else/Alpha", "alpha", "ms", num_downloads=9, sources=("ms:Else/Alpha",))
        hits, others = merge(known[:1], known, [at_hub, at_other, foreign, foreign, mirrored])
        assert [(hit.ref, hit.num_downloads) for hit in hits] == [("alpha:7b", 12), ("alpha:27b", None)]
        assert [(hit.ref, hit.num_downloads, hit.sources) for hit in others] == [
            ("hf:else/alpha", 5, ("hf:else/alpha", "ms:Else/Alpha"))
        ]

    @pytest.mark.parametrize(
        ("num_hits", "num_others", "shown"), [(9, 9, (4, 2)), (2, 9, (2, 4)), (9, 1, (5, 1)), (9, 0, (6, 0)), (0, 9, (0, 6))]
    )
    def test_a_third_of_the_places_is_the_hubs(self, num_hits: int, num_others: int, shown: tuple[int, int]) -> None:
        hits = [SearchHit(f"a{number}", "", "catalogue") for number in range(num_hits)]
        others = [SearchHit(f"b{number}", "", "hf") for number in range(num_others)]
        kept = shared_out(hits, others, 6)
        assert kept == (*hits[: shown[0]], *others[: shown[1]])


def hub_hit(name: str, **facts: object) -> HubHit:
    return HubHit(ref=f"hf:{name}", title=name, **facts)  # type: ignore[arg-type]


class TestHubs:
    async def test_all_are_asked_at_the_same_time_and_answers_take_turns(self, tmp_path: Path) -> None:
        asked: list[tuple[str, int]] = []
        first_asked, second_asked = asyncio.Event(), asyncio.Event()

        async def first(words: str, context: SourceContext, limit: int) -> Sequence[HubHit]:
            asked.append((words, limit))
            first_asked.set()
            await second_asked.wait()
            return [hub_hit("a/1"), hub_hit("a/2")]

        async def second(words: str, context: SourceContext, limit: int) -> Sequence[HubHit]:
            asked.append((words, limit))
            second_asked.set()
            await first_asked.wait()
            return [hub_hit("b/1")]

        answer = await search_hubs("some words", SourceContext(tmp_path), 7, searches={"hf": first, "ms": second})
        assert asked == [("some words", 7)] * 2
        assert [(hit.ref, hit.origin) for hit in answer.hits] == [("hf:a/1", "hf"), ("hf:b/1", "ms"), ("hf:a/2", "hf")]
        assert answer.notices == ()

    async def test_one_that_fails_or_never_answers_is_named(self, tmp_path: Path) -> None:
        stopped = False

        async def never(words: str, context: SourceContext, limit: int) -> Sequence[HubHit]:
            nonlocal stopped
            try:
                await asyncio.Event().wait()
            finally:
                stopped = True
            return []

        async def fails(words: str, context: SourceContext, limit: int) -> Sequence[HubHit]:
            raise SourceError("{host} is down.", host="hub")

        async def works(words: str, context: SourceContext, limit: int) -> Sequence[HubHit]:
            return [hub_hit("a/1")]

        context = SourceContext(tmp_path)
        answer = await search_hubs("x", context, 5, searches={"hf": never, "ms": works}, timeout_s=0.01)
        assert [hit.ref for hit in answer.hits] == ["hf:a/1"] and stopped
        assert [str(notice) for notice in answer.notices] == ["Hugging Face did not answer within 0 seconds."]
        answer = await search_hubs("x", context, 5, searches={"hf": works, "ms": fails})
        assert [hit.ref for hit in answer.hits] == ["hf:a/1"]
        assert [str(notice) for notice in answer.notices] == ["ModelScope could not be searched: hub is down."]

    async def test_what_a_hit_says(self, tmp_path: Path) -> None:
        async def ask(words: str, context: SourceContext, limit: int) -> Sequence[HubHit]:
            return [
                hub_hit(
                    "a/1",
                    licence="apache-2.0",
                    downloads=3,
                    tags=("text-generation", "conversational", "zh", "en", "gguf", "llama.cpp"),
                    variants=(Variant("Q4_K_M", 4), Variant("Q8_0", None)),
                ),
                hub_hit("a/2", licence="other", tags=("feature-extraction",)),
            ]

        answer = await search_hubs("x", SourceContext(tmp_path), 5, hubs=("hf",), searches={"hf": ask})
        first, second = answer.hits
        assert (first.commercial, first.languages, first.tasks) == (True, ("zh", "en"), ("generate",))
        assert (first.num_downloads, first.sizes, first.usual) == (3, (("Q4_K_M", 4),), ("Q4_K_M", 4))
        assert (second.commercial, second.languages, second.tasks, second.usual) == (None, (), ("embed",), None)


class TestSearch:
    async def test_offline_is_the_catalogue_alone(self, tmp_path: Path) -> None:
        context = SourceContext(tmp_path, FetchOptions(is_offline=True))
        answer = await search(["qwen3"], catalog=Catalog(), context=context, limit=3)
        assert [hit.origin for hit in answer.hits] == ["catalogue"] * 3
        assert [str(notice) for notice in answer.notices] == ["Zhibei is set to be offline: only the catalogue was searched."]

    async def test_without_words_no_hub_is_asked(self, tmp_path: Path) -> None:
        context = SourceContext(tmp_path, FetchOptions(is_offline=True))
        answer = await search([], catalog=Catalog(), context=context, limit=500, filters=Filters(task="rerank"))
        assert answer.notices == () and answer.hits
        assert all("rerank" in hit.tasks for hit in answer.hits)

    async def test_every_hit_is_judged(self) -> None:
        answer = await search(["bge"], catalog=Catalog(), context=None, limit=5, judge=lambda size_bytes: "yes")
        assert {hit.fits for hit in answer.hits} == {"yes"}
