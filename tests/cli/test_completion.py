"""Completion: the words, and the scripts in a real shell."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.program import Program


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "zhibei r",
            [
                "run\tAsk a model, or talk with it.",
                "recommend\tRecommend models for this machine.",
                "rm\tRemove models.",
                "repair\tFetch the damaged parts of a model again.",
            ],
        ),
        ("zhibei show ti", ["tiny:latest"]),
        ("zhibei run tiny:l", ["tiny:latest"]),
        ("zhibei run x --flash-attn ", ["on", "off", "auto"]),
        ("zhibei run --min", ["--min-p\tDrop tokens less likely than this share of the likeliest one."]),
        ("zhibei rm other ", ["tiny:latest"]),
        ("zhibei 'unfinished", []),
    ],
)
def test_words(stocked: Program, line: str, words: list[str]) -> None:
    ran = stocked("completion", "words", line)
    assert ran.err == ""
    assert ran.out.splitlines() == words


def test_words_in_chinese(stocked: Program) -> None:
    assert stocked("--lang", "zh", "completion", "words", "zhibei rm").out == "rm\t删除模型。\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_a_name_behind_the_colon_at_which_it_splits_words(stocked: Program, tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "zhibei").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m zhibei "$@"\n')
    (commands / "zhibei").chmod(0o755)
    script = """
        eval "$(zhibei completion bash)"
        complete_line() { COMP_LINE=$1 COMP_POINT=${#1}; _zhibei_completion; printf '%s|' "${COMPREPLY[@]}"; echo; }
        complete_line 'zhibei show tiny:l'
        complete_line 'zhibei show t'
        complete_line 'zhibei sh'
    """
    environment = {**stocked.environment, "PATH": f"{commands}:{stocked.environment['PATH']}"}
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["latest|", "tiny:latest|", "show|"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_valid(program: Program, shell: str) -> None:
    script = program("completion", shell).out
    assert "zhibei completion words" in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
