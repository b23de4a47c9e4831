"""Commands that look and change nothing but the store: exit code and both streams, in both languages."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.program import Program, Ran
from support.serving import serving, stored_model
from zhibei import __version__


def test_an_empty_store_says_what_to_do(program: Program) -> None:
    assert program("list") == Ran(0, "", "There are no models yet. Pull one: zhibei pull smollm2:135m\n")
    assert program("--lang", "zh", "list") == Ran(0, "", "还没有模型。获取一个：zhibei pull smollm2:135m\n")
    assert json.loads(program("list", "--json").out) == {"models": []}
    assert not program.home.exists()


def test_pull_tells_on_stderr_and_gives_the_name_on_stdout(stocked: Program) -> None:
    ran = stocked("pull", "./tiny.gguf", "--name", "mine:v1")
    assert ran.code == 0
    assert ran.out == "mine:v1\n"
    assert "mine:v1: tiny, llama, Q4_0, " in ran.err


def test_list(stocked: Program) -> None:
    assert stocked("list").out == (
        "NAME            SIZE  PARAMETERS  QUANTISATION  CONTEXT  ADDED\n"
        "tiny:latest  6.5 KiB        3.2K  Q4_0              128  [TIME]\n"
    )
    assert stocked("ls", env={"ZHIBEI_LANG": "zh"}).out.splitlines()[0] == "名称            大小  参数量  量化  上下文  添加时间"


def test_the_language_comes_from_the_locale_where_nothing_says_otherwise(program: Program) -> None:
    assert program("list", env={"LANG": "zh_CN.UTF-8"}).err.startswith("还没有模型")
    assert program("list", env={"LANG": "zh_CN.UTF-8", "ZHIBEI_LANG": "en"}).err.startswith("There are")
    assert program("--lang=zh", "--quiet", "--foo", env={"ZHIBEI_LANG": "en"}).err.startswith("错误：没有选项 --foo。")


def test_list_json_is_stable(stocked: Program) -> None:
    (model,) = json.loads(stocked("list", "--json").out)["models"]
    assert model == {
        "name": "tiny:latest",
        "size_bytes": model["size_bytes"],
        "format": "gguf",
        "architecture": "llama",
        "num_parameters": 3232,
        "quantisation": "Q4_0",
        "context_length": 128,
        "source": "file:[DIR]/tiny.gguf",
        "licence": "apache-2.0",
        "in_place": True,
        "added_at": "[ISO TIME]",
        "problem": None,
    }
    assert isinstance(model["size_bytes"], int)


def test_show(stocked: Program) -> None:
    lines = stocked("show", "tiny").out.splitlines()
    assert lines[0] == "Name              tiny:latest"
    assert "Architecture      llama" in lines
    document = json.loads(stocked("show", "tiny", "--json").out)
    assert document["files"][0]["role"] == "model"
    assert document["info"]["tensor_types"][0].keys() == {"type", "num_tensors", "size_bytes"}


def test_copy_and_remove(stocked: Program) -> None:
    assert stocked("cp", "tiny", "other") == Ran(0, "", "other is now another name of tiny.\n")
    assert stocked("rm", "tiny", "other") == Ran(0, "", "Removed tiny.\nRemoved other.\n")
    assert stocked("rm", "tiny").code == 3


def test_a_model_that_is_not_there(program: Program) -> None:
    assert program("show", "nope") == Ran(3, "", "error: There is no model nope:latest.\nhint: zhibei list shows what is here.\n")
    assert program("--lang", "zh", "show", "nope") == Ran(
        3, "", "错误：没有模型 nope:latest。\n提示：用 zhibei list 查看本机上的模型。\n"
    )


def test_a_model_whose_file_has_gone_is_listed_as_broken(stocked: Program) -> None:
    (stocked.directory / "tiny.gguf").unlink()
    ran = stocked("list")
    assert ran.code == 0
    assert "tiny:latest" in ran.out
    assert ran.err.startswith("notice: tiny:latest cannot be used: ")
    assert stocked("show", "tiny").code == 5 or "Problem" in stocked("show", "tiny").out
    assert stocked("run", "tiny", "hi").code == 5


def test_what_is_wrong_with_a_model_is_told_in_chinese_but_is_english_in_json(stocked: Program) -> None:
    (stocked.directory / "tiny.gguf").unlink()
    problem = "文件 [DIR]/tiny.gguf 不存在"
    assert stocked("--lang", "zh", "list").err == f"注意：tiny:latest 无法使用：{problem}\n"
    assert problem in stocked("--lang", "zh", "run", "tiny", "hi").err
    assert stocked("--lang", "zh", "verify", "tiny").out == f"tiny:latest  已损坏：{problem}\n"
    (shown,) = json.loads(stocked("--lang", "zh", "list", "--json").out)["models"]
    assert shown["problem"] == "the file [DIR]/tiny.gguf is missing"


@pytest.mark.parametrize(
    ("words", "code", "err"),
    [
        (("lst",), 2, "error: There is no command lst.\nhint: Did you mean list?\n"),
        (("xyzzy",), 2, "error: There is no command xyzzy.\nhint: Try: zhibei --help\n"),
        (("list", "--jsno"), 2, "error: There is no option --jsno.\nhint: Did you mean --json?\n"),
        (("list", "extra"), 2, "error: Unexpected argument: extra\nhint: Try: zhibei list --help\n"),
        (("show",), 2, "error: NAME is missing.\nhint: Try: zhibei show --help\n"),
        (("list", "--json=x"), 2, "error: --json takes no value.\nhint: Try: zhibei list --help\n"),
        (("--port",), 2, "error: --port needs a value.\nhint: Try: zhibei --help\n"),
        (("--port", "x", "list"), 2, "error: --port takes a whole number, not 'x'.\n"),
        (("--port", "99999", "list"), 2, "error: --port must be from 0 to 65535, not 99999.\n"),
        (("--lang", "fr", "list"), 2, "error: --lang takes one of en, zh, not 'fr'.\n"),
        (("run", "tiny", "hi", "--temp", "9"), 2, "error: --temperature must be from 0 to 5, not 9.\n"),
        (("run", "tiny", "hi", "--top-p", "nan"), 2, "error: --top-p must be from 0 to 1, not nan.\n"),
        (("run", "tiny", "hi", "-c", "1"), 2, "error: --ctx-size must be from 16 to 16777216, not 1.\n"),
        (("completion", "tcsh"), 2, "error: There is no completion for 'tcsh'.\nhint: Shells are: bash, zsh, fish\n"),
        (("show", "a b"), 2, None),
        (("--config", "missing.toml", "list"), 2, "error: The configuration file missing.toml does not exist.\n"),
        (("stop", "tiny"), 3, "error: tiny is not loaded: no server is running.\nhint: Only a server keeps models loaded.\n"),
        (("run", "tiny"), 2, 'error: There is no prompt.\nhint: Write it after the model: zhibei run tiny "…"\n'),
        (("run", "nope", "hi"), 3, None),
    ],
)
def test_mistakes(program: Program, words: tuple[str, ...], code: int, err: str | None) -> None:
    ran = program(*words)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err == err if err is not None else ran.err.startswith("error: ")


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (("lst",), "错误：没有命令 lst。\n提示：您是不是要用 list？\n"),
        (("list", "--jsno"), "错误：没有选项 --jsno。\n提示：您是不是要用 --json？\n"),
        (("show",), "错误：缺少 NAME。\n提示：请试试：zhibei show --help\n"),
        (("--port",), "错误：--port 需要一个值。\n提示：请试试：zhibei --help\n"),
        (("run", "tiny", "hi", "--temp", "9"), "错误：--temperature 必须在 0 到 5 之间，而不是 9。\n"),
    ],
)
def test_mistakes_in_chinese(program: Program, words: tuple[str, ...], err: str) -> None:
    assert program("--lang", "zh", *words) == Ran(2, "", err)


def test_config_names_the_origin_of_each_value(program: Program) -> None:
    (program.directory / "z.toml").write_text('keep_alive = "7m"\n[server]\napi_key = "hush"\n')
    ran = program("--config", "z.toml", "--home", "elsewhere", "config", "--json")
    document = json.loads(ran.out)
    rows = {row["name"]: row for row in document["settings"]}
    assert document["config_path"] == "z.toml"
    assert rows["keep_alive"] == {"name": "keep_alive", "value": "7m", "origin": "file", "from": "z.toml"}
    assert rows["home"] == {"name": "home", "value": "[DIR]/elsewhere", "origin": "flag", "from": None}
    assert rows["engine"] == {"name": "engine", "value": "echo", "origin": "environment", "from": "ZHIBEI_ENGINE"}
    assert rows["server.api_key"]["value"] == "********"
    table = program("--config", "z.toml", "config").out
    assert "hush" not in table
    assert "configuration file z.toml" in table
    assert program("--config", "z.toml", "config", "path") == Ran(0, "z.toml\n", "")


def test_version(program: Program) -> None:
    assert program("version").out == f"zhibei {__version__}\n" == program("--version").out
    assert json.loads(program("version", "--json").out)["version"] == __version__


def test_help_lists_every_command_in_both_languages(program: Program) -> None:
    english, chinese = program("--help"), program("--lang", "zh", "-h")
    assert english.err == chinese.err == ""
    assert "  rm          Remove models.\n" in english.out
    assert "  rm          删除模型。\n" in chinese.out
    assert english.out == program().out
    assert chinese.out.startswith("用法：zhibei [选项] 命令 [参数]\n\n  了解机器，获取模型，运行模型，提供服务。\n")
    for text in (program("--lang", "zh", "run", "--help").out, chinese.out):
        assert not any(word in text for word in ("Usage", "Options", "Show", "default", " the "))


def test_help_is_shown_even_where_the_settings_do_not_parse(program: Program) -> None:
    broken = {"ZHIBEI_PORT": "nonsense"}
    assert program("--help", env=broken).code == 0
    assert program("list", "--help", env=broken).code == 0
    assert program("list", env=broken).code == 2


def test_ps_without_a_server(program: Program) -> None:
    assert program("ps") == Ran(0, "", "No server is running. Start one: zhibei serve\n")
    assert json.loads(program("ps", "--json").out) == {"models": [], "upstreams": []}


def test_quiet_says_nothing_but_errors(stocked: Program) -> None:
    assert stocked("--quiet", "cp", "tiny", "other") == Ran(0, "", "")
    assert stocked("--quiet", "rm", "nope").err != ""


def test_a_running_server_is_used(program: Program, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        here = {"ZHIBEI_PORT": str(server.port)}
        assert "tiny:latest" in program("list", env=here).out
        assert program("ps", env=here) == Ran(0, "", "No model is loaded.\n")
        assert program("run", "tiny", "hello from afar", env=here).out == "hello from afar\n"
        assert "tiny:latest" in program("ps", env=here).out
        assert program("stop", "tiny", env=here) == Ran(0, "", "Stopped tiny.\n")
        assert program("stop", "tiny", env=here).code == 3
        assert program("--host", "0.0.0.0", "list", "--json", env=here).code == 0
        assert program("--lang", "zh", "show", "nope", env=here) == Ran(
            3, "", "错误：没有模型 nope:latest。\n提示：用 zhibei list 查看本机上的模型。\n"
        )


def test_a_server_that_wants_a_key(program: Program, tmp_path: Path) -> None:
    with serving(tmp_path / "served", api_key="right") as server:
        here = {"ZHIBEI_PORT": str(server.port)}
        assert program("list", env=here) == Ran(
            9, "", "error: The server at [URL] wants another API key.\nhint: Set ZHIBEI_API_KEY to its key.\n"
        )
        assert program("list", env={**here, "ZHIBEI_API_KEY": "right"}).code == 0


def test_another_program_on_the_port_is_left_alone(program: Program) -> None:
    with _foreign_program() as port:
        ran = program("list", env={"ZHIBEI_PORT": str(port)})
    assert ran.code == 0
    assert ran.err.startswith("notice: Another program listens at [URL]; working without a server.\n")


def test_a_server_elsewhere_that_does_not_answer(program: Program) -> None:
    ran = program("--host", "192.0.2.1", "list")
    assert ran.code == 4
    assert ran.err.startswith("error: No Zhibei server answers at http://192.0.2.1:")


@contextmanager
def _foreign_program() -> Iterator[int]:
    """Something that answers HTTP, but not as we do."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if connection.recv(4096):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
