"""The catalogue: how names find entries, and that every entry of ours is sound."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path
from typing import get_args

import pytest

from zhibei.errors import BadReference
from zhibei.plans import Task
from zhibei.refs import SOURCES, ModelName
from zhibei.store.catalog import STRENGTHS, Catalog, CatalogEntry
from zhibei.store.repositories import parse_location

# ISO 639-1.
LANGUAGES = frozenset(
    (
        "aa ab af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cs cu cv cy da de dv dz ee el en eo es et eu fa "
        "ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km "
        "kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj "
        "om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn "
        "to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
    ).split()
)
LICENCES = {
    "Apache-2.0": True,
    "MIT": True,
    "BigCode-OpenRAIL-M": "restricted",
    "CC-BY-NC-4.0": False,
    "ChatGLM3": "restricted",
    "DeepSeek": "restricted",
    "GLM-4": "restricted",
    "Gemma": "restricted",
    "InternLM": "restricted",
    "Llama-2-Community": "restricted",
    "Llama-3-Community": "restricted",
    "Llama-3.1-Community": "restricted",
    "Llama-3.2-Community": "restricted",
    "Llama-3.3-Community": "restricted",
    "Llama-4-Community": "restricted",
    "MiniCPM": "restricted",
    "Mistral-Non-Production": False,
    "Mistral-Research": False,
    "NVIDIA-Nemotron-Open-Model": "restricted",
    "NVIDIA-Open-Model": "restricted",
    "Qwen": "restricted",
    "Qwen-Research": False,
    "Stability-AI-Non-Commercial": False,
}
"""The licences that entries may name, and whether each allows use in business."""

ENTRIES = list(Catalog().entries.values())
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry.name))


def written(path: Path, *tables: str) -> Catalog:
    head = 'title = "T"\nlicence = "MIT"\nlanguages = ["en"]\ntasks = ["generate"]\nsources = [{ ref = "hf:a/b" }]\n'
    path.write_text("".join(f"[[model]]\n{table}\n{head}" for table in tables), encoding="utf-8")
    return Catalog(path)


def found(catalog: Catalog, name: str) -> str | None:
    entry = catalog.find(ModelName.parse(name))
    return None if entry is None else str(entry.name)


class TestFind:
    def test_by_name_by_alias_and_by_family(self, tmp_path: Path) -> None:
        catalog = written(
            tmp_path / "c.toml",
            'name = "a:7b"\ndefault = true\naliases = ["a:8b", "other"]',
            'name = "a:70b"',
            'name = "b:1b"\ndefault = true',
        )
        assert found(catalog, "a:7b") == found(catalog, "a") == found(catalog, "a:latest") == "a:7b"
        assert found(catalog, "a:8b") == found(catalog, "other") == found(catalog, "OTHER") == "a:7b"
        assert found(catalog, "a:70b") == "a:70b"
        assert found(catalog, "b") == "b:1b"
        assert found(catalog, "a:9b") is found(catalog, "c") is found(catalog, "other:7b") is None

    def test_a_name_goes_before_an_alias(self, tmp_path: Path) -> None:
        assert found(written(tmp_path / "c.toml", 'name = "a:1b"\naliases = ["b:1b"]', 'name = "b:1b"'), "b:1b") == "b:1b"

    def test_the_facts(self, tmp_path: Path) -> None:
        facts = "parameters = 7.6e9\nactive_parameters = 1e9\nreleased = 2024-09-19\nsizes = { Q8_0 = 8e9 }\n"
        facts += 'commercial = "restricted"'
        entry = written(tmp_path / "c.toml", f'name = "a:7b"\ncontext_length = 4096\nstrengths = ["code"]\n{facts}').find(
            ModelName.parse("a:7b")
        )
        assert entry is not None
        assert (entry.num_parameters, entry.num_active_parameters, entry.context_length) == (7_600_000_000, 1_000_000_000, 4096)
        assert (entry.released_on, dict(entry.sizes)) == (date(2024, 9, 19), {"Q8_0": 8_000_000_000})
        assert (entry.commercial, entry.strengths, entry.is_default) == ("restricted", ("code",), False)

    def test_the_file_is_read_on_first_use_only(self, tmp_path: Path) -> None:
        catalog = Catalog(tmp_path / "missing.toml")
        with pytest.raises(FileNotFoundError):
            catalog.find(ModelName.parse("a"))

    @pytest.mark.parametrize(
        ("tables", "error"),
        [
            (('name = "a:1b"\nparamters = 1e9',), ValueError),
            (('name = "a:1b"', 'name = "a:1b"'), ValueError),
            (('name = "a b"',), BadReference),
            (('name = "a:1b"\naliases = ["hf:x/y"]',), BadReference),
        ],
        ids=["unknown key", "name twice", "no name", "alias that is none"],
    )
    def test_what_is_wrong_is_not_passed_over(self, tmp_path: Path, tables: tuple[str, ...], error: type[Exception]) -> None:
        with pytest.raises(error):
            written(tmp_path / "c.toml", *tables).find(ModelName.parse("a:1b"))

    def test_an_alias_of_two_entries_is_refused(self, tmp_path: Path) -> None:
        catalog = written(tmp_path / "c.toml", 'name = "a:1b"\naliases = ["x"]', 'name = "b:1b"\naliases = ["x"]')
        with pytest.raises(ValueError, match="twice"):
            catalog.find(ModelName.parse("x"))


class TestOurs:
    def test_the_well_known_names_are_there(self) -> None:
        names = (
            "smollm2 qwen2.5:7b qwen3 llama3:8b llama3.1 llama3.2 phi3:mini phi4 gemma3 mistral deepseek-r1 glm4:9b yi1.5:32b "
            "yi1.5:34b internlm2 command-r-plus bge-large-zh bge-m3 nomic-embed-text gpt-oss:120b qwen3-reranker"
        )
        catalog = Catalog()
        assert [name for name in names.split() if found(catalog, name) is None] == []
        assert found(catalog, "smollm2") == "smollm2:135m"
        assert found(catalog, "yi1.5:32b") == "yi1.5:34b"

    def test_every_family_has_one_default(self) -> None:
        families = {entry.name.name for entry in ENTRIES}
        assert Counter(entry.name.name for entry in ENTRIES if entry.is_default) == dict.fromkeys(families, 1)

    def test_no_name_means_two_things(self) -> None:
        names = Counter(name for entry in ENTRIES for name in (entry.name, *entry.aliases))
        assert [str(name) for name, count in names.items() if count > 1] == []
        # "yi" means yi:latest, which would hide a default of that family.
        defaults = {entry.name.name for entry in ENTRIES if entry.is_default}
        assert [str(name) for name in names if name.tag == "latest" and name.name in defaults] == []

    def test_no_reference_stands_twice(self) -> None:
        refs = Counter(str(source.ref).lower() for entry in ENTRIES for source in entry.sources)
        assert [ref for ref, count in refs.items() if count > 1] == []

    @each_entry
    def test_sources(self, entry: CatalogEntry) -> None:
        assert entry.sources
        for source in entry.sources:
            assert source.ref.source in SOURCES
            if source.ref.source in ("hf", "ms"):
                assert str(parse_location(source.ref.location).repository) == source.ref.location
            if source.ref.source in ("pypi", "url"):
                assert source.digest is not None and source.size_bytes is not None

    @each_entry
    def test_facts(self, entry: CatalogEntry) -> None:
        assert entry.title and entry.title == entry.title.strip()
        assert LICENCES[entry.licence] == entry.commercial
        assert entry.languages and set(entry.languages) <= LANGUAGES
        assert entry.tasks and set(entry.tasks) <= set(get_args(Task))
        assert set(entry.strengths) <= set(STRENGTHS)
        assert entry.context_length is None or 256 <= entry.context_length <= 1 << 24
        assert entry.released_on is None or date(2020, 1, 1) < entry.released_on < date(2030, 1, 1)
        for facts in (entry.languages, entry.strengths, entry.aliases):
            assert len(set(facts)) == len(facts)

    @each_entry
    def test_sizes(self, entry: CatalogEntry) -> None:
        assert entry.num_parameters is not None and 10**7 < entry.num_parameters < 10**13
        assert entry.num_active_parameters is None or 0 < entry.num_active_parameters < entry.num_parameters
        assert entry.sizes
        for label, size_bytes in entry.sizes.items():
            assert 1.5 <= size_bytes * 8 / entry.num_parameters <= 34, label
        assert list(entry.sizes.values()) == sorted(entry.sizes.values())
