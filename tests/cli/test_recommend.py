"""``zhibei recommend``: the table, the reasons, the filters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.program import Program, Ran
from zhibei.cli.render import columns

DESKTOP = ("--hardware", "rtx3060,ram=32g,ddr5-5600x2,cpu=i5-12400")


@pytest.fixture
def asker(program: Program) -> Program:
    program.extra["ZHIBEI_ENGINE"] = "llama.cpp"
    program.extra["ZHIBEI_OFFLINE"] = "true"
    return program


def models(ran: Ran) -> list[dict[str, Any]]:
    assert ran.code == 0, ran.err
    found: list[dict[str, Any]] = json.loads(ran.out)["models"]
    return found


def test_a_table_and_why_the_first(asker: Program) -> None:
    ran = asker("recommend", *DESKTOP, "--limit", "3")
    assert ran.code == 0, ran.err
    head, *rows = ran.out.split("\n\n")[0].splitlines()
    assert head.split() == ["NAME", "QUANT", "SIZE", "TOKENS/S", "CONTEXT", "VERDICT"]
    assert len(rows) == 3
    assert "\nWhy " in ran.out and "parameters" in ran.out
    assert max(map(columns, ran.out.splitlines())) <= 80
    first = rows[0].split()[0]
    assert ran.err.splitlines()[0] == f"All about one: zhibei fit {first}"
    assert ran.err.splitlines()[1].startswith("Fetch it: zhibei pull ")
    assert not asker.home.exists()


def test_all_that_is_recommended_runs_as_asked(asker: Program) -> None:
    found = models(asker("recommend", *DESKTOP, "--speed", "20", "--ctx", "16k", "--limit", "5", "--json"))
    assert len(found) == 5
    for model in found:
        assert model["plan"]["verdict"] in ("runs", "runs_well")
        assert model["plan"]["speed"]["generation_tokens_per_s"] >= 20
        assert model["plan"]["ctx_size"] == 16384
        assert model["plan"]["needed_bytes"] < 44 << 30
        assert (model["engine"], bool(model["reasons"])) == ("llama.cpp", True)


def test_filters(asker: Program) -> None:
    chinese = models(asker("recommend", *DESKTOP, "--language", "ZH", "--licence", "commercial", "--limit", "4", "--json"))
    assert chinese and all("zh" in model["languages"] and model["commercial"] for model in chinese)
    seeing = models(asker("recommend", *DESKTOP, "--task", "vision", "--limit", "2", "--json"))
    assert seeing and all("vision" in model["strengths"] for model in seeing)
    embedding = models(asker("recommend", *DESKTOP, "--task", "embed", "--limit", "3", "--json"))
    assert embedding and all(
        "embed" in model["name"] or "bge" in model["name"] or model["plan"]["verdict"] for model in embedding
    )
    assert not {model["name"] for model in embedding} & {model["name"] for model in chinese}


def test_a_small_machine_gets_small_models_and_a_large_one_large(asker: Program) -> None:
    small = models(asker("recommend", "--hardware", "ram=8g,ddr4-3200x2,cores=4", "--limit", "1", "--json"))
    large = models(asker("recommend", "--hardware", "rtx4090x2,ram=128g,ddr5-5600x2,cores=16", "--limit", "1", "--json"))
    assert small[0]["size_bytes"] < 8 << 30
    assert large[0]["num_parameters"] > 4 * small[0]["num_parameters"]


def test_nothing_that_does_it_all(asker: Program) -> None:
    ran = asker("recommend", "--hardware", "ram=4g,ddr4-2133x1,cores=2", "--speed", "5000")
    assert ran == Ran(0, "", "No model of the catalogue does all that on this machine. Ask for less speed or context.\n")


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (("--task", "sing"), "error: --task takes one of "),
        (("--speed", "fast"), "error: --speed takes a number, not 'fast'.\n"),
        (("--licence", "free"), "error: --licence takes one of commercial, any, not 'free'.\n"),
        (("--hardware", "ram=lots"), "error: 'lots' is not a size of memory.\n"),
    ],
)
def test_mistakes(program: Program, words: tuple[str, ...], err: str) -> None:
    ran = program("recommend", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(err)
