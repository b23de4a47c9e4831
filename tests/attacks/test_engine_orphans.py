"""A server that is killed (E-02): its engines end with it, whatever they are doing, and its port is free."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from support.program import Program
from support.serving import import_model
from zhibei.workshop.named_shapes import named_shape
from zhibei.workshop.random_models import write_model

pytest.importorskip("xllamacpp", reason="the engine: pip install 'zhibei[llama-cpp]'")
WAIT_S = 30.0
SMALL = {"ctx_size": 512, "parallel": 1}


@contextmanager
def served(program: Program) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The real program, once it answers."""
    url = f"http://127.0.0.1:{program.environment['ZHIBEI_PORT']}"
    process = subprocess.Popen(program.command("serve"), env=program.environment, cwd=program.directory)
    try:
        wait_until(lambda: answers(url))
        yield process, url
    finally:
        process.kill()
        process.wait()


def wait_until(true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def answers(url: str) -> bool:
    try:
        return httpx.get(url + "/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def is_alive(process: psutil.Process) -> bool:
    """An orphan that has ended is somebody else's to reap."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_engines_end_with_their_server(tmp_path: Path) -> None:
    # Compiled files of this process serve as well.
    program = Program(tmp_path, {"ZHIBEI_ENGINE": "llama.cpp", "PYTHONPYCACHEPREFIX": ""})
    program.extra["ZHIBEI_PORT"] = program.environment["ZHIBEI_PORT"]
    source = tmp_path / "tiny.gguf"
    write_model(named_shape("tiny-llama"), source)
    for name in ("speaking", "stopped"):
        import_model(program.home, source, name)
    with served(program) as (server, url), httpx.Client(base_url=url, timeout=60) as client:
        for name in ("stopped", "speaking"):
            body = {"model": name, "prompt": "x", "max_tokens": 1, "load": SMALL}
            assert client.post("/v1/completions", json=body).status_code == 200
        workers = [child for child in psutil.Process(server.pid).children() if "worker" in " ".join(child.cmdline())]
        assert len(workers) == 2
        long = {"model": "speaking", "prompt": "x", "max_tokens": 480, "ignore_eos": True, "stream": True, "load": SMALL}
        with client.stream("POST", "/v1/completions", json=long) as reply:
            pieces = reply.iter_bytes()
            next(pieces)
            # One that is stopped cannot see that nobody writes to it any more.
            os.kill(workers[0].pid, signal.SIGSTOP)
            server.kill()
            with pytest.raises(httpx.TransportError):
                b"".join(pieces)
        server.wait()
        if sys.platform == "linux":
            wait_until(lambda: not any(map(is_alive, workers)))
        else:
            wait_until(lambda: not is_alive(workers[1]))
        assert is_free(int(program.extra["ZHIBEI_PORT"]))
