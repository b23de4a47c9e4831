"""An engine's process that ends, hangs, will not end or does not come up, as clients see it (E-01 to E-06, E-16).

What clients of each dialect see is an error, no mark of success; the next request is served, and nobody else notices.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from support.clock import Clock
from support.every_route import Writing
from support.serving import MODEL, Serving
from support.worker_processes import OTHER, STREAMS, Processes, body, forgive, serving_processes, worker

STALL_S = 0.2
CHAT = next(each for each in STREAMS if each.path == "/v1/chat/completions")


CLOCK = Clock()
PROCESSES = Processes(STALL_S, CLOCK)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving_processes(tmp_path_factory.mktemp("dying"), PROCESSES) as server:
        yield server


@pytest.fixture
def server(running: Serving) -> Serving:
    """Three deaths in a short time are another matter."""
    forgive(running, MODEL)
    return running


def ask(server: Serving, text: str, model: str = MODEL, **fields: object) -> httpx.Response:
    return httpx.post(server.url + CHAT.path, json={**body(CHAT, text, model, stream=False), **fields}, timeout=30)


def is_error(each: Writing, found: bytes) -> bool:
    return each.done not in found and b"end_turn" not in found and b'finish_reason":"stop"' not in found and b"error" in found


@pytest.mark.parametrize("each", STREAMS, ids=lambda each: str(each.path))
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_stream_ends_in_the_dialects_error_and_the_next_request_is_served(server: Serving, each: Writing, how: str) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.post(each.path, json=body(each, "hello", OTHER, stream=False)).status_code == 200
        other = worker(server, OTHER).pid
        with client.stream("POST", each.path, json=body(each, "for ever", MODEL, stream=True)) as reply:
            pieces = reply.iter_bytes()
            found = b"".join(next(pieces) for _ in range(3))
            ended = worker(server, MODEL)
            os.kill(ended.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            CLOCK.step_s = STALL_S / 10 if how == "stopped" else 0.0
            found += b"".join(pieces)
        CLOCK.step_s = 0.0
        assert is_error(each, found) and (b"signal 9" if how == "killed" else b"hung") in found
        server.until(lambda: not psutil.pid_exists(ended.pid))
        again = client.post(each.path, json=body(each, "hello", MODEL, stream=False))
        assert again.status_code == 200 and "hello" in again.text
        assert worker(server, OTHER).pid == other


def test_an_answer_in_one_piece_whose_engine_hangs_is_a_504(server: Serving) -> None:
    assert ask(server, "hello").status_code == 200
    CLOCK.step_s = STALL_S / 10
    reply = ask(server, "stall")
    CLOCK.step_s = 0.0
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "engine_stalled")
    assert ask(server, "hello").status_code == 200


def test_a_request_that_kills_is_not_repeated_and_the_third_time_closes_the_door(server: Serving) -> None:
    pids = set()
    for _ in range(3):
        assert ask(server, "hello").status_code == 200
        pids.add(worker(server, MODEL).pid)
        assert ask(server, "die").status_code == 502
    assert len(pids) == 3
    refused = ask(server, "hello")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unstable")
    assert "signal 9" in refused.text and int(refused.headers["retry-after"]) > 0
    assert ask(server, "hello", OTHER).status_code == 200


def test_a_graphics_processor_that_fails_is_named(server: Serving) -> None:
    with httpx.stream("POST", server.url + CHAT.path, json=body(CHAT, "device fault", MODEL, stream=True), timeout=30) as reply:
        found = reply.read()
    assert is_error(CHAT, found) and b"graphics processor failed: CUDA error: unspecified launch failure" in found
    assert b"--gpu-layers 0" in found and b"--ctx-size" not in found
    assert server.app is not None
    assert next(each.num_crashes for each in server.app.pool.residents() if each.name == MODEL) > 0
    assert ask(server, "hello").status_code == 200


# Ends and beginnings


@pytest.fixture
def unloaded(server: Serving) -> Iterator[Serving]:
    """No model runs, before and after."""
    unload(server)
    PROCESSES.tried.clear()
    yield server
    PROCESSES.words = ()
    unload(server)
    forgive(server, MODEL)


def unload(server: Serving) -> None:
    assert server.app is not None
    pool = server.app.pool
    for name in {resident.name for resident in pool.residents()}:
        reply = httpx.post(server.url + "/api/generate", json={"model": name, "keep_alive": 0}, timeout=20)
        assert reply.status_code == 200
    server.until(lambda: not pool.residents())


@pytest.mark.parametrize("how", ["unloaded", "killed"])
def test_one_that_will_not_end_ends_with_all_it_started(unloaded: Serving, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhibei.engines.process.STOP_GRACE_S", 0.1)
    PROCESSES.words = ("stubborn", "grandchild")
    assert ask(unloaded, "hello").status_code == 200
    parent = worker(unloaded, MODEL)
    (child,) = parent.children()
    if how == "killed":
        parent.kill()
    else:
        unload(unloaded)
    unloaded.until(lambda: not psutil.pid_exists(parent.pid) and not is_alive(child))
    PROCESSES.words = ()
    assert ask(unloaded, "hello").status_code == 200


def test_one_whose_graphics_processor_is_gone_does_not_go_on_without_it_in_silence(unloaded: Serving, tmp_path: Path) -> None:
    PROCESSES.words = (f"loses_device={tmp_path / 'lost'}",)
    assert ask(unloaded, "hello").status_code == 200
    assert ask(unloaded, "device fault").status_code == 502
    reply = ask(unloaded, "hello")
    message = reply.json()["error"]["message"]
    assert reply.status_code == 500 and "is gone" in message and "no CUDA-capable device" in message and "zhibei stop" in message
    unload(unloaded)
    assert ask(unloaded, "hello").status_code == 200


def is_alive(process: psutil.Process) -> bool:
    """An orphan that has ended is somebody else's to reap."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(("kills", "status", "words"), [((1, 1), 500, "usually"), ((1, 2), 507, "ran out of memory")])
def test_one_that_is_killed_while_it_loads(
    unloaded: Serving, kills: tuple[int, int], status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter(kills * 2)
    monkeypatch.setattr("zhibei.engines.process.num_killed_for_memory", lambda: next(counts))
    PROCESSES.words = ("killed",)
    reply = ask(unloaded, "hello")
    message = reply.json()["error"]["message"]
    assert (reply.status_code, words in message) == (status, True), reply.text
    assert "it needs" in message.lower() and "are free" in message and ("signal 9" in message) is (status == 500)
    assert len(PROCESSES.tried) == 1, "a context that was asked for is not shortened"
