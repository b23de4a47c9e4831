"""``zhibei advise``: machines that run a model, cheapest first, and what their prices are worth."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.program import Program, Ran
from zhibei.cli.render import columns

BASE = ("--hardware", "ram=32g,ddr5-5600x2,cpu=i5-12400")


@pytest.fixture
def asker(program: Program) -> Program:
    program.extra["ZHIBEI_ENGINE"] = "llama.cpp"
    program.extra["ZHIBEI_OFFLINE"] = "true"
    return program


def machines(ran: Ran) -> list[dict[str, Any]]:
    assert ran.code == 0, ran.err
    found: list[dict[str, Any]] = json.loads(ran.out)["machines"]
    return found


def test_the_cheapest_first_within_the_budget(asker: Program) -> None:
    found = machines(
        asker("advise", "--model", "qwen2.5:14b", "--budget", "900", "--speed", "15", *BASE, "--limit", "3", "--json")
    )
    priced = [machine for machine in found if machine["price"] is not None]
    amounts = [machine["price"]["amount"] for machine in priced]
    assert amounts == sorted(amounts) and 0 < max(amounts) <= 900
    assert all(machine["tokens_per_s"] >= 15 for machine in found)
    assert [machine["tokens_per_s"] for machine in priced] == sorted(machine["tokens_per_s"] for machine in priced)
    assert all(machine["price"]["asked_on"] < "2026" for machine in priced)
    assert {machine["price"]["currency"] for machine in priced} == {"USD"}


def test_the_table_says_how_old_the_prices_are(asker: Program) -> None:
    ran = asker(
        "advise", "--model", "qwen2.5:14b", "--budget", "6000", "--currency", "cny", "--speed", "15", *BASE, "--limit", "2"
    )
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0].startswith("qwen2.5:14b (") and lines[0].endswith("15 tokens per second at least")
    assert lines[1].split() == ["MACHINE", "PRICE", "OF", "TOKENS/S", "VERDICT"]
    assert "¥" in lines[2]
    assert max(map(columns, lines)) <= 80
    assert "as asked when they were new (20" in ran.err.replace("\n", " ")


def test_this_machine_may_do_and_more_memory_may_be_enough(asker: Program) -> None:
    enough = machines(asker("advise", "--model", "qwen2.5:0.5b", *BASE, "--limit", "1", "--json"))
    assert "this" in {machine["kind"] for machine in enough}
    more = machines(
        asker("advise", "--model", "qwen3:30b", "--hardware", "ram=12g,ddr5-5600x2,cpu=i5-12400", "--limit", "1", "--json")
    )
    assert "memory" in {machine["kind"] for machine in more}


def test_nothing_does_it(asker: Program) -> None:
    ran = asker("advise", "--model", "deepseek-r1:671b", "--budget", "100", "--speed", "5000", *BASE)
    assert ran.code == 0
    assert ran.err == "No machine of the table runs it so, or none within the budget. Ask for less speed, context or bits.\n"


@pytest.mark.parametrize(
    ("words", "err"),
    [
        ((), "error: model is missing.\n"),
        (("--model", "no-such-model"), "error: There is no model no-such-model:latest"),
        (("--model", "x", "--currency", "eur"), "error: --currency takes one of cny, usd, not 'eur'.\n"),
        (("--model", "x", "--budget", "-5"), "error: --budget must be from 1"),
    ],
)
def test_mistakes(asker: Program, words: tuple[str, ...], err: str) -> None:
    ran = asker("advise", *words)
    assert (ran.code != 0, ran.out) == (True, "")
    assert ran.err.startswith(err)
