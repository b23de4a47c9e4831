"""``zhibei ps`` and ``zhibei logs`` of a running server."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from support.program import TIMEOUT_S, Program, Ran
from support.serving import MODEL, Serving, serving, stored_model
from zhibei.engines.echo import EchoEngine
from zhibei.plans import Kernels
from zhibei.settings import Settings, UpstreamSettings


def chat(server: Serving) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "one two three"}]}
    assert httpx.post(server.url + "/v1/chat/completions", json=body).status_code == 200


def write(server: Serving, text: str) -> None:
    async def work() -> None:
        assert server.app is not None
        server.app.pool.logs.write(MODEL, text)

    server.run(work)


def test_ps_counts_what_a_model_did(program: Program, tmp_path: Path) -> None:
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        program.extra["ZHIBEI_PORT"] = str(server.port)
        assert program("ps") == Ran(0, "", "No model is loaded.\n")
        chat(server)
        headings, row = program("ps").out.splitlines()
        assert row.split()[:3] == [MODEL, "echo", "ready"] and "WAITING  REQUESTS  WRITTEN" in headings
        (found,) = json.loads(program("ps", "--json").out)["models"]
        assert found["num_waiting"] == 0 and found["num_crashes"] == 0 and found["pinned"] is False and found["aliases"] == []
        assert found["load_s"] is not None and (found["num_requests"], found["num_generated_tokens"]) == (1, 3)
        assert program("ps", env={"ZHIBEI_LANG": "zh"}).code == 0


def test_ps_tells_which_model_is_without_its_graphics_processor(program: Program, tmp_path: Path) -> None:
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        program.extra["ZHIBEI_PORT"] = str(server.port)
        chat(server)

        async def fail() -> None:
            assert server.app is not None
            wanted = server.app.pool._wanted
            wanted.update({key: replace(each, device_problem="CUDA error: x") for key, each in wanted.items()})

        server.run(fail)
        told = f"notice: The graphics processor fails {MODEL}, which is computed without it: CUDA error: x\n"
        assert program("ps").err == told
        assert json.loads(program("ps", "--json").out)["models"][0]["device_problem"] == "CUDA error: x"


def test_ps_tells_which_kernels_compute_a_model(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Kernels | None] = [Kernels("0.1.0", "avx2")]
    status = EchoEngine.status
    monkeypatch.setattr(EchoEngine, "status", lambda engine: replace(status(engine), kernels=found[-1]))
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        program.extra["ZHIBEI_PORT"] = str(server.port)
        chat(server)
        ran = program("ps")
        assert ran.err == "" and ran.out.splitlines()[1].split()[:4] == [MODEL, "echo", "avx2", "ready"]
        shown = {"version": "0.1.0", "level": "avx2", "attention": False, "problem": None, "hint": None}
        assert json.loads(program("ps", "--json").out)["models"][0]["kernels"] == shown
        found.append(Kernels("0.1.0", None, problem="they are for Linux on x86-64"))
        ran = program("ps")
        assert ran.err == f"notice: {MODEL} is computed without zhibei-kernels: they are for Linux on x86-64\n"
        assert ran.out.splitlines()[1].split()[:3] == [MODEL, "echo", "ready"]
        found.append(None)
        assert program("ps").err == "" and json.loads(program("ps", "--json").out)["models"][0]["kernels"] is None


def test_ps_and_top_tell_which_other_server_is_down(program: Program, tmp_path: Path) -> None:
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as other:
        urls = {"near": other.url + "/v1", "gone": "http://127.0.0.1:1/v1"}
        settings = Settings(upstreams={name: UpstreamSettings(url) for name, url in urls.items()})
        with serving(tmp_path / "own", settings=settings) as server:
            program.extra["ZHIBEI_PORT"] = str(server.port)
            told = "The models of gone at [URL]/v1 cannot be used now. Why: zhibei discover"
            ran = program("ps")
            assert (ran.code, ran.out) == (0, "") and ran.err.splitlines() == [f"notice: {told}", "No model is loaded."]
            assert program("top", "--once").out.splitlines()[1:] == [told, "No model is loaded."]
            near = {"name": "near", "url": "[URL]/v1", "num_models": 1, "is_up": True}
            gone = {"name": "gone", "url": "[URL]/v1", "num_models": 0, "is_up": False}
            for verb in ("ps", "top"):
                assert json.loads(program(verb, "--json").out)["upstreams"] == [near, gone]


def test_logs_without_a_server(program: Program) -> None:
    ran = program("logs", "tiny")
    assert ran.code == 3 and "no server is running" in ran.err and ran.out == ""


def test_logs(program: Program, tmp_path: Path) -> None:
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        program.extra["ZHIBEI_PORT"] = str(server.port)
        assert program("logs", "tiny") == Ran(0, "", "The engine of tiny:latest has written nothing yet.\n")
        assert program("logs", "nowhere").code == 3
        write(server, "first\nsecond \x1b[31mred\nthird")
        lines = program("logs", "tiny", "-n", "2").out.splitlines()
        assert [line.partition("  ")[2] for line in lines] == ["second [31mred", "third"]
        told = [json.loads(line) for line in program("logs", "tiny", "--json").out.splitlines()]
        assert [line["text"] for line in told] == ["first", "second \x1b[31mred", "third"] and "at" in told[0]


def test_logs_are_followed_until_ctrl_c(program: Program, tmp_path: Path) -> None:
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        program.extra["ZHIBEI_PORT"] = str(server.port)
        write(server, "first")
        command = program.command("logs", "tiny", "-f", "--json")
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=program.environment, cwd=program.directory
        ) as running:
            assert running.stdout is not None
            assert json.loads(running.stdout.readline())["text"] == "first"
            write(server, "second")
            assert json.loads(running.stdout.readline())["text"] == "second"
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 130 and b"Traceback" not in err
