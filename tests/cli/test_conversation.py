"""A conversation at a terminal, typed by hand."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.program import Program
from support.serving import Serving, serving, stored_model
from support.terminal import Terminal
from zhibei.chat import ChatRequest
from zhibei.engines.echo import Fail
from zhibei.errors import EngineRefused
from zhibei.events import Finished, ReasoningDelta, TextDelta, Usage

END = Finished(("stop",), Usage(1, 1))
PROMPT = ">>> "


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    """A server whose engine is scripted by the test."""
    (tmp_path / "served").mkdir()
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served") as running:
        yield running


@pytest.fixture
def terminal(program: Program, server: Serving) -> Iterator[Terminal]:
    """A conversation that has just begun."""
    environment = {**program.environment, "ZHIBEI_PORT": str(server.port)}
    with Terminal(program.command("run", "tiny"), environment) as opened:
        opened.wait_for("Talking with tiny:latest. /help for commands, Ctrl-D to leave.")
        opened.wait_for(PROMPT)
        yield opened


def say(terminal: Terminal, line: str, answer: str) -> str:
    """Type a line, wait for what it brings and for the next prompt; returns all that was shown."""
    terminal.type(line + "\r")
    shown = terminal.wait_for(answer)
    return shown + terminal.wait_for(PROMPT)


def said(server: Serving) -> list[list[tuple[str, str]]]:
    """Role and text of the messages of every request."""
    return [
        [(m.role, m.text) for m in request.messages] for request in server.script.requests if isinstance(request, ChatRequest)
    ]


def test_a_conversation_remembers(terminal: Terminal, server: Serving, program: Program) -> None:
    server.answers((ReasoningDelta("hm"), TextDelta("Blue, "), TextDelta("mostly."), END), (TextDelta("As I said."), END))
    shown = say(terminal, "What colour?", "Blue, mostly.")
    assert "hm\n\nBlue" in shown
    say(terminal, "Sure?", "As I said.")
    terminal.type("\x04")
    assert terminal.wait_for_end() == 0
    assert said(server)[1] == [("user", "What colour?"), ("assistant", "Blue, mostly."), ("user", "Sure?")]
    history = program.home / "state" / "history"
    assert "What colour?" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_ctrl_c_stops_the_answer_and_keeps_what_has_come(terminal: Terminal, server: Serving) -> None:
    server.answers((TextDelta("Once upon a time"), server.gate().step, TextDelta("never"), END), (TextDelta("Yes."), END))
    terminal.type("Tell me\r")
    terminal.wait_for("Once upon a time")
    terminal.type("\x03")
    terminal.wait_for("(stopped)")
    terminal.wait_for(PROMPT)
    server.until(lambda: server.script.num_abandoned == 1)
    say(terminal, "Go on?", "Yes.")
    assert said(server)[1] == [("user", "Tell me"), ("assistant", "Once upon a time"), ("user", "Go on?")]
    terminal.type("/bye\r")
    assert terminal.wait_for_end() == 0


def test_ctrl_c_at_the_prompt_clears_the_line(terminal: Terminal, server: Serving) -> None:
    server.answers((TextDelta("Fine."), END))
    terminal.type("no not this\x03")
    say(terminal, "this", "Fine.")
    assert said(server) == [[("user", "this")]]
    terminal.type("\x03")
    terminal.wait_for("Ctrl-D or /bye leaves.")
    terminal.wait_for(PROMPT)


def test_a_failure_takes_the_turn_back_and_goes_on(terminal: Terminal, server: Serving) -> None:
    server.answers((Fail(EngineRefused("The engine refused.")),), (TextDelta("Better."), END))
    say(terminal, "bad", "error: The engine refused.")
    say(terminal, "good", "Better.")
    assert said(server)[1] == [("user", "good")]


def test_several_lines(terminal: Terminal, server: Serving) -> None:
    for typed in ('"""first\rsecond\r"""\r', "first\x1b\rsecond\r", "\x1b[200~first\nsecond\x1b[201~\r"):
        server.answers((TextDelta("Got it."), END))
        terminal.type(typed)
        terminal.wait_for("Got it.")
        terminal.wait_for(PROMPT)
        assert said(server)[-1] == [("user", "first\nsecond")]
        say(terminal, "/clear", "The conversation begins anew.")


def test_settings_reach_the_request(terminal: Terminal, server: Serving) -> None:
    say(terminal, "/set temperature 0.25", "temperature = 0.25")
    say(terminal, "/set temperature 7", "error: temperature must be from 0 to 5, not 7.")
    say(terminal, "/set top-k x", "error: top_k takes a whole number, not 'x'.")
    say(terminal, "/set colour blue", "error: There is no parameter colour.")
    say(terminal, "/set max_tokens 9", "max_tokens = 9")
    say(terminal, '/set stop "\\n\\n"', "stop = '\\n\\n'")
    say(terminal, "/set seed 5", "seed = 5")
    say(terminal, "/set seed default", "seed = (default)")
    say(terminal, "/system Be brief.", "Be brief.")
    shown = say(terminal, "/set", "verbose")
    assert "temperature        0.25" in shown
    server.answers((TextDelta("Ok."), END))
    say(terminal, "hi", "Ok.")
    request = server.script.requests[-1]
    assert isinstance(request, ChatRequest)
    assert request.sampling.temperature == 0.25
    assert request.sampling.seed is None
    assert request.limits.max_tokens == 9
    assert request.limits.stop == ("\n\n",)
    assert request.messages[0].text == "Be brief."


def test_save_and_load(terminal: Terminal, server: Serving, program: Program) -> None:
    server.answers((TextDelta("Blue."), END), (TextDelta("Still blue."), END))
    say(terminal, "/system You see.", "You see.")
    say(terminal, "/set temperature 0.5", "0.5")
    say(terminal, "colour?", "Blue.")
    say(terminal, "/save trip", "Saved to ")
    path = program.home / "state" / "conversations" / "trip.json"
    document = json.loads(path.read_text())
    assert document["messages"] == [{"role": "user", "text": "colour?"}, {"role": "assistant", "text": "Blue."}]
    assert document["system"] == "You see."
    assert document["settings"] == {"temperature": 0.5}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    say(terminal, "/clear", "begins anew")
    say(terminal, "/load nothing", "error: There is no saved conversation ")
    say(terminal, "/load ../../etc", "error: ")
    say(terminal, "/save", "error: Save under which name?")
    say(terminal, "/load trip", "Loaded trip: 2 messages.")
    say(terminal, "and now?", "Still blue.")
    assert said(server)[-1] == [("system", "You see."), ("user", "colour?"), ("assistant", "Blue."), ("user", "and now?")]


def test_retry_and_undo(terminal: Terminal, server: Serving) -> None:
    say(terminal, "/retry", "error: There is nothing to answer again.")
    server.answers((TextDelta("One."), END), (TextDelta("Two."), END), (TextDelta("Three."), END))
    say(terminal, "number?", "One.")
    say(terminal, "/retry", "Two.")
    say(terminal, "/undo", "Taken back: number?")
    say(terminal, "other?", "Three.")
    assert said(server) == [[("user", "number?")], [("user", "number?")], [("user", "other?")]]


def test_looking_around(terminal: Terminal, server: Serving) -> None:
    assert "/regenerate" not in say(terminal, "/help", "ends it.")
    say(terminal, "/nonsense", "error: There is no command /nonsense.")
    say(terminal, "/model", "tiny:latest")
    say(terminal, "/model nope", "error: There is no model nope:latest.")
    say(terminal, "/model tiny", "tiny:latest")
    server.answers((TextDelta("Hi."), END))
    say(terminal, "/set verbose on", PROMPT)
    say(terminal, "hello", "answer 1 tokens")
    say(terminal, "/stats", "tiny:latest, 2 messages")


def test_a_line_may_begin_with_a_slash_after_a_space(terminal: Terminal, server: Serving) -> None:
    server.answers((TextDelta("A path."), END))
    say(terminal, " /etc/passwd", "A path.")
    assert said(server) == [[("user", "/etc/passwd")]]


def test_in_chinese(stocked: Program) -> None:
    with Terminal(stocked.command("--lang", "zh", "run", "tiny"), stocked.environment) as terminal:
        terminal.wait_for("正在与 tiny:latest 对话。输入 /help 查看命令，按 Ctrl-D 退出。")
        terminal.wait_for(PROMPT)
        say(terminal, "你好，世界", "你好，世界")
        say(terminal, "/set temperature 9", "错误：temperature 必须在 0 到 5 之间，而不是 9。")
        terminal.type("/bye\r")
        assert terminal.wait_for_end() == 0
