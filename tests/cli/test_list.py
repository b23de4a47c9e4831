"""``zhibei list``: the models of other programs, folders, and names that are long."""

from __future__ import annotations

import json
import sys

import pytest

from support.models import model_bytes
from support.program import Program, Ran
from zhibei.cli.render import columns

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the places are those of another system")

LM_STUDIO = "lm-studio/owner/some-GGUF/some-Q4_0"


@pytest.fixture
def broken(beside: Program) -> Program:
    """One of Ollama's two models was not downloaded to the end."""
    manifests = beside.directory / "person" / ".ollama" / "models" / "manifests" / "registry.ollama.ai" / "library" / "tiny"
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'0' * 64}", "size": 5000}
    (manifests / "cut").write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    return beside


def test_only_the_store_is_listed_where_nothing_else_is_asked_for(broken: Program) -> None:
    assert broken("list").out == ""
    assert json.loads(broken("list", "--json").out) == {"models": []}


def test_all(broken: Program) -> None:
    (broken.directory / "own.gguf").write_bytes(model_bytes(3))
    assert broken("-q", "pull", "./own.gguf").code == 0
    ran = broken("list", "--all")
    head, *rows = [line.split() for line in ran.out.splitlines()]
    assert head == ["NAME", "SIZE", "QUANTISATION", "KEPT", "BY"]
    assert rows[0] == ["own:latest", "5.5", "KiB", "Q4_0", "zhibei"]
    assert [(row[0], row[-1]) for row in rows[1:]] == [
        (LM_STUDIO, "lm-studio"),
        ("ollama/tiny:1b", "ollama"),
        ("ollama/tiny:cut", "ollama"),
    ]
    assert ran.err.splitlines() == [
        "notice: ollama/tiny:cut cannot be used: one of its files is missing",
        f"Use one of them where it lies: zhibei use {LM_STUDIO}",
    ]
    assert broken("-q", "use", LM_STUDIO).code == 0


def test_all_json(broken: Program) -> None:
    document = json.loads(broken("list", "-a", "--json").out)
    assert document["models"] == []
    found = {model["name"]: model for model in document["elsewhere"]}
    assert {name: model["problem"] for name, model in found.items()} == {
        LM_STUDIO: None,
        "ollama/tiny:1b": None,
        "ollama/tiny:cut": "one of its files is missing",
    }
    assert found[LM_STUDIO] == {
        "name": LM_STUDIO,
        "other_names": [],
        "program": "lm-studio",
        "size_bytes": len(model_bytes(5)),
        "quantisation": "Q4_0",
        "problem": None,
        "files": [
            {
                "role": "model",
                "path": "[DIR]/person/.lmstudio/models/owner/some-GGUF/some-Q4_0.gguf",
                "size_bytes": len(model_bytes(5)),
            }
        ],
    }


def test_folders(beside: Program) -> None:
    for name in ("first", "second"):
        (beside.directory / name).mkdir()
        (beside.directory / name / f"{name}-Q8_0.gguf").write_bytes(model_bytes(3, seed=len(name)))
    ran = beside("list", "--folder", "first", "--folder", "second", "--json")
    names = [model["name"] for model in json.loads(ran.out)["elsewhere"]]
    assert names == ["folder/first/first-Q8_0", "folder/second/second-Q8_0", LM_STUDIO, "ollama/tiny:1b"]
    shown = beside("list", "--folder", "first")
    # Only the path says where it is to the next command.
    assert shown.err == "Use one of them where it lies: zhibei use [DIR]/first/first-Q8_0.gguf\n"
    assert beside("-q", "use", "./first/first-Q8_0.gguf").code == 0


def test_a_folder_that_is_not_there(program: Program) -> None:
    assert program("list", "--folder", "nowhere") == Ran(2, "", "error: There is no folder [DIR]/nowhere.\n")


def test_downloads_or_models(program: Program) -> None:
    err = "error: --partial cannot be used together with --all or --folder.\n"
    assert program("list", "--partial", "--all") == Ran(2, "", err)
    assert program("list", "--partial", "--folder", ".") == Ran(2, "", err)
    assert program("list", "--all").err.startswith("There are no models yet.")


def test_a_long_name_has_a_line_of_its_own(stocked: Program) -> None:
    long = "some-publisher-with-a-name/a-model-with-a-very-long-name-indeed-instruct-2512:q4_k_m"
    assert stocked("cp", "tiny", long).code == 0
    lines = stocked("list").out.splitlines()
    assert lines[1] == long
    assert lines[0].startswith("NAME         ") and lines[2].startswith("             ")
    assert all(columns(line) <= 80 for line in lines if line != long)
