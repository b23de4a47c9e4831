"""Questions about a machine, where the settings name a server on another one: that machine is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.serving import MODEL, Serving, serving, stored_model
from zhibei.cli import connect
from zhibei.cli.main import run

Ask = Callable[..., Any]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    stored_model(tmp_path / "served")
    with serving(tmp_path / "served", engine="echo") as made:
        yield made


@pytest.fixture
def ask(server: Serving, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """The program, for which this machine's loopback is another machine; what it prints as JSON."""
    monkeypatch.setattr(connect, "_LOOPBACK", ())
    monkeypatch.setattr(connect, "_is_own_address", lambda host: False)
    monkeypatch.setenv("ZHIBEI_PORT", str(server.port))

    def asked(*words: str) -> Any:
        assert run([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return asked


def test_fit_is_judged_there(ask: Ask) -> None:
    (found,) = ask("fit", MODEL, "--ctx", "256")["models"]
    assert found["forms"][0]["is_here"] and found["forms"][0]["name"] == MODEL
    assert found["forms"][0]["plans"][0]["ctx_size"] == 256


def test_hardware_and_recommendations_are_the_servers(ask: Ask, server: Serving) -> None:
    assert server.app is not None
    machine = ask("hardware")
    assert machine["total_bytes"] == server.app.hardware().total_bytes and machine["engines"]
    found = ask("recommend", "--limit", "2", "--task", "code")["models"]
    assert len(found) == 2 and found[0]["plan"]["verdict"] in ("runs", "runs_well", "runs_slowly")


def test_nothing_is_measured_for_others(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["hardware", "--measure"]) == 2
    assert "Run it on that machine." in capsys.readouterr().err
