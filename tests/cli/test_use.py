"""``zhibei use``: models of other programs, run where they lie."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.models import model_bytes, sha256
from support.program import Program, Ran
from support.serving import serving

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the places are those of another system")

CONTENT = model_bytes(4)


def tree(root: Path) -> dict[str, tuple[int, bytes | None]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in root.rglob("*")}


def test_a_model_is_used_where_it_lies_and_nothing_of_theirs_changes(beside: Program) -> None:
    before = tree(beside.directory / "person")
    blob = f"[DIR]/person/.ollama/models/blobs/sha256-{sha256(CONTENT)}"
    assert beside("use", "ollama/tiny:1b") == Ran(
        0, "tiny:1b\n", f'It is used where it lies: {blob}\nRun it: zhibei run tiny:1b "…"\n'
    )
    shown = json.loads(beside("show", "tiny:1b", "--json").out)
    assert (shown["in_place"], shown["problem"]) == (True, None)
    assert shown["files"][0] == {"role": "model", "path": blob, "size_bytes": len(CONTENT), "digest": None}
    assert beside("run", "tiny:1b", "hello").code == 0
    assert beside("rm", "tiny:1b").code == 0
    assert tree(beside.directory / "person") == before


def test_its_name_and_json(beside: Program) -> None:
    document = json.loads(beside("use", "LM-Studio/owner/some-gguf/some-q4_0", "--name", "mine:v1", "--json").out)
    assert (document["name"], document["in_place"]) == ("mine:v1", True)
    assert document["files"][0]["path"] == "[DIR]/person/.lmstudio/models/owner/some-GGUF/some-Q4_0.gguf"
    assert beside("use", "lm-studio/owner/some-GGUF/some-Q4_0").out == "some:q4_0\n"


def test_a_path(beside: Program) -> None:
    (beside.directory / "tiny.gguf").write_bytes(model_bytes(3))
    ran = beside("use", "./tiny.gguf")
    assert (ran.code, ran.out) == (0, "tiny:latest\n")
    assert ran.err.startswith("It is used where it lies: [DIR]/tiny.gguf\n")


@pytest.mark.parametrize("reference", ["ollama/none:1b", "lm-studio/a/b/c", "LM-Studio/a/b/C d", "nothing"])
def test_there_is_no_such_model(beside: Program, reference: str) -> None:
    message = f"error: No other program here has a model {reference}.\nhint: zhibei list --all shows what there is.\n"
    assert beside("use", reference) == Ran(3, "", message)
    assert not (beside.home / "manifests").exists()


def test_there_is_no_such_file(beside: Program) -> None:
    ran = beside("use", "./missing.gguf")
    assert (ran.code, ran.out) == (3, "")
    assert "[DIR]/missing.gguf" in ran.err
    assert not (beside.home / "manifests").exists()


def test_what_no_model_can_be_called(beside: Program) -> None:
    ran = beside("use", "a b")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: 'a b' is not a model name.\n")


def test_a_broken_model_says_why_it_cannot_be_used(beside: Program) -> None:
    blob = beside.directory / "person" / ".ollama" / "models" / "blobs" / f"sha256-{sha256(CONTENT)}"
    blob.write_bytes(CONTENT[:1000])
    before = tree(beside.directory / "person")
    ran = beside("use", "ollama/tiny:1b")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ollama/tiny:1b cannot be used: it was not downloaded to the end.")
    assert tree(beside.directory / "person") == before


def test_it_is_done_here_even_if_a_server_runs(beside: Program, tmp_path: Path) -> None:
    with serving(tmp_path / "served") as server:
        ran = beside("--port", str(server.port), "use", "ollama/tiny:1b")
        assert "tiny:1b" not in beside("--port", str(server.port), "list").out
    assert (ran.code, ran.out) == (0, "tiny:1b\n")
    assert "tiny:1b" in beside("list").out


def test_names_are_completed(beside: Program) -> None:
    assert beside("completion", "words", "zhibei use LM-").out == "lm-studio/owner/some-GGUF/some-Q4_0\n"


def test_usage(beside: Program) -> None:
    assert beside("use").err == "error: REFERENCE is missing.\nhint: Try: zhibei use --help\n"
    assert "REFERENCE" in beside("use", "--help").out
