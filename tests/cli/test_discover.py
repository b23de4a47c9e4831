"""``zhibei discover``, and the models of other servers on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.program import Program, free_port
from support.serving import MODEL, Serving, serving, stored_model
from support.upstreams import PROGRAMS, chunk, faking, serving_others, usage
from zhibei.settings import UpstreamSettings


@pytest.fixture
def config(program: Program) -> Path:
    path = program.directory / "config.toml"
    program.extra["ZHIBEI_CONFIG"] = str(path)
    path.write_text('# My own words.\nmodel = "tiny"  # and more\n')
    return path


@pytest.fixture
def settled(program: Program, config: Path) -> Callable[[str], None]:
    """Name a server in the configuration."""
    return lambda url: config.write_text(f'[upstreams.desk]\nurl = "{url}"\napi_key = "very-secret"\n') and None


def test_what_is_found_is_told_as_what_to_write(program: Program, config: Path) -> None:
    with faking(PROGRAMS["ollama"]) as ollama, faking(PROGRAMS["vllm"]) as vllm:
        ran = program("discover", "--port", str(ollama.port), "--port", str(vllm.port), "--port", str(free_port()))
    assert ran.code == 0
    assert ran.out == (
        '# Ollama 0.12.6: smollm2:135m\n[upstreams.ollama]\nurl = "[URL]"\n\n'
        '# vLLM 0.11.0: Qwen/Qwen3-4B\n[upstreams.vllm]\nurl = "[URL]"\n'
    )
    assert ran.err == "Write this into [DIR]/config.toml, or let it be written: zhibei discover --add\n"
    assert config.read_text() == '# My own words.\nmodel = "tiny"  # and more\n'


def test_add_keeps_what_is_there(program: Program, config: Path) -> None:
    with faking(PROGRAMS["koboldcpp"]) as first, faking(PROGRAMS["koboldcpp"]) as second:
        ports = ("--port", str(first.port), "--port", str(second.port))
        assert program("discover", "--add", *ports).code == 0
        text = config.read_text()
        assert text == (
            '# My own words.\nmodel = "tiny"  # and more\n'
            f'\n# KoboldCpp 1.98: koboldcpp/tiny\n[upstreams.koboldcpp]\nurl = "{first.url}"\n'
            f'\n# KoboldCpp 1.98: koboldcpp/tiny\n[upstreams.koboldcpp-2]\nurl = "{second.url}"\n'
        )
        again = program("discover", "--add", *ports)
        assert (again.code, again.out, config.read_text()) == (0, "", text)
        assert "In the configuration: koboldcpp at [URL]; models: 1." in again.err
        assert "No further server answers." in again.err
        listed = [model["name"] for model in json.loads(program("list", "--json").out)["models"]]
        assert listed == ["upstream:koboldcpp-2/koboldcpp/tiny", "upstream:koboldcpp/koboldcpp/tiny"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes are not kept there")
def test_a_file_that_add_makes_is_its_owners_alone(program: Program) -> None:
    with faking(PROGRAMS["openai"]) as fake:
        assert program("discover", "--add", "--port", str(fake.port)).code == 0
    path = Path(json.loads(program("config", "--json").out)["config_path"].replace("[DIR]", str(program.directory)))
    assert path.stat().st_mode & 0o077 == 0


def test_add_does_not_break_a_file_that_cannot_be_added_to(program: Program, config: Path) -> None:
    config.write_text('upstreams = { old = { url = "http://127.0.0.1:1" } }\n')
    with faking(PROGRAMS["openai"]) as fake:
        ran = program("discover", "--add", "--port", str(fake.port))
    assert ran.code != 0 and "is not valid TOML" in ran.err
    assert config.read_text() == 'upstreams = { old = { url = "http://127.0.0.1:1" } }\n'


def test_nothing_answers(program: Program) -> None:
    ran = program("discover", "--port", str(free_port()))
    assert (ran.code, ran.out, ran.err) == (0, "", "No other server answers.\n")


def test_json(program: Program, settled: Callable[[str], None]) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    settled(gone)
    locked = {"GET /v1/models": (401, {"detail": "no"}), "GET /openapi.json": (200, {"info": {"title": "TabbyAPI"}})}
    with faking(locked) as fake:
        document = json.loads(program("discover", "--json", "--port", str(fake.port)).out)
    assert document["found"] == [
        {
            "name": "tabby",
            "title": "TabbyAPI",
            "kind": "tabby",
            "url": "[URL]",
            "version": None,
            "wants_key": True,
            "in_configuration": False,
            "models": [],
        }
    ]
    (state,) = document["configured"]
    assert state["problem"] == "The server desk at [URL] does not answer." and state["models"] == []


def test_our_own_server_is_not_another_one(program: Program, tmp_path: Path) -> None:
    stored_model(tmp_path / "store")
    with serving(tmp_path / "store") as own:
        port = ("--port", str(own.port))
        assert program("discover", *port, env={"ZHIBEI_PORT": str(own.port)}).out == ""
        assert "[upstreams.zhibei]" in program("discover", *port).out


@pytest.mark.parametrize("host", ["", "a b", "http://x", "x/y", "u@x", "x:1:2:z", "x?y"])
def test_hosts_that_are_none(program: Program, host: str) -> None:
    ran = program("discover", "--host", host, "--port", "1")
    assert ran.code == 2 and ("--host cannot be empty" in ran.err or "is no name or address of a machine" in ran.err)


def test_only_a_server_of_the_settings_is_shown_a_key(program: Program, settled: Callable[[str], None]) -> None:
    with faking(PROGRAMS["openai"]) as known, faking(PROGRAMS["openai"]) as stranger:
        settled(known.url.replace("127.0.0.1", "localhost") + "/v1")
        ran = program("discover", "--port", str(known.port), "--port", str(stranger.port))
        assert "[upstreams.openai]" in ran.out and ran.out.count("upstreams") == 1
        assert {each.headers.get("Authorization") for each in known.heard} == {"Bearer very-secret"}
        assert {each.headers.get("Authorization") for each in stranger.heard} == {None}


def test_the_key_is_never_shown(program: Program, settled: Callable[[str], None]) -> None:
    settled("http://127.0.0.1:1")
    for words in (
        ("config",),
        ("config", "--json"),
        ("discover", "--port", "1"),
        ("discover", "--json", "--port", "1"),
        ("list",),
    ):
        ran = program(*words)
        assert "very-secret" not in ran.out + ran.err
    assert "upstreams.desk.api_key" in program("config").out


def test_their_models_are_listed_shown_and_run(program: Program, settled: Callable[[str], None]) -> None:
    with faking(PROGRAMS["llama-server"]) as fake:
        fake.replies["POST /v1/chat/completions"] = (200, [chunk("Ahoy!"), chunk(reason="stop"), usage(3, 1)])
        settled(fake.url)
        heading, row = program("list").out.split("ADDED")
        assert heading.split()[0] == "NAME" and row.split()[:5] == ["upstream:desk/tiny.gguf", "-", "-", "-", "2048"]
        assert "upstream:desk/tiny.gguf" in program("show", "upstream:desk/tiny.gguf").out
        ran = program("run", "upstream:desk/tiny.gguf", "hello")
    assert (ran.code, ran.out) == (0, "Ahoy!\n"), ran.err


def test_a_server_that_nobody_named(program: Program) -> None:
    for words in (("run", "upstream:shelf/x", "hello"), ("show", "upstream:shelf/x")):
        ran = program(*words)
        assert ran.code != 0 and "There is no server 'shelf' in the configuration." in ran.err
        assert "zhibei discover" in ran.err


def test_one_that_is_down_is_told_of_where_it_is_used(program: Program, settled: Callable[[str], None]) -> None:
    settled(f"http://127.0.0.1:{free_port()}")
    ran = program("run", "upstream:desk/x", "hello")
    assert ran.code != 0 and "The server desk at [URL] does not answer." in ran.err
    assert program("list").code == 0


async def _seen(front: Serving) -> None:
    """A busy machine may be too slow for a look that must not hold up a list."""
    assert front.app is not None
    while not any(model.is_upstream for model in await front.app.all_models()):
        pass


def test_their_models_through_a_server_that_runs(program: Program, tmp_path: Path) -> None:
    stored_model(tmp_path / "store")
    with (
        serving(tmp_path / "store") as behind,
        serving_others(tmp_path / "store", {"desk": UpstreamSettings(behind.url)}) as front,
    ):
        here = {"ZHIBEI_PORT": str(front.port)}
        front.run(lambda: _seen(front))
        assert f"upstream:desk/{MODEL}" in program("list", env=here).out
        assert f"upstream:desk/{MODEL}" in program("show", f"upstream:desk/{MODEL}", env=here).out
        assert program("run", f"upstream:desk/{MODEL}", "one two", env=here).out == "one two\n"
        assert f"upstream:desk/{MODEL}" in program("ps", env=here).out
        assert program("stop", f"upstream:desk/{MODEL}", env=here).code == 0


def test_pull_has_nothing_to_fetch_there(program: Program) -> None:
    ran = program("pull", "upstream:desk/x")
    assert ran.code != 0 and "upstream" in ran.err


def test_a_zhibei_behind(program: Program, settled: Callable[[str], None], tmp_path: Path) -> None:
    stored_model(tmp_path / "store")
    with serving(tmp_path / "store", api_key="very-secret") as behind:
        settled(behind.url)
        assert f"upstream:desk/{MODEL}" in program("list").out
        assert program("run", f"upstream:desk/{MODEL}", "one two").out == "one two\n"
