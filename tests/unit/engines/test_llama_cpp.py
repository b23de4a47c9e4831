"""What llama.cpp's worker is told, and the texts around a gap: decided without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from zhibei.engines.llama_cpp import infill, order, worker
from zhibei.engines.llama_cpp.log_lines import LogLines, template_problem
from zhibei.plans import EngineSpec

SPEC = EngineSpec(
    "llama.cpp", "/m.gguf", "m:latest", "generate", 512, 1, 64, 64, 1, None, "f16", "f16", "auto", 0, 0, lora=(("/a", 0.5),)
)


def test_an_order_is_read_as_it_was_given() -> None:
    for given in (order.Order(SPEC, "key", "/prompts", "/x.sock"), order.Order(SPEC, "key")):
        assert order.decode(order.encode(given)) == given
    for wrong in (b"[]", b"{}", b'{"spec": {"engine": "x"}, "key": "k"}', b"{"):
        with pytest.raises(ValueError, match=r"order|Expecting"):
            order.decode(wrong)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"speculation": "off"}, False),
        ({"num_slots": 2}, False),
        ({"num_slots": 2, "speculation": "ngram"}, True),
        ({"num_slots": 4, "speculation": "ngram"}, False),
        ({"n_ctx_checkpoints": 8}, False),
        ({"n_ctx_checkpoints": 8, "speculation": "ngram"}, True),
        ({"mmproj_path": "/p"}, False),
        ({"task": "embed", "speculation": "ngram"}, False),
        ({"batch_size": 16}, False),
    ],
)
def test_where_words_are_guessed_ahead(changes: dict[str, Any], expected: bool) -> None:
    assert worker.guesses_ahead(replace(SPEC, **changes)) is expected


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("<PRE>before<SUF>after<MID>", ("<PRE>", "<SUF>", "<MID>")),
        ("<s><PRE> before <SUF> after <MID>", ("<s><PRE>", "<SUF>", "<MID>")),
        ("<sep>before\n<PRE>before<SUF>after<MID>", ("<sep>before\n<PRE>", "<SUF>", "<MID>")),
    ],
)
def test_the_words_around_a_gap_are_cut_from_a_sample(prompt: str, texts: tuple[str, str, str]) -> None:
    assert infill.cut({"prompt": prompt}) == texts


@pytest.mark.parametrize("prompt", [None, "", "<PRE>before<SUF><MID>", "beforeafter", "<PRE>before<SUF>after"])
def test_a_sample_without_them_is_refused(prompt: str | None) -> None:
    with pytest.raises(ValueError, match="sample"):
        infill.cut({"prompt": prompt})


def test_a_prompt_around_a_gap_is_whole() -> None:
    assert infill.Marks((1, 2), (3,), (4,)).around((9,) * 5, (8,) * 5) == (1, 2, *(9,) * 5, 3, *(8,) * 5, 4)


def test_what_a_request_said_is_not_kept_of_a_log() -> None:
    """The lines are as llama.cpp wrote them."""
    log = """\
0.00.268.385 I srv          init: listening on http://127.0.0.1:44561
0.01.217.104 W srv    operator(): got exception: {"error":{"code":400,"message":"unrecognized type SECRET","type":"x"}}
0.01.217.105 W srv    operator(): got exception: SECRET
parse: error parsing grammar: expecting ::= at SECRET

SECRET
error parsing grammar: SECRET
0.01.325.733 E failed to parse grammar
/src/ggml.c:1: GGML_ASSERT(x) failed""".splitlines()
    lines = LogLines()
    assert [kept for line in log if (kept := lines.kept(line)) is not None] == [
        "0.00.268.385 I srv          init: listening on http://127.0.0.1:44561",
        '0.01.217.104 W srv    operator(): got exception: {"error":{"code":400 …',
        "0.01.217.105 W srv    operator(): got exception: …",
        "parse: error parsing grammar: …",
        "0.01.325.733 E failed to parse grammar",
        "/src/ggml.c:1: GGML_ASSERT(x) failed",
    ]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            (
                "0.00.036.922 E common_chat_templates_init: error: Unexpected token: %} of type 9",
                "0.00.036.948 E srv          init: init: chat template parsing error: std::exception",
            ),
            "Unexpected token: %} of type 9",
        ),
        (("0.00.024.667 E srv          init: init: chat template parsing error: no parser",), "no parser"),
        (("0.00.024.667 E srv          init: exiting due to model loading error",), None),
    ],
)
def test_what_is_wrong_with_a_template_is_found_in_the_log(lines: tuple[str, ...], problem: str | None) -> None:
    assert template_problem(lines) == problem
