"""``serve``: what it says, that it serves, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from support.program import Program, free_port


@contextmanager
def _served(program: Program, *words: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A running ``serve`` and the lines it printed up to being ready."""
    child = subprocess.Popen(
        program.command("serve", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=program.environment
    )
    assert child.stderr is not None and child.stdout is not None
    try:
        lines: list[str] = []
        while not lines or not lines[-1].startswith(("Ctrl-C", "按 Ctrl-C")):
            line = child.stderr.readline()
            assert line, lines
            lines.append(line)
        yield child, lines
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stderr.close()
        child.stdout.close()


def test_it_says_where_it_is_and_serves_and_ends(stocked: Program) -> None:
    port = free_port()
    with _served(stocked, "--port", str(port), "--model", "tiny") as (child, lines):
        url = f"http://127.0.0.1:{port}"
        assert lines[0] == f"Zhibei serves at {url}\n"
        assert f"{url}/v1\n" in lines[1]
        assert any(line.startswith(f"    curl {url}/v1/chat/completions ") for line in lines)
        assert child.stderr is not None
        assert child.stderr.readline() == "tiny:latest is loaded.\n"
        with urllib.request.urlopen(f"{url}/zhibei/v1/version", timeout=20) as answer:
            assert json.load(answer)["name"] == "zhibei"
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0
        request, stopped = child.stderr.read().splitlines()
        assert " 200 GET /zhibei/v1/version " in request and stopped == "Stopped."
        assert child.stdout is not None and child.stdout.read() == ""


def test_a_key_is_not_shown(stocked: Program) -> None:
    with _served(stocked, "--port", "0", "--api-key", "hush") as (_, lines):
        assert "hush" not in "".join(lines)
        assert "Authorization: Bearer …" in "".join(lines)


def test_mistakes(stocked: Program) -> None:
    open_to_all = stocked("serve", "--host", "0.0.0.0", "--port", "0")
    assert open_to_all.code == 2
    assert "--allow-insecure-bind" in open_to_all.err
    with _served(stocked, "--port", str(port := free_port())):
        taken = stocked("serve", "--port", str(port))
    assert taken.code in (2, 8)
    assert f"Port {port} is already" in taken.err
    assert stocked("serve", "--keep-alive", "soon").err.startswith("error: 'soon' is not a duration.")
    assert stocked("serve", "--engine", "magic", "--model", "tiny", "--port", "99999").code == 2
