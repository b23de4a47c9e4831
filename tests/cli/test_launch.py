"""``zhibei launch``: what each client is told, files that are never spoiled, and a client that is started."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.gguf_writer import text
from support.models import model_bytes
from support.program import Program
from support.serving import MODEL, Serving, import_model, serving, stored_model
from zhibei.cli.clients import CLIENTS
from zhibei.cli.clients.base import ConfigFile, Setup, Target
from zhibei.cli.clients.marked import BEGIN, END, with_part
from zhibei.cli.config_files import write
from zhibei.errors import BadSetting

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

URL = "http://127.0.0.1:11435"
KEY = "zb-secret"


def setup(name: str, key: str | None = KEY) -> Setup:
    return CLIENTS[name].setup(Target(URL, "qwen3:8b", key, 32_768))


def file_of(name: str, key: str | None = KEY) -> ConfigFile:
    found = setup(name, key).file
    assert found is not None
    return found


def test_each_client_is_told_where_and_what() -> None:
    claude = setup("claude-code").environment
    assert (claude["ANTHROPIC_BASE_URL"], claude["ANTHROPIC_AUTH_TOKEN"], claude["ANTHROPIC_MODEL"]) == (URL, KEY, "qwen3:8b")
    assert claude["ANTHROPIC_API_KEY"] == ""
    aider = setup("aider")
    assert aider.environment == {"OPENAI_API_BASE": f"{URL}/v1", "OPENAI_API_KEY": KEY}
    assert aider.arguments[:2] == ("--model", "openai/qwen3:8b")
    webui = setup("open-webui")
    assert webui.environment["OPENAI_API_BASE_URL"] == f"{URL}/v1" and webui.arguments == ("serve",)
    assert len(setup("sillytavern").steps) == 5


def test_codex_is_told_by_valid_toml() -> None:
    chosen = setup("codex")
    overrides = [chosen.arguments[number + 1] for number, word in enumerate(chosen.arguments) if word == "-c"]
    told = tomllib.loads("\n".join(overrides))
    assert told["model_provider"] == "zhibei" and told["model_context_window"] == 32_768
    assert told["model_providers"]["zhibei"] == {
        "name": "Zhibei",
        "base_url": f"{URL}/v1",
        "wire_api": "responses",
        "env_key": "ZHIBEI_API_KEY",
    }
    assert chosen.environment == {"ZHIBEI_API_KEY": KEY} and KEY not in file_of("codex").fragment
    assert "env_key" not in " ".join(setup("codex", None).arguments)


def test_every_client_has_something_without_a_key() -> None:
    for name, client in CLIENTS.items():
        found = setup(name, None)
        assert client.name == name and (found.environment or found.arguments or found.file or found.steps)
        assert all(found.environment.get(secret) for secret in client.secret_names if name != "codex")


def test_codex_keeps_a_configuration_as_it_is() -> None:
    merge = file_of("codex").merge
    before = '# mine\nmodel = "gpt-5.5"\n\n[model_providers.other]\nname = "Other"\n'
    merged = merge(before)
    assert merged is not None and merged.startswith(before)
    assert set(tomllib.loads(merged)["model_providers"]) == {"other", "zhibei"}
    assert merge(merged) == merged
    again = CLIENTS["codex"].setup(Target("http://10.0.0.5:1", "m")).file
    assert again is not None and (changed := again.merge(merged)) is not None
    assert "10.0.0.5" in changed and URL not in changed and changed.count(BEGIN) == 1 and changed.startswith(before)
    assert merge('[model_providers.zhibei]\nname = "mine"\n') is None
    assert merge("not [ toml") is None
    assert merge(f"{BEGIN}\nhalf of it") is None


def test_claude_code_keeps_settings_and_other_variables() -> None:
    merge = file_of("claude-code").merge
    before = {"permissions": {"allow": ["x"]}, "env": {"MINE": "1", "ANTHROPIC_BASE_URL": "old"}}
    merged = json.loads(merge(json.dumps(before)) or "")
    assert merged["permissions"] == before["permissions"] and merged["env"]["MINE"] == "1"
    assert merged["env"]["ANTHROPIC_BASE_URL"] == URL
    for broken in ("{", "[]", '{"env": []}', '{"a": 1 // a comment\n}'):
        assert merge(broken) is None
    assert json.loads(merge(None) or "")["env"]["ANTHROPIC_MODEL"] == "qwen3:8b"


def test_continue_leaves_a_persons_own_file_alone() -> None:
    merge = file_of("continue").merge
    merged = merge(None)
    assert merged is not None and f'apiBase: "{URL}/v1"' in merged and merge(merged) == merged
    assert merge("name: mine\nmodels: []\n") is None


def test_a_part_stands_between_its_marks() -> None:
    assert with_part(None, "x") == f"{BEGIN}\nx\n{END}\n"
    assert with_part(f"a\n{BEGIN}\nold\n{END}\nb\n", "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"
    for spoiled in (f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"):
        assert with_part(spoiled, "x") is None


def test_a_file_is_copied_before_it_changes_and_never_spoiled(tmp_path: Path) -> None:
    file = file_of("codex")
    path, backup = write(file, tmp_path)
    assert backup is None and path == tmp_path / ".codex" / "config.toml"
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
    assert write(file, tmp_path) == (path, None)
    path.write_text("# mine\n")
    _, backup = write(file, tmp_path)
    assert backup is not None and backup.read_text() == "# mine\n" and "[model_providers.zhibei]" in path.read_text()
    for spoiled in (b"not [ toml", b"\xff\xfe"):
        path.write_bytes(spoiled)
        with pytest.raises(BadSetting):
            write(file, tmp_path)
        assert path.read_bytes() == spoiled
    assert sorted(each.name for each in path.parent.iterdir()) == sorted((path.name, backup.name))


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("# mine\n")
    link = tmp_path / ".codex" / "config.toml"
    link.parent.mkdir()
    link.symlink_to(real)
    write(file_of("codex"), tmp_path)
    assert link.is_symlink() and "zhibei" in real.read_text()


@pytest.fixture
def served(program: Program, tmp_path: Path) -> Iterator[Serving]:
    """A server with a key, which the program knows."""
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served", api_key=KEY) as server:
        person = tmp_path / "person"
        person.mkdir()
        program.extra |= {"ZHIBEI_PORT": str(server.port), "ZHIBEI_API_KEY": KEY, "HOME": str(person)}
        yield server


def fake(program: Program, name: str, code: int = 0) -> Path:
    """A client that says how it was started."""
    said = program.directory / "said.json"
    tool = program.directory / "bin" / name
    tool.parent.mkdir()
    tool.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], dict(os.environ)], open({str(said)!r}, 'w'))\nsys.exit({code})\n"
    )
    tool.chmod(0o755)
    program.extra["PATH"] = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    return said


def test_the_clients_are_listed(program: Program) -> None:
    lines = program("launch").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(CLIENTS)


def test_without_a_server_it_says_how_to_start_one(program: Program) -> None:
    ran = program("launch", "codex", "--print")
    assert ran.code == 4 and "zhibei serve" in ran.err


@pytest.mark.skipif(os.name != "posix", reason="a script as a program")
def test_a_client_is_started_with_what_it_needs(program: Program, served: Serving) -> None:
    said = fake(program, "claude", code=7)
    ran = program("launch", "claude-code", "--model", "tiny", "--", "--resume", "-p", "hi there")
    arguments, environment = json.loads(said.read_text())
    assert ran.code == 7 and arguments == ["--resume", "-p", "hi there"]
    assert environment["ANTHROPIC_BASE_URL"] == served.url and environment["ANTHROPIC_AUTH_TOKEN"] == KEY
    assert environment["ANTHROPIC_MODEL"] == MODEL
    assert KEY not in ran.out + ran.err and "export ANTHROPIC_AUTH_TOKEN='********'" in ran.out
    assert "128 tokens; Claude Code wants 32768 or more" in ran.err


def test_only_printed_it_starts_and_writes_nothing(program: Program, served: Serving) -> None:
    said = fake(program, "codex")
    ran = program("launch", "codex", "--model", "tiny", "--print")
    assert ran.code == 0 and "[model_providers.zhibei]" in ran.out and KEY not in ran.out + ran.err
    assert not said.exists() and list((program.directory / "person").iterdir()) == []
    assert f"codex -c model_provider=zhibei -m {MODEL}" in ran.err


def test_an_agent_is_warned_of_a_model_without_tools(program: Program, served: Serving, tmp_path: Path) -> None:
    for name, template in (("plain", "{{ messages }}"), ("handy", "{{ tools }}{{ messages }}")):
        source = tmp_path / f"{name}.gguf"
        source.write_bytes(model_bytes(4, **{"tokenizer.chat_template": text(template)}))
        import_model(tmp_path / "served", source, name)
    warning = "plain:latest was not made for tools, and Codex does not work without. Choose another with --model."
    assert f"notice: {warning}" in program("launch", "codex", "--model", "plain", "--print").err.splitlines()
    assert "not made for tools" not in program("launch", "codex", "--model", "handy", "--print").err
    assert "not made for tools" not in program("launch", "aider", "--model", "plain", "--print").err


def test_written_it_is_in_the_persons_configuration(program: Program, served: Serving) -> None:
    ran = program("launch", "continue", "--model", "tiny", "--write")
    path = program.directory / "person" / ".continue" / "config.yaml"
    assert ran.code == 0 and KEY in path.read_text() and KEY not in ran.out + ran.err
    assert program("launch", "aider", "--model", "tiny", "--write").code == 2


def test_a_model_that_is_not_there_is_not_used(program: Program, served: Serving) -> None:
    ran = program("launch", "aider", "--model", "nowhere")
    assert ran.code == 3 and "zhibei list" in ran.err
    ran = program("launch", "dance")
    assert ran.code == 2


def test_steps_are_told_where_nothing_is_started(program: Program, served: Serving) -> None:
    ran = program("launch", "sillytavern", "--model", "tiny")
    assert ran.code == 0 and "API Type: llama.cpp; API URL: [URL]" in ran.err and KEY not in ran.err
    assert program("launch", "sillytavern", "--model", "tiny", env={"ZHIBEI_LANG": "zh"}).code == 0
