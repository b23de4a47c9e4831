"""``run`` with a prompt: one answer, on a pipe and on a terminal."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from pathlib import Path

import pytest

from support.program import Program, Ran
from support.serving import serving, stored_model
from support.terminal import Terminal
from zhibei.engines.echo import Fail
from zhibei.errors import EngineDied
from zhibei.events import Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage

END = Finished(("stop",), Usage(1, 1))


def test_the_answer_is_all_that_stdout_has(stocked: Program) -> None:
    assert stocked("run", "tiny", "Hello **world** there") == Ran(0, "Hello **world** there\n", "")


def test_text_on_standard_input_follows_the_prompt(stocked: Program) -> None:
    assert stocked("run", "tiny", stdin="from a pipe\n").out == "from a pipe\n"
    assert stocked("run", "tiny", "Read this:", stdin="some text\n").out == "Read this:\n\nsome text\n"


def test_json_has_everything(stocked: Program) -> None:
    document = json.loads(stocked("run", "tiny", "one two", "--json").out)
    assert document["text"] == "one two"
    assert document["finish_reason"] == "stop"
    assert document["usage"] == {"num_prompt_tokens": 2, "num_generated_tokens": 2, "num_cached_tokens": 0}
    assert document["timings"]["generation_tokens_per_s"] > 0
    assert document["tool_calls"] == []
    assert document["model"] == "tiny:latest"


def test_limits_are_passed_on(stocked: Program) -> None:
    ran = stocked("run", "tiny", "one two three", "-n", "2", "--verbose")
    assert ran.out == "one two \n"
    assert ran.err.splitlines()[0] == "(cut off: 2 tokens, or the context is full)"
    assert ran.err.splitlines()[1].startswith("prompt 3 tokens (0 cached) · answer 2 tokens · reading ")
    assert stocked("run", "tiny", "one two three", "--stop", "two").out == "one \n"


def test_files_that_options_name(stocked: Program) -> None:
    (stocked.directory / "dot.png").write_bytes(
        base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
    )
    (stocked.directory / "schema.json").write_text('{"type": "object"}')
    (stocked.directory / "list.json").write_text("[]")
    assert stocked("run", "tiny", "look", "--image", "dot.png").out == "look\n"
    # The scripted engine says no, so the schema has come to it.
    assert (
        stocked("run", "tiny", "x", "--json-schema", "schema.json").err
        == "error: This engine cannot hold an answer to a format.\n"
    )
    for words, part in (
        (("--image", "schema.json"), "schema.json is not an image that models take."),
        (("--image", "none.png"), "none.png cannot be read: No such file or directory"),
        (("--json-schema", "list.json"), "list.json is not a JSON schema"),
        (("--json-schema", "dot.png"), "dot.png is not JSON"),
        (("--chat-template-file", "none"), "none cannot be read"),
    ):
        ran = stocked("run", "tiny", "x", *words)
        assert ran.code == 2
        assert part in ran.err


def test_a_path_is_used_where_it_is(stocked: Program) -> None:
    assert stocked("run", "./tiny.gguf", "in place").out == "in place\n"
    assert stocked("run", "file:tiny.gguf", "in place").out == "in place\n"


def test_a_source_is_pulled_once(program: Program, stocked: Program) -> None:
    assert stocked("run", "nope", "x").err == "error: There is no model nope:latest.\nhint: zhibei list shows what is here.\n"


def test_the_model_comes_from_the_settings_where_none_is_named(stocked: Program) -> None:
    assert stocked("run", stdin="piped", env={"ZHIBEI_MODEL": "tiny"}).out == "piped\n"


def test_what_the_model_thinks_is_not_part_of_the_answer(program: Program, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        here = {"ZHIBEI_PORT": str(server.port)}
        thinking = (ReasoningDelta("let me see"), TextDelta("42"), END)
        server.answers(thinking, thinking, (ToolCallDelta(0, '{"a"', id="c1", name="f"), ToolCallDelta(0, ": 1}"), END))
        assert program("run", "tiny", "q", env=here) == Ran(0, "42\n", "")
        assert json.loads(program("run", "tiny", "q", "--json", env=here).out)["reasoning"] == "let me see"
        calls = json.loads(program("run", "tiny", "q", "--json", env=here).out)["tool_calls"]
        assert calls == [{"id": "c1", "name": "f", "arguments": '{"a": 1}'}]


def test_an_engine_that_dies_shows_its_last_lines(program: Program, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    stored_model(tmp_path / "served")
    died = EngineDied(
        "The engine of {model} stopped while it was answering: {how}.", model="tiny", how="x", log_tail=("ggml: boom",)
    )
    with serving(tmp_path / "served") as server:
        server.answers((TextDelta("so far"), Fail(died)))
        ran = program("run", "tiny", "q", env={"ZHIBEI_PORT": str(server.port)})
    assert ran.code == 6
    assert ran.out == "so far\n"
    assert ran.err.startswith("  | ggml: boom\nerror: The engine of tiny stopped while it was answering: x.\n")


def test_ctrl_c_ends_with_130_and_keeps_what_came(program: Program, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as server:
        gate = server.gate()
        server.answers((TextDelta("first "), gate.step, TextDelta("second"), END))
        environment = {**program.environment, "ZHIBEI_PORT": str(server.port)}
        child = subprocess.Popen(
            program.command("run", "tiny", "q"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
        )
        assert child.stdout is not None
        assert child.stdout.read(6) == b"first "
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == b"\n"
        child.stdout.close()
        assert child.wait(30) == 130


def test_whoever_stops_reading_stops_the_program(stocked: Program) -> None:
    child = subprocess.Popen(
        stocked.command("run", "tiny", "word " * 20000), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=stocked.environment
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.read(5)
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(30) == 0


@pytest.mark.parametrize("extra", [{}, {"NO_COLOR": "1"}])
def test_on_a_terminal_markdown_is_rendered(stocked: Program, extra: dict[str, str]) -> None:
    with Terminal(
        stocked.command("run", "tiny", "# Title\n\nSome **bold** text\n\n- one\n- two\n\n```python\nx = 1\n```\n"),
        {**stocked.environment, **extra},
    ) as terminal:
        assert terminal.wait_for_end() == 0
        assert terminal.screen.endswith("Title\n\nSome bold text\n\n • one\n • two\n\nx = 1\n")
        assert ("\x1b[1m" in terminal.raw) is not bool(extra)


def test_control_characters_of_a_model_do_not_reach_a_terminal(stocked: Program) -> None:
    with Terminal(stocked.command("run", "tiny", "a\x1b]0;title\x07b", "--plain"), stocked.environment) as terminal:
        assert terminal.wait_for_end() == 0
        assert "\x1b]0" not in terminal.raw
        assert "a]0;titleb" in terminal.screen
