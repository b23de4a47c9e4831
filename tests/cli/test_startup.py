"""Commands that only look must answer at once: they may not import what takes long to import."""

from __future__ import annotations

import pytest

from support.program import Program

HEAVY = ("asyncio", "aiohttp", "rich", "prompt_toolkit", "pydantic", "fastapi", "starlette", "uvicorn", "xllamacpp", "psutil")
# Of our own, what brings those along or is simply not needed.
UNNEEDED = (
    "zhibei.app",
    "zhibei.runtime.pool",
    "zhibei.local",
    "zhibei.remote",
    "zhibei.engines.echo",
    "zhibei.events",
    "zhibei.api",
)


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("list",),
        ("list", "--json"),
        ("list", "--partial"),
        ("prune", "--dry-run"),
        ("show", "tiny"),
        ("cp", "tiny", "other"),
        ("rm", "tiny"),
        ("config",),
        ("version",),
        ("ps",),
        ("completion", "bash"),
        ("completion", "words", "zhibei show t"),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(stocked: Program, words: tuple[str, ...]) -> None:
    ran = stocked("--lang", "zh", *words, python=("-X", "importtime"))
    assert ran.code == 0
    imported = {line.rpartition("|")[2].strip() for line in ran.err.splitlines() if line.startswith("import time:")}
    assert "zhibei.cli.main" in imported
    tops = {name.partition(".")[0] for name in imported}
    # Who writes to the store says which process it is, and asks psutil for that.
    allowed = {"psutil"} if words[0] == "cp" else set()
    assert not tops & set(HEAVY) - allowed
    assert not imported & set(UNNEEDED)


@pytest.mark.parametrize("name", ["pull", "update", "verify", "repair"])
def test_a_command_that_takes_its_time_brings_what_it_needs_only_when_it_works(program: Program, name: str) -> None:
    ran = program(name, "--help", python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in ran.err.splitlines() if line.startswith("import time:")}
    assert "zhibei.cli.progress" in imported
    assert not {module.partition(".")[0] for module in imported} & set(HEAVY) - {"asyncio"}
    assert not imported & {"zhibei.app", "zhibei.local", "zhibei.remote", "zhibei.api"}


@pytest.mark.parametrize(
    "words", [("fit", "tiny"), ("recommend",), ("advise", "--model", "qwen3:8b")], ids=lambda words: words[0]
)
def test_what_fetches_nothing_brings_no_client(stocked: Program, words: tuple[str, ...]) -> None:
    # What needs a machine is told one, so that this one is not measured.
    described = () if words[0] == "advise" else ("--hardware", "ram=16g")
    ran = stocked(*words, *described, python=("-X", "importtime"))
    assert ran.code == 0, ran.err[-500:]
    imported = {line.rpartition("|")[2].strip() for line in ran.err.splitlines() if line.startswith("import time:")}
    assert any(module.startswith("zhibei.judging.") for module in imported)
    assert not {module.partition(".")[0] for module in imported} & {
        "aiohttp",
        "fastapi",
        "pydantic",
        "rich",
        "uvicorn",
        "xllamacpp",
    }


def test_the_list_of_commands_imports_none_of_them(program: Program) -> None:
    ran = program("--help", python=("-X", "importtime"))
    assert "zhibei.cli.commands\n" in ran.err
    assert "zhibei.cli.commands." not in ran.err
    assert "zhibei.store" not in ran.err
