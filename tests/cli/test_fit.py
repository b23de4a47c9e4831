"""``zhibei fit``: the whole answer, the table of quantisations, remote models, other machines, and mistakes."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from hubs.content import Content, Repository
from support.gguf_writer import tiny_model, u32
from support.models import model_bytes
from support.program import Program, Ran
from support.running_hub import RunningHub
from support.safetensors_writer import repository_files
from support.sharded_hub import repository, sharded
from zhibei.cli.render import columns
from zhibei.hardware.detect import detect
from zhibei.hardware.measured import fingerprint
from zhibei.runtime.measurements import Measurements
from zhibei.runtime.runs import Run

OFFLINE = {"ZHIBEI_OFFLINE": "true"}
DESKTOP = "rtx3060,ram=32g,ddr5-5600x2,cpu=i5-12400"
WITHOUT_CARD = "ram=32g,ddr5-5600x2,cpu=i5-12400"
SMALL = "ram=8g,ddr4-3200x2,cores=4"


@pytest.fixture
def asker(program: Program) -> Program:
    """The program, with the engine that models of other machines are planned for."""
    program.extra["ZHIBEI_ENGINE"] = "llama.cpp"
    return program


def forms(ran: Ran) -> list[dict[str, Any]]:
    assert ran.code == 0, ran.err
    (model,) = json.loads(ran.out)["models"]
    found: list[dict[str, Any]] = model["forms"]
    return found


def test_a_model_that_is_here(stocked: Program) -> None:
    ran = stocked("fit", "tiny")
    assert ran.code == 0, ran.err
    head, verdict, *rest = ran.out.splitlines()
    assert head.startswith("tiny:latest  (")
    assert verdict.startswith("Runs")
    assert [line for line in rest if line and not line.startswith(" ")][:2] == ["How it runs", "Memory"]
    assert "weights " in ran.out and "Rule of thumb" in ran.out
    assert max(map(columns, ran.out.splitlines())) <= 80
    assert "zhibei pull" not in ran.err


def test_what_kernels_would_do_for_a_machine_that_could_have_them(stocked: Program) -> None:
    """Of a described machine: the same wherever the test runs."""
    stocked.extra["ZHIBEI_ENGINE"] = "llama.cpp"
    ran = stocked("fit", "tiny", "--hardware", WITHOUT_CARD, "--json")
    assert ran.code == 0, ran.err
    (model,) = json.loads(ran.out)["models"]
    gain, (form,) = model["kernels"], model["forms"]
    assert gain["is_used"] is False and gain["hint"] is None
    assert gain["plain_speed"] == form["plans"][0]["speed"]
    assert gain["speed"]["prompt_tokens_per_s"] > gain["plain_speed"]["prompt_tokens_per_s"]
    told = stocked("fit", "tiny", "--hardware", WITHOUT_CARD).out
    assert "Kernels        with zhibei-kernels answers about " in told
    beside_a_card = stocked("fit", "tiny", "--hardware", DESKTOP)
    assert "zhibei-kernels" not in beside_a_card.out + beside_a_card.err


def test_this_machine_is_measured_once_and_any_other_never(stocked: Program) -> None:
    path = stocked.home / "state" / "hardware.json"
    assert stocked("fit", "tiny", "--hardware", SMALL).code == 0
    assert not path.exists()
    assert stocked("fit", "tiny").code == 0
    kept = path.read_bytes()
    assert stocked("recommend", "--limit", "1").code == 0
    assert path.read_bytes() == kept


def test_json_of_a_model_that_is_here(stocked: Program) -> None:
    (form,) = forms(stocked("fit", "tiny", "--ctx", "1k", "--parallel", "2", "--json"))
    assert (form["name"], form["basis"], form["is_here"], form["label"]) == ("tiny:latest", "headers", True, None)
    (plan,) = form["plans"]
    assert (plan["ctx_size"], plan["num_slots"]) == (1024, 2)
    assert plan["needed_bytes"] == sum(
        line["num_bytes"] for line in plan["memory"] if line["what"] not in ("prompt cache", "checkpoints")
    )
    assert plan["guide"]["needed_bytes"] == form["size_bytes"] + 2 * 10**9


def test_what_was_measured_stands_beside_what_was_predicted(stocked: Program) -> None:
    run = Run(
        machine=fingerprint(detect()),
        measured_at=datetime(2026, 1, 2, tzinfo=timezone.utc),
        model="tiny:latest",
        digest=None,
        architecture="llama",
        quantisation="Q4_0",
        engine="echo",
        engine_version=None,
        kernels=(),
        num_threads=2,
        ctx_size=128,
        depth=0,
        num_prompt_tokens=64,
        prompt_s=None,
        num_generated_tokens=100,
        generation_s=4.0,
        planned_bytes=3 << 30,
        measured_bytes=2 << 30,
        predicted_generation_s=5.0,
    )
    (stocked.home / "state").mkdir(exist_ok=True)
    assert Measurements(stocked.home / "state").record(run)
    ran = stocked("fit", "tiny")
    assert re.search(r"25 tokens/s on 2026-01-0\d \(predicted before: 20\)", ran.out)
    assert "2.0 GiB of memory (planned: 3.0 GiB)" in ran.out
    (form,) = forms(stocked("fit", "tiny", "--json"))
    assert (form["last_run"]["tokens_per_s"], form["last_run"]["predicted_tokens_per_s"]) == (25.0, 20.0)
    assert (form["last_run"]["measured_bytes"], form["last_run"]["planned_bytes"]) == (2 << 30, 3 << 30)


def test_every_quantisation_of_a_catalogue_model_offline(asker: Program) -> None:
    ran = asker("fit", "qwen2.5:7b", "--hardware", DESKTOP, env=OFFLINE)
    assert ran.code == 0
    head, columns_line, *rows = ran.out.splitlines()
    assert head == "qwen2.5:7b  (7.6B)"
    assert columns_line.split() == ["QUANT", "SIZE", "LOSS", "4k", "8k", "32k"]
    assert [row.replace("*", " ").split()[0] for row in rows] == ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"]
    assert sum(row.startswith("* ") for row in rows) == 1
    assert all(re.search(r"(✓✓|✓|~) \d", row) for row in rows)
    assert "could not be read" in ran.err
    assert "* is the best choice: zhibei fit " in ran.err
    assert "published shape" in ran.err.replace("\n", " ")
    doubtful = asker("fit", "qwen3.8:27b", "--hardware", DESKTOP, env=OFFLINE)
    assert "may be half or twice as much" in doubtful.err.replace("\n", " ")
    assert not asker.home.exists()


def test_what_does_not_fit_and_what_would_change_it(asker: Program) -> None:
    ran = asker("fit", "llama3.3:70b", "--hardware", SMALL, env=OFFLINE)
    assert ran.code == 0
    assert "✗" in ran.out and "✓" not in ran.out
    assert "What would change it" in ran.out
    assert "A model of this kind with up to" in ran.out
    assert "best choice" not in ran.err


def test_fewer_bits_for_keys_and_values_take_less(asker: Program) -> None:
    def kept(*words: str) -> int:
        ran = asker("fit", "llama3.1:8b", "--ctx", "32k", "--hardware", SMALL, "--json", *words, env=OFFLINE)
        lines = forms(ran)[0]["plans"][0]["memory"]
        return sum(line["num_bytes"] for line in lines if line["what"] == "kv cache")

    # 32 layers × 2 × 8 heads × 128 × 32768 tokens: two bytes each, and 34 bytes for 32 of them.
    assert kept() == 4 << 30
    assert kept("--kv-type", "q8_0") == (4 << 30) * 17 // 32


def test_a_repository_at_a_hub(asker: Program, hub: RunningHub) -> None:
    ran = asker("fit", "hf:o/Small-GGUF", "--hardware", DESKTOP)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("hf:o/Small-GGUF  (")
    assert ran.err == "Fetch it: zhibei pull hf:o/Small-GGUF\n"
    assert not (asker.home / "models").exists()


def test_forty_shards_within_the_budget(asker: Program, hub: RunningHub, tmp_path: Path) -> None:
    files = sharded(tmp_path / "files")
    content = Content((repository("o/Big-GGUF", files),))
    hub.call(lambda: setattr(hub.hub, "content", content))
    (form,) = forms(asker("fit", "hf:o/Big-GGUF", "--hardware", DESKTOP, "--json"))
    assert len(hub.hub.log) <= 30
    assert hub.hub.num_bytes_sent() <= 8_000_000
    assert form["basis"] == "some headers"
    assert form["size_bytes"] == sum(path.stat().st_size for path in files.values())
    weights = sum(line["num_bytes"] for line in form["plans"][0]["memory"] if line["what"] == "weights")
    assert weights == pytest.approx(form["size_bytes"], rel=0.05)


def test_several_quantisations_at_a_hub(asker: Program, hub: RunningHub) -> None:
    files = {f"x-{kind}.gguf": model_bytes(rows) for kind, rows in (("Q4_K_M", 100), ("Q8_0", 200))}
    content = Content((Repository("o/x", {"main": files}),))
    hub.call(lambda: setattr(hub.hub, "content", content))
    ran = asker("fit", "hf:o/x", "--hardware", DESKTOP)
    assert [line.replace("*", " ").split()[0] for line in ran.out.splitlines()[2:]] == ["Q4_K_M", "Q8_0"]
    assert "Only the header of Q4_K_M was read" in ran.err.replace("\n", " ")
    assert [form["ref"] for form in forms(asker("fit", "hf:o/x", "--json"))] == ["hf:o/x:Q4_K_M", "hf:o/x:Q8_0"]


def test_a_format_that_the_engine_does_not_read(asker: Program, hub: RunningHub) -> None:
    content = Content((Repository("o/Tensors", {"main": repository_files()}),))
    hub.call(lambda: setattr(hub.hub, "content", content))
    ran = asker("fit", "hf:o/Tensors", "--hardware", DESKTOP)
    assert ran.code == 0
    assert ran.out.splitlines()[1] == "Not supported"
    assert "llama.cpp does not read the format safetensors." in ran.out
    assert "zhibei search" in ran.out
    assert "weights" in ran.out


@pytest.mark.parametrize(
    "body",
    [b"<html>" + bytes(9000), tiny_model(**{"llama.block_count": u32(2**31)}).build() + bytes(9000)],
    ids=["page", "layers"],
)
def test_a_hostile_header_is_an_error(asker: Program, hub: RunningHub, body: bytes) -> None:
    content = Content((Repository("o/x", {"main": {"x-Q4_0.gguf": body}}),))
    hub.call(lambda: setattr(hub.hub, "content", content))
    ran = asker("fit", "hf:o/x")
    assert (ran.code != 0, ran.out) == (True, "")
    assert ran.err.startswith("error: The model file is damaged or not what it claims to be:")


def test_several_models_one_of_them_nowhere(stocked: Program) -> None:
    ran = stocked("fit", "tiny", "no-such-model", "tiny", env=OFFLINE)
    assert ran.code != 0
    assert ran.out.count("tiny:latest  (") == 2
    assert ran.err.startswith("error: There is no model no-such-model:latest")


@pytest.mark.parametrize(
    ("words", "err"),
    [
        ((), "error: REFERENCE... is missing.\n"),
        (("x", "--ctx", "0"), "error: --ctx takes a number of tokens from 256 to 16777216, not '0'.\n"),
        (("x", "--ctx", "9" * 30), "error: --ctx takes a number of tokens"),
        (("x", "--kv-type", "q9"), "error: --kv-type takes one of "),
        (("x", "--task", "sing"), "error: --task takes one of "),
        (("x", "--hardware", "rtx9999x2"), "error: There is no device"),
        (("x", "--engine", "y"), "error: --engine takes one of "),
    ],
)
def test_mistakes(program: Program, words: tuple[str, ...], err: str) -> None:
    ran = program("fit", *words, env=OFFLINE)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(err)


def test_nothing_heavy_is_loaded_for_help(program: Program) -> None:
    for name in ("fit", "recommend", "advise", "hardware"):
        ran = program(name, "--help", python=("-X", "importtime"))
        assert ran.code == 0
        imported = {line.rpartition("|")[2].strip() for line in ran.err.splitlines() if line.startswith("import time:")}
        tops = {module.partition(".")[0] for module in imported}
        assert not tops & {"asyncio", "aiohttp", "psutil", "xllamacpp", "pydantic", "rich"}
        assert not imported & {"zhibei.app", "zhibei.planner.plan", "zhibei.planner.devices"}
