"""``verify``, ``repair``, ``update``, ``prune`` and ``list --partial``: in this process, and by a running server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.models import model_bytes
from support.program import Program, Ran, free_port
from support.pulling import blobs
from support.running_hub import BIG, RunningHub, hub_content, stalled_pull
from support.serving import Serving, serving, stored_model
from zhibei.engines.echo import EchoScript
from zhibei.settings import HubSettings, ServerSettings, Settings

BROKEN = "broken: the bytes of Small-Q4_K_M.gguf are not what they were"
NEEDS_SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")


@pytest.fixture(params=["in this process", "by a server"])
def keeper(request: pytest.FixtureRequest, program: Program, hub: RunningHub) -> Iterator[Program]:
    """The program with the small model in its store, alone or with a server on that store."""
    assert program("-q", "pull", "hf:o/Small-GGUF").code == 0
    if request.param == "in this process":
        yield program
        return
    hubs = HubSettings(hf_endpoint=hub.url, hf_mirrors=(hub.url,), ms_endpoint=hub.url)
    settings = replace(Settings(), home=program.home, engine="echo", hubs=hubs, server=ServerSettings(port=0))
    server = Serving(settings, EchoScript(), 5.0)
    server.start()
    program.extra["ZHIBEI_PORT"] = str(server.port)
    try:
        yield program
    finally:
        server.stop()


def damage(program: Program) -> None:
    """Another byte in the middle of the one blob there is; size and time stay."""
    (blob,) = blobs(program.home)
    status, content = blob.stat(), bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 0xFF
    blob.chmod(0o644)
    blob.write_bytes(content)
    # As a failing disk would.
    os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_verify_finds_what_repair_mends(keeper: Program) -> None:
    assert keeper("verify") == Ran(0, "small:q4_k_m  whole\n", "")
    damage(keeper)
    found = keeper("verify", "small:q4_k_m")
    assert (found.code, found.out) == (5, f"small:q4_k_m  {BROKEN}\n")
    assert found.err.splitlines()[-1] == "Mend it: zhibei repair small:q4_k_m"
    document = json.loads(keeper("-q", "verify", "--json").out)
    assert document == {
        "models": [
            {
                "name": "small:q4_k_m",
                "problem": BROKEN.removeprefix("broken: "),
                "bad_files": ["Small-Q4_K_M.gguf"],
                "in_place": False,
            }
        ]
    }
    mended = keeper("repair", "small:q4_k_m", "--json")
    assert mended.code == 0
    assert json.loads(mended.out)["models"][0]["bad_files"] == ["Small-Q4_K_M.gguf"]
    assert mended.err.splitlines()[-1] == f"Repaired small:q4_k_m; what was wrong: {BROKEN.removeprefix('broken: ')}."
    assert keeper("verify").code == 0
    (blob,) = blobs(keeper.home)
    assert blob.read_bytes() == model_bytes(8, seed=1)


def test_nothing_is_asked_for_where_nothing_is_wrong(keeper: Program, hub: RunningHub) -> None:
    before = len(hub.hub.log)
    assert keeper("repair", "small:q4_k_m") == Ran(0, "", "small:q4_k_m is whole; there was nothing to repair.\n")
    assert json.loads(keeper("-q", "repair", "small:q4_k_m", "--json").out)["models"][0]["problem"] is None
    assert len(hub.hub.log) == before


def test_update(keeper: Program, hub: RunningHub) -> None:
    assert keeper("update") == Ran(0, "small:q4_k_m  up to date\n", "")
    new = model_bytes(9, seed=5)
    hub.hub.content = hub_content(small=new)
    ran = keeper("update", "small:q4_k_m")
    assert (ran.code, ran.out) == (0, "small:q4_k_m  updated\n")
    assert ran.err.startswith("small:q4_k_m: tiny, llama, Q4_0, 11.5 KiB\n")
    assert [blob.read_bytes() for blob in blobs(keeper.home)] == [new]
    (model,) = json.loads(keeper("update", "--json").out)["models"]
    assert model == {"name": "small:q4_k_m", "state": "current", "source": "hf:o/Small-GGUF:Q4_K_M"}


def test_update_goes_on_after_a_failure_and_tells_what_cannot_be_asked(program: Program, hub: RunningHub) -> None:
    for name in ("kept", "gone"):
        (program.directory / f"{name}.gguf").write_bytes(model_bytes(4))
    assert program("-q", "pull", "hf:o/Big-GGUF", "hf:o/Small-GGUF", "./kept.gguf").code == 0
    assert program("-q", "pull", "--copy", "./gone.gguf").code == 0
    (program.directory / "gone.gguf").unlink()
    hub.hub.strike("missing_404", paths="*Big*")
    hub.hub.content = replace(hub.hub.content, repositories=hub.hub.content.repositories[:1])
    ran = program("update")
    assert ran.code == 3
    assert ran.out.splitlines() == [
        "big:q4_k_m    not updated",
        "gone:latest   cannot be checked: the file it came from is gone",
        "kept:latest   up to date",
        "small:q4_k_m  up to date",
    ]
    assert "error: " in ran.err
    (model,) = json.loads(program("-q", "update", "gone", "--json").out)["models"]
    assert model == {"name": "gone:latest", "state": "no_source", "source": "file:[DIR]/gone.gguf"}
    (program.directory / "kept.gguf").write_bytes(model_bytes(5))
    assert program("verify", "kept").code == 5
    assert program("-q", "update", "kept") == Ran(0, "kept:latest  updated\n", "")
    assert program("verify", "kept").code == 0


def test_names_that_are_not_there(program: Program) -> None:
    for command in ("verify", "repair", "update"):
        assert program(command, "nope").code == 3
        assert program(command, "a b").code == 2
    assert program("repair").err.startswith("error: NAME... is missing.")
    for command in ("verify", "update"):
        assert program(command) == Ran(0, "", "There are no models yet. Pull one: zhibei pull smollm2:135m\n")
        assert json.loads(program(command, "--json").out) == {"models": []}


def test_files_used_in_place(stocked: Program) -> None:
    assert stocked("verify", "tiny", "tiny:latest") == Ran(0, "tiny:latest  unchanged in its place\n", "")
    (stocked.directory / "tiny.gguf").unlink()
    ran = stocked("verify")
    assert (ran.code, ran.out) == (5, "tiny:latest  broken: the file [DIR]/tiny.gguf is missing\n")
    assert stocked("-q", "repair", "tiny").code == 3


def test_a_manifest_that_cannot_be_read(stocked: Program) -> None:
    assert stocked("-q", "cp", "tiny", "other").code == 0
    next((stocked.home / "manifests" / "tiny").glob("*.json")).write_text("{")
    ran = stocked("verify")
    assert ran.code == 5
    first, second = ran.out.splitlines()
    assert first == "other:latest  unchanged in its place"
    assert second.startswith("tiny:latest   broken: ")
    assert stocked("-q", "repair", "tiny").code == 5


@NEEDS_SIGNALS
def test_downloads_under_way_and_cut_off(program: Program, hub: RunningHub) -> None:
    with stalled_pull(program, hub):
        ran = program("list", "--partial")
        assert [line.split()[-2:] for line in ran.out.splitlines()[1:]] == [["under", "way"]]
        assert ran.err == ""
        (part,) = json.loads(program("list", "--partial", "--json").out)["partial"]
        assert (part["active"], part["total_bytes"]) == (True, len(model_bytes(6000, seed=2)))
        assert part["origin"].startswith("hf:o/Big-GGUF@") and part["origin"].endswith(f"/{BIG}")
        assert json.loads(program("prune", "--json").out)["leftovers"] == []


@NEEDS_SIGNALS
def test_prune(cut_off: Program) -> None:
    ran = cut_off("list", "--partial")
    assert ran.out.splitlines()[1].startswith(f"hf:o/Big-GGUF/{BIG}  ")
    assert ran.out.splitlines()[1].endswith("  5.9 MiB  cut off")
    planned = cut_off("prune", "--dry-run")
    name, size, unit, *kind = planned.out.splitlines()[1].split()
    assert (name, kind) == (f"hf:o/Big-GGUF/{BIG}", ["cut-off", "download"])
    assert planned.err == f"This would be removed: {size} {unit} in all.\n"
    document = json.loads(cut_off("prune", "--dry-run", "--json").out)
    assert document["dry_run"] is True
    assert document["size_bytes"] == document["leftovers"][0]["size_bytes"] > 0
    assert cut_off("prune") == Ran(0, planned.out, f"This was removed: {size} {unit} in all.\n")
    assert cut_off("prune") == Ran(0, "", "There is nothing to remove.\n")
    assert cut_off("list", "--partial") == Ran(0, "", "No download is under way, and none was cut off.\n")


@NEEDS_SIGNALS
def test_prune_by_a_server(cut_off: Program) -> None:
    with serving(cut_off.home) as server:
        here = {"ZHIBEI_PORT": str(server.port)}
        assert "cut off" in cut_off("list", "--partial", env=here).out
        assert len(json.loads(cut_off("prune", "--json", env=here).out)["leftovers"]) == 1
        assert cut_off("prune", env=here).err == "There is nothing to remove.\n"


def test_models_are_left_alone(keeper: Program) -> None:
    assert keeper("prune").out == ""
    assert keeper("verify").code == 0


def test_chinese_and_completion(stocked: Program) -> None:
    assert stocked("completion", "words", "zhibei repair t").out == "tiny:latest\n"
    assert stocked("completion", "words", "zhibei prune --d").out.startswith("--dry-run\t")


def test_a_server_elsewhere_does_this_work_itself(program: Program, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        here = {"ZHIBEI_PORT": str(server.port)}
        assert program("verify", env=here).out == "tiny:latest  whole\n"
        assert program("update", env=here).out == "tiny:latest  up to date\n"
        assert program("verify", "nope", env=here).code == 3
    assert not program.home.exists()
    assert program("verify", env={"ZHIBEI_PORT": str(free_port())}).out == ""
