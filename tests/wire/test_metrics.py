"""What the server counts, as Prometheus reads it: values, labels that no client can make, and who left."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.serving import MODEL, Serving
from zhibei.engines.echo import EchoEngine, Fail
from zhibei.errors import EngineDied
from zhibei.events import Finished, TextDelta, Timings, Usage
from zhibei.plans import Kernels
from zhibei.server.metrics import MAX_MODELS

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
CHAT = {"model": "TINY", "messages": [{"role": "user", "content": "a secret question"}]}


def scrape(url: str, **headers: str) -> Samples:
    reply = httpx.get(url + "/metrics", headers=headers)
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(reply.text)
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for family in families for each in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_a_request_is_counted_from_its_queue_to_its_tokens(server: Serving) -> None:
    timings = Timings(5, 0.5, 4, 2.0, 3)
    server.answers((TextDelta("x"), Finished(("stop",), Usage(8, 4, 3), timings)))
    assert httpx.post(server.url + "/v1/chat/completions", json=CHAT).status_code == 200
    found = scrape(server.url)
    assert value(found, "zhibei_http_requests_total", method="POST", route="/v1/chat/completions", status="200") == 1
    assert value(found, "zhibei_http_request_seconds_count", route="/v1/chat/completions") == 1
    assert value(found, "zhibei_generations_total", model=MODEL, outcome="finished") == 1
    assert value(found, "zhibei_prompt_tokens_total", model=MODEL) == 8
    assert value(found, "zhibei_cached_prompt_tokens_total", model=MODEL) == 3
    assert value(found, "zhibei_prompt_cache_hits_total", model=MODEL) == 1
    assert value(found, "zhibei_generated_tokens_total", model=MODEL) == 4
    assert value(found, "zhibei_time_to_first_token_seconds_count", model=MODEL) == 1
    assert value(found, "zhibei_time_per_token_seconds_sum", model=MODEL) == 0.5
    assert value(found, "zhibei_queue_seconds_count", model=MODEL) == 1
    assert value(found, "zhibei_model_loads_total", model=MODEL) == 1
    assert value(found, "zhibei_model_load_seconds_count", model=MODEL) == 1
    assert value(found, "zhibei_model_slots", model=MODEL) >= 1
    assert value(found, "zhibei_model_memory_bytes", model=MODEL, kind="planned") > 0
    assert value(found, "zhibei_queue_requests") == 0
    assert value(found, "zhibei_memory_bytes", device="cpu", kind="available") > 0
    assert value(found, "zhibei_info", version="0.1.0") == 1


def test_which_kernels_compute_a_model_is_told(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    status, said = EchoEngine.status, list[Kernels | None]([None])
    monkeypatch.setattr(EchoEngine, "status", lambda engine: replace(status(engine), kernels=said[-1]))
    assert httpx.post(server.url + "/zhibei/v1/load", json={"model": MODEL}).status_code == 200
    assert "zhibei_model_kernels" not in {name for name, _ in scrape(server.url)}, "the engine has none"
    for kernels, level in ((Kernels("0.1.0", "avx2"), "avx2"), (Kernels("0.1.0", None, problem="they crashed"), "none")):
        said.append(kernels)
        found = {labels: count for (name, labels), count in scrape(server.url).items() if name == "zhibei_model_kernels"}
        assert found == {(("level", level), ("model", MODEL)): 1}


def test_embeddings_are_counted_too(server: Serving) -> None:
    assert httpx.post(server.url + "/v1/embeddings", json={"model": MODEL, "input": "one two"}).status_code == 200
    found = scrape(server.url)
    assert value(found, "zhibei_generations_total", model=MODEL, outcome="finished") == 1
    assert value(found, "zhibei_prompt_tokens_total", model=MODEL) > 0


def test_unloads_and_failures_are_counted(server: Serving) -> None:
    server.answers((TextDelta("x"), Fail(EngineDied("It died."))))
    assert httpx.post(server.url + "/v1/chat/completions", json=CHAT).status_code >= 500
    assert httpx.post(server.url + "/zhibei/v1/load", json={"model": MODEL}).status_code == 200
    assert httpx.post(server.url + "/zhibei/v1/stop", json={"name": MODEL}).status_code == 200
    found = scrape(server.url)
    assert value(found, "zhibei_generations_total", model=MODEL, outcome="failed") == 1
    assert value(found, "zhibei_model_unloads_total", model=MODEL, why="asked") >= 1


def test_a_client_makes_no_label_values(server: Serving) -> None:
    with httpx.Client(base_url=server.url) as client:
        for number in range(20):
            client.get(f"/nowhere/{number}")
            client.get(f"/v1/models/unknown{number}")
            client.post("/v1/chat/completions", json={**CHAT, "model": f"unknown{number}"})
            client.request(f"VERB{number}", "/v1/models")
    found = scrape(server.url)
    models = {dict(labels).get("model", "") for _, labels in found}
    assert models <= {"", MODEL}
    routes = {dict(labels).get("route", "") for _, labels in found}
    assert not any("unknown" in route or "nowhere" in route for route in routes)
    methods = {dict(labels).get("method", "") for _, labels in found}
    assert methods <= {"", "GET", "POST", "other"}
    assert value(found, "zhibei_generations_total", model="", outcome="failed") == 20


def test_many_models_of_a_long_life_do_not_fill_the_page(server: Serving) -> None:
    from zhibei.runtime.happenings import ModelLoaded
    from zhibei.server.metrics import Metrics

    assert server.app is not None
    metrics = Metrics(server.app)
    for number in range(MAX_MODELS + 100):
        metrics.happened(ModelLoaded(f"model{number}:latest", 1.0, 1))
    page = metrics.page().decode()
    assert page.count("zhibei_model_loads_total{") == MAX_MODELS + 1
    assert 'zhibei_model_loads_total{model="other"} 100.0' in page


def test_two_servers_in_one_process_count_apart(start: Callable[..., Serving]) -> None:
    first, second = start(), start()
    httpx.post(first.url + "/v1/chat/completions", json=CHAT)
    assert value(scrape(first.url), "zhibei_generations_total", model=MODEL, outcome="finished") == 1
    assert value(scrape(second.url), "zhibei_generations_total", model=MODEL, outcome="finished") == 0


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_are_counted(server: Serving, stream: bool) -> None:
    gate = server.gate()
    server.answers((TextDelta("x"), gate.step, TextDelta("y")))
    body = json.dumps({**CHAT, "stream": stream}).encode()
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head.encode() + body)
        server.until(lambda: server.script.num_running == 1)
    server.until(lambda: server.script.num_running == 0)
    gate.open()
    route = "/v1/chat/completions"
    assert server.app is not None
    server.until(lambda: all(resident.num_leases == 0 for resident in server.app.pool.residents()))  # type: ignore[union-attr]
    found = scrape(server.url)
    assert value(found, "zhibei_generations_total", model=MODEL, outcome="left") == 1
    assert value(found, "zhibei_client_disconnects_total", route=route) == 1


def test_the_page_needs_the_key_and_holds_no_secret(start: Callable[..., Serving]) -> None:
    server = start(api_key="the-key-of-it")
    assert httpx.get(server.url + "/metrics").status_code == 401
    allowed = {"authorization": "Bearer the-key-of-it"}
    httpx.post(server.url + "/v1/chat/completions", json=CHAT, headers=allowed)
    page = httpx.get(server.url + "/metrics", headers=allowed).text
    assert "secret question" not in page and "the-key-of-it" not in page
