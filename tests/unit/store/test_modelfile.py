"""Recipes as text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.errors import BadRequest
from zhibei.options import LoadOptions, Sampling
from zhibei.store.modelfile import MAX_CHARS, Modelfile, Parameters, parameter_lines, parameters_from, parse, show


def test_every_instruction() -> None:
    found = parse(
        '# made by hand\nFROM llama3.2:1b\n\nparameter temperature 0.7\nPARAMETER stop "<|a b|>"\nPARAMETER stop plain text\n'
        "PARAMETER num_ctx 4096\nPARAMETER num_predict -1\nPARAMETER use_mmap false\nPARAMETER num_keep 4\n"
        'TEMPLATE """{{ .Prompt }}\n"""\n'
        'SYSTEM You are "it".\nADAPTER @sha256:00\nMESSAGE user Hi there\n'
        'MESSAGE assistant """a\nb"""\nLICENSE one\nLICENSE two\n'
    )
    assert found == Modelfile(
        base="llama3.2:1b",
        adapters=("@sha256:00",),
        parameters=Parameters(
            Sampling(temperature=0.7), LoadOptions(ctx_size=4096, mmap=False), ("<|a b|>", "plain text"), 0, ("num_keep",)
        ),
        template="{{ .Prompt }}\n",
        system='You are "it".',
        messages=(("user", "Hi there"), ("assistant", "a\nb")),
        licence=("one", "two"),
    )


def test_carriage_returns_and_an_empty_system() -> None:
    assert parse('FROM a\r\nSYSTEM """one\r\ntwo"""\r\n').system == "one\ntwo"
    assert parse('FROM a\nSYSTEM ""').system == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SYSTEM x", "no FROM"),
        ("FROM a\nFROM b", "line 2"),
        ("FROM a\n\nNONSENSE x", "line 3"),
        ("FROM a\n= 3", "line 2"),
        ('FROM a\nSYSTEM """x', "line 2"),
        ('FROM a\nSYSTEM """x""" y', "behind"),
        ("FROM a\nPARAMETER temperature", "line 2"),
        ("FROM a\nPARAMETER temperature warm", "line 2"),
        ("FROM a\nPARAMETER temperature nan", "line 2"),
        ("FROM a\nPARAMETER top_k 1.5", "line 2"),
        ("FROM a\nPARAMETER use_mmap perhaps", "line 2"),
        ("FROM a\nPARAMETER what 1", "what"),
        ("FROM a\nMESSAGE wizard x", "role"),
        ("FROM a\nMESSAGE user", "line 2"),
        ("FROM a\nADAPTER", "line 2"),
        ("FROM a\n" + "PARAMETER stop x1\n" * 1 + "".join(f"PARAMETER stop s{n}\n" for n in range(64)), "64"),
        ("x" * (MAX_CHARS + 1), "too long"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(text)
    assert words in str(caught.value)


def test_parameters_of_json() -> None:
    found = parameters_from({"temperature": 1, "stop": ["a", "b"], "num_gpu": -1, "seed": -1, "top_k": None, "use_mlock": True})
    assert found == Parameters(Sampling(temperature=1.0), LoadOptions(mlock=True), ("a", "b"))
    assert parameters_from({"num_predict": 7}).max_tokens == 7


@pytest.mark.parametrize(
    "values", [{"temperature": True}, {"stop": 5}, {"stop": ""}, {"top_p": [1, 2, 3]}, {"num_ctx": 0}, {"x": {}}]
)
def test_parameters_of_json_that_make_no_sense(values: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        parameters_from(values)


LINES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).map(str.strip).filter(bool)
TEXTS = st.lists(LINES, min_size=1, max_size=3).map("\n".join).filter(lambda text: '"""' not in text and "\r" not in text)


@given(
    system=st.none() | TEXTS,
    template=st.none() | TEXTS,
    messages=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=2),
    licence=st.lists(TEXTS, max_size=2),
    stop=st.lists(LINES.filter(lambda text: '"' not in text and len(text) < 1000), max_size=3, unique=True),
    temperature=st.none() | st.floats(0, 2).map(lambda value: float(f"{value:g}")),
    max_tokens=st.none() | st.integers(0, 1000),
)
def test_what_is_shown_is_read_again(
    system: str | None,
    template: str | None,
    messages: list[tuple[str, str]],
    licence: list[str],
    stop: list[str],
    temperature: float | None,
    max_tokens: int | None,
) -> None:
    parameters = Parameters(Sampling(temperature=temperature), LoadOptions(), tuple(stop), max_tokens)
    recipe = Modelfile("a:b", (), parameters, template, system, tuple(messages), tuple(licence))
    assert parse(show(recipe)) == recipe


def test_parameter_lines() -> None:
    lines = parameter_lines(Parameters(Sampling(seed=3, top_p=0.5), LoadOptions(ctx_size=8, mmap=True), ("x",), 0))
    assert dict(lines) == {"num_ctx": "8", "use_mmap": "true", "num_predict": "-1", "top_p": "0.5", "seed": "3", "stop": '"x"'}
