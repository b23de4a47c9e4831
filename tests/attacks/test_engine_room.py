"""A model that takes more memory than was planned, as a client sees it (E-05): what may help is tried once, then it is said."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from support.serving import MODEL, Serving
from support.worker_processes import OTHER, Processes, serving_processes
from zhibei.options import LoadOptions

PROCESSES = Processes()
SAID = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving_processes(tmp_path_factory.mktemp("cramped"), PROCESSES, LoadOptions(parallel=1)) as server:
        yield server


@pytest.fixture
def server(running: Serving) -> Iterator[Serving]:
    """The other model runs, with a small context, and is idle; the next one fails with more than half of the usual context."""
    PROCESSES.words = ()
    assert chat(running, OTHER, num_ctx=512).status_code == 200
    assert chat(running, MODEL).status_code == 200
    usual = PROCESSES.tried[-1].ctx_size
    unload(running, MODEL)
    PROCESSES.words = (f"max_ctx={usual // 2}",)
    PROCESSES.tried.clear()
    yield running
    for name in (MODEL, OTHER):
        unload(running, name)
    PROCESSES.tried.clear()


def chat(server: Serving, model: str, **options: int) -> httpx.Response:
    body = {"model": model, "messages": SAID, "stream": False, "options": options}
    return httpx.post(server.url + "/api/chat", json=body, timeout=30)


def unload(server: Serving, name: str) -> None:
    httpx.post(server.url + "/api/generate", json={"model": name, "keep_alive": 0}, timeout=20)
    server.until(lambda: name not in names(server))


def names(server: Serving) -> set[str]:
    assert server.app is not None
    return {resident.name for resident in server.app.pool.residents()}


def test_idle_models_leave_once_and_a_context_that_nobody_asked_for_is_halved_once(server: Serving) -> None:
    usual = int(PROCESSES.words[0].partition("=")[2]) * 2
    assert chat(server, MODEL).status_code == 200
    assert [spec.ctx_size for spec in PROCESSES.tried] == [usual, usual, usual // 2]
    assert names(server) == {MODEL}


def test_what_does_not_fit_then_is_said_with_both_numbers(server: Serving) -> None:
    PROCESSES.words = ("max_ctx=1",)
    reply = chat(server, MODEL)
    assert reply.status_code == 507 and "it needs" in reply.text and "are free" in reply.text
    assert len(PROCESSES.tried) == 3
    assert names(server) == set()


def test_a_context_that_was_asked_for_is_never_changed(server: Serving) -> None:
    usual = int(PROCESSES.words[0].partition("=")[2]) * 2
    reply = chat(server, MODEL, num_ctx=usual)
    assert reply.status_code == 507 and "it needs" in reply.text and "are free" in reply.text
    assert {spec.ctx_size for spec in PROCESSES.tried} == {usual} and len(PROCESSES.tried) == 2
    assert chat(server, OTHER, num_ctx=512).status_code == 200
