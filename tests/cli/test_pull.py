"""``zhibei pull``: several references, JSON lines, options of one pull, Ctrl-C and going on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from support.program import Program, Ran, free_port
from support.running_hub import BIG, NUM_SHARDS, RunningHub
from support.serving import serving
from support.terminal import Terminal
from zhibei.cli.json_lines import EVENTS

FIGURES = {"done", "total", "rate_bytes_per_s", "remaining_s"}


def lines(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def test_several(program: Program, hub: RunningHub) -> None:
    ran = program("pull", "hf:o/Small-GGUF", "hf:o/Split-GGUF")
    assert (ran.code, ran.out) == (0, "small:q4_k_m\nsplit:q4_k_m\n")
    assert "small:q4_k_m: tiny, llama, Q4_0, 10.5 KiB\n" in ran.err


def test_one_that_fails_does_not_stop_the_next(program: Program, hub: RunningHub) -> None:
    ran = program("-q", "pull", "nothing:1b", "a b", "hf:o/Missing-GGUF", "hf:o/Small-GGUF")
    assert (ran.code, ran.out) == (3, "small:q4_k_m\n")
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "nothing:1b" in errors[0] and "'a b'" in errors[1] and "Missing" in errors[2]
    assert program("-q", "pull", "a b", "nothing:1b").code == 2


def test_one_name_is_for_one_model(program: Program) -> None:
    ran = program("pull", "hf:o/Small-GGUF", "hf:o/Big-GGUF", "--name", "mine")
    assert ran == Ran(2, "", "error: --name is for one model, and there are 2.\n")


def test_json_lines(program: Program, hub: RunningHub) -> None:
    ran = program("pull", "hf:o/Split-GGUF", "hf:o/Small-GGUF", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = lines(ran)
    assert {line["event"] for line in found} == {"inspected", "progress", "pulled"}
    for line in found:
        fields = set(EVENTS[line["event"]][0]) - {"…"}
        assert fields <= line.keys()
        if line["event"] != "pulled":
            assert line.keys() == fields | {"event", "reference"}
    split = [line for line in found if line["reference"] == "hf:o/Split-GGUF"]
    assert split == found[: len(split)]
    first, *steps, last = split
    assert (first["event"], first["name"], first["info"]["architecture"]) == ("inspected", "split:q4_k_m", "llama")
    assert {step["event"] for step in steps} == {"progress"}
    assert all(step["whole"].keys() == FIGURES and step["whole"]["total"] == first["total_bytes"] for step in steps)
    whole = [step["whole"]["done"] for step in steps]
    assert whole == sorted(whole)
    assert (whole[-1], steps[-1]["remaining_s"]) == (first["total_bytes"], 0.0)
    del last["event"], last["reference"]
    assert last == json.loads(program("show", "split:q4_k_m", "--json").out)
    assert len(last["files"]) == NUM_SHARDS


def test_notices_are_json_too(program: Program, hub: RunningHub) -> None:
    hub.hub.strike("flipped_byte_once", paths="*.gguf")
    found = lines(program("--lang", "en", "pull", "hf:o/Big-GGUF", "--json"))
    assert f"{BIG} did not come as promised; comparing it with its source." in [line.get("message") for line in found]
    assert found[-1]["event"] == "pulled"


def test_an_error_is_told_where_other_commands_tell_it(program: Program, hub: RunningHub) -> None:
    ran = program("pull", "hf:o/Missing-GGUF", "hf:o/Small-GGUF", "--json")
    assert ran.code == 3
    assert ran.err.startswith("error: ")
    assert [line["reference"] for line in lines(ran) if line["event"] == "pulled"] == ["hf:o/Small-GGUF"]


def test_an_endpoint_for_this_pull(program: Program, hub: RunningHub) -> None:
    program.extra["HF_ENDPOINT"] = program.extra["ZHIBEI_HF_MIRRORS"] = f"http://127.0.0.1:{free_port()}"
    assert program("pull", "hf:o/Small-GGUF", "--endpoint", hub.url).out == "small:q4_k_m\n"
    assert hub.hub.num_bytes_sent("Small-Q4_K_M.gguf") > 0


def test_connections_and_rate_for_this_pull(program: Program, hub: RunningHub) -> None:
    ran = program("-q", "pull", "hf:o/Small-GGUF", "--connections", "1", "--max-rate", "800K")
    assert ran == Ran(0, "small:q4_k_m\n", "")


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (("--max-rate", "5q"), "error: --max-rate takes bytes a second, not '5q'.\nhint: Write it like 5M, 800K or 2MiB.\n"),
        (("--max-rate", "10"), "error: --max-rate cannot be less than 1KiB.\n"),
        (("--connections", "0"), "error: --connections must be from 1 to 128, not 0.\n"),
        (
            ("--endpoint", "ftp://x"),
            "error: --endpoint cannot be 'ftp://x'.\nhint: Write it like https://host or http://host:port.\n",
        ),
    ],
)
def test_mistakes(program: Program, words: tuple[str, ...], err: str) -> None:
    assert program("pull", "hf:o/Small-GGUF", *words) == Ran(2, "", err)


def test_such_options_work_here_even_if_a_server_runs(program: Program, hub: RunningHub, tmp_path: Path) -> None:
    with serving(tmp_path / "served") as server:
        ran = program("-q", "--port", str(server.port), "pull", "hf:o/Small-GGUF", "--connections", "2")
        assert "small" not in program("--port", str(server.port), "list").out
    assert ran == Ran(0, "small:q4_k_m\n", "")
    assert "small:q4_k_m" in program("list").out


def test_such_options_cannot_be_said_to_another_machine(program: Program) -> None:
    ran = program("--host", "192.0.2.1", "pull", "hf:o/Small-GGUF", "--max-rate", "1M")
    assert ran.code == 2
    assert ran.err.startswith(
        "error: --max-rate only works on this machine's store, but the settings point to the server at http://192.0.2.1:"
    )
    assert not program.home.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
def test_after_ctrl_c_only_the_rest_is_fetched(cut_off: Program, hub: RunningHub) -> None:
    (part,) = json.loads(cut_off("list", "--partial", "--json").out)["partial"]
    before = hub.hub.num_bytes_sent(BIG)
    found = lines(cut_off("pull", "hf:o/Big-GGUF", "--json"))
    progress = [line for line in found if line["event"] == "progress"]
    assert progress[0]["done"] == part["size_bytes"]
    assert progress[0]["rate_bytes_per_s"] is None
    assert found[-1]["event"] == "pulled"
    # The header is looked at again before.
    assert hub.hub.num_bytes_sent(BIG) - before < part["total_bytes"] * 0.75
    assert json.loads(cut_off("list", "--partial", "--json").out) == {"partial": []}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_bars(program: Program, hub: RunningHub) -> None:
    with Terminal(program.command("pull", "hf:o/Split-GGUF"), program.environment) as terminal:
        assert terminal.wait_for_end() == 0
        assert "in all" in terminal.screen and "100%" in terminal.screen
        assert terminal.screen.splitlines()[-1] == "split:q4_k_m"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_what_is_said_meanwhile_stands_above_the_bars(program: Program, hub: RunningHub) -> None:
    hub.hub.strike("flipped_byte_once", paths="*.gguf")
    with Terminal(program.command("pull", "hf:o/Big-GGUF"), program.environment) as terminal:
        assert terminal.wait_for_end() == 0
    # The line of the bar is taken away, the notice written there, and the bar drawn again below.
    notice = f"\r\x1b[2K\x1b[33mnotice:\x1b[0m {BIG} did not come as promised; comparing it with its source.\r\n{BIG}"
    assert notice in terminal.raw
    assert terminal.screen.splitlines()[-1] == "big:q4_k_m"


def test_a_log_gets_plain_lines(program: Program, hub: RunningHub) -> None:
    err = program("pull", "hf:o/Big-GGUF").err.splitlines()
    assert err[0] == "big:q4_k_m: tiny, llama, Q4_0, 5.9 MiB"
    assert err[1].startswith(f"{BIG}: 0% (0 B / 5.9 MiB)")
    assert err[-1].startswith(f"{BIG}: 100% (5.9 MiB / 5.9 MiB)")
    assert not any("\x1b" in line or "\r" in line for line in err)
