"""How this machine is looked at: bounds, patience, and what cannot be had."""

from __future__ import annotations

import shlex
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from zhibei.hardware import machine as module
from zhibei.hardware.machine import Counts, LocalMachine, find_tool, run, within

PYTHON = sys.executable


def test_what_a_tool_prints() -> None:
    assert run([PYTHON, "-c", "print('24 MiB')"]) in ("24 MiB\n", "24 MiB\r\n")
    assert run([PYTHON, "-c", "import sys; sys.stdout.buffer.write(b'\\xff\\xfe')"]) == "��"


@pytest.mark.parametrize("command", [["/no/such/tool"], [PYTHON, "-c", "raise SystemExit(3)"], [PYTHON, "--no-such-option"]])
def test_a_tool_that_fails_says_nothing(command: list[str]) -> None:
    assert run(command) is None


def test_a_tool_that_hangs_is_given_up() -> None:
    assert run([PYTHON, "-c", "import time; time.sleep(60)"], patience_s=0.2) is None


def test_a_tool_that_never_stops_printing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    assert run([PYTHON, "-c", "while True: print('x' * 500, flush=True)"]) is None


@pytest.mark.parametrize("text", ["$(id)", "; id", "`id`", "| id"])
def test_no_shell_reads_the_arguments(text: str) -> None:
    assert run([PYTHON, "-c", "import sys; print(sys.argv[1], end='')", text]) == text
    assert shlex.quote(text) != text


def test_foreign_code_that_hangs_or_fails() -> None:
    forever = threading.Event()

    def fails() -> int:
        raise OSError("no")

    assert within(5, lambda: 7) == 7
    assert within(0.05, forever.wait) is None
    assert within(5, fails) is None
    forever.set()


def test_files_and_directories(tmp_path: Path) -> None:
    look = LocalMachine()
    (tmp_path / "b").write_bytes(b"24\xff\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "drivers" / "amdxdna")
    assert look.text(str(tmp_path / "b")) == "24�\n"
    assert look.names(str(tmp_path)) == ("a", "b", "link")
    assert look.target(str(tmp_path / "link")) == "amdxdna"
    for path in ("a", "none", "b/none", "\0"):
        assert look.text(str(tmp_path / path)) is None
    assert (look.names(str(tmp_path / "none")), look.target(str(tmp_path / "b"))) == ((), None)


def test_long_files_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    (tmp_path / "long").write_text("x" * 100, encoding="utf-8")
    assert LocalMachine().text(str(tmp_path / "long")) == "x" * 10


def test_tools_are_found_by_their_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "some-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    assert find_tool("some-smi", "Linux") == str(tool)
    monkeypatch.setenv("PATH", "bin")
    monkeypatch.chdir(tmp_path)
    assert find_tool("some-smi", "Linux") is None
    assert find_tool("some-smi", "Windows") is None
    assert LocalMachine().output("some-smi", "--list") is None


def test_what_is_not_on_this_system() -> None:
    look = LocalMachine()
    assert look.library("libno-such-thing.so.99", "libnor-this.so") is None
    if sys.platform != "win32":
        assert look.registry("SOFTWARE") == {}
    if sys.platform != "darwin":
        assert look.metal_bytes() is None
    assert look.counts().total_bytes


def test_what_the_system_cannot_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FileNotFoundError("/proc/meminfo")

    for name in ("virtual_memory", "cpu_count", "Process", "swap_memory"):
        monkeypatch.setattr(psutil, name, fails)
    assert LocalMachine().counts() == Counts()


@pytest.mark.parametrize(("has_affinity", "expected"), [(True, 3), (False, 16)])
def test_threads_this_process_may_use(monkeypatch: pytest.MonkeyPatch, has_affinity: bool, expected: int) -> None:
    process = SimpleNamespace(cpu_affinity=lambda: [0, 1, 2]) if has_affinity else SimpleNamespace()
    monkeypatch.setattr(psutil, "Process", lambda: process)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    found = LocalMachine().counts()
    assert (found.usable_threads, found.physical_cores) == (expected, 8)
