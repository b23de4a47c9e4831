"""The last handling of failures, in this process."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from zhibei.cli import main
from zhibei.cli.connect import base_url, contact_address, run_sync
from zhibei.cli.printer import OutputClosed, Printer
from zhibei.settings import ServerSettings


def test_an_unforeseen_error_is_shown_and_its_trace_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> SimpleNamespace:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr(main.importlib, "import_module", fail)
    assert main.run(["version"]) == 1
    err = capsys.readouterr().err
    trace = tmp_path / "home" / "state" / "last-error.txt"
    assert err == (
        "error: Something went wrong that Zhibei did not foresee: ZeroDivisionError: deep inside\n"
        f"hint: This is a bug. The trace is in {trace}; --debug shows it here.\n"
    )
    assert "Traceback" in trace.read_text()
    assert main.run(["--debug", "version"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (OutputClosed, 0), (EOFError, 130)])
def test_other_ends(monkeypatch: pytest.MonkeyPatch, error: type[BaseException], code: int) -> None:
    def fail(name: str) -> SimpleNamespace:
        raise error

    monkeypatch.setattr(main.importlib, "import_module", fail)
    monkeypatch.setattr(main, "_discard_output", lambda printer: None)
    assert main.run(["version"]) == code


def test_a_closed_pipe_is_told_apart_from_an_error() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(OutputClosed):
        Printer(out=Closed(), err=io.StringIO()).data("x")
    Printer(out=io.StringIO(), err=Closed()).note("x")


@pytest.mark.parametrize(
    ("host", "address", "url"),
    [
        ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "127.0.0.1", "http://127.0.0.1:1"),
        ("::", "::1", "http://[::1]:1"),
        ("[::1]", "::1", "http://[::1]:1"),
        ("host.example", "host.example", "http://host.example:1"),
    ],
)
def test_addresses(host: str, address: str, url: str) -> None:
    assert contact_address(ServerSettings(host=host, port=1)) == (address, 1)
    assert base_url(address, 1) == url


def test_work_that_never_waits_needs_no_loop() -> None:
    class Waits:
        def __await__(self):  # type: ignore[no-untyped-def]
            yield

    async def quick() -> int:
        return 7

    async def slow() -> None:
        await Waits()

    assert run_sync(quick()) == 7
    with pytest.raises(RuntimeError, match="has to wait"):
        run_sync(slow())
