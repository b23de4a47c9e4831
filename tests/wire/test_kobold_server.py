"""Kobold's routes beside generation: what a front end asks before and between, and what is refused in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from support.serving import MODEL, Serving, serving
from zhibei import __version__
from zhibei.engines.echo import EchoScript
from zhibei.options import LoadOptions
from zhibei.settings import ServerSettings, Settings

CTX_SIZE = 512


@pytest.fixture(scope="module")
def one(tiny_home: Path) -> Iterator[Serving]:
    load = LoadOptions(ctx_size=CTX_SIZE, parallel=2)
    settings = replace(Settings(), home=tiny_home, engine="echo", model=MODEL, load=load, server=ServerSettings(port=0))
    made = Serving(settings, EchoScript(), 5.0)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def client(one: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=one.url, timeout=20) as made:
        yield made


def test_the_connection_as_sillytavern_makes_it(one: Serving, client: httpx.Client) -> None:
    # It reads ``result`` of all three, takes ReadOnly for no model, and compares the versions.
    version = client.get("/api/v1/info/version").json()["result"]
    assert tuple(map(int, version.split("."))) >= (1, 2, 2)
    extra = client.get("/api/extra/version").json()
    assert extra["result"] == "KoboldCpp"
    assert tuple(map(int, extra["version"].split("."))) >= (1, 48)
    assert (extra["protected"], extra["llm"], extra["transcribe"], extra["txt2img"]) == (False, True, False, False)
    assert client.get("/api/v1/model").json() == {"result": f"koboldcpp/{MODEL}"}
    assert client.get("/api/latest/model").json() == {"result": f"koboldcpp/{MODEL}"}
    assert one.app is not None and one.app.pool.residents() == ()


def test_contexts_are_told_without_loading_and_afterwards(one: Serving, client: httpx.Client) -> None:
    paths = ("/api/extra/true_max_context_length", "/api/v1/config/max_context_length", "/api/latest/config/max_context_length")
    assert [client.get(path).json() for path in paths] == [{"value": CTX_SIZE}] * 3
    client.post("/api/extra/tokencount", json={"prompt": "x"})
    assert [client.get(path).json() for path in paths] == [{"value": CTX_SIZE}] * 3
    assert client.get("/api/v1/config/max_length").json() == {"value": 512}


def test_soft_prompts_are_none(client: httpx.Client) -> None:
    assert client.get("/api/v1/config/soft_prompts_list").json() == {"values": []}
    assert client.get("/api/v1/config/soft_prompt").json() == {"value": ""}
    assert client.put("/api/v1/config/soft_prompt", json={"value": ""}).json() == {}
    assert client.put("/api/v1/config/soft_prompt", json={"value": "x.zip"}).status_code == 501


@pytest.mark.parametrize("path", ["tokencount", "tokenize"])
def test_tokens_are_told_under_every_name(client: httpx.Client, path: str) -> None:
    found = client.post(f"/api/extra/{path}", json={"prompt": "Hi", "special": False}).json()
    ids = [72, 105]
    assert found == {"value": 2, "ids": ids, "tokens": ids, "length": 2, "count": 2}


def test_text_of_tokens(client: httpx.Client) -> None:
    assert client.post("/api/extra/detokenize", json={"ids": [72, 105]}).json() == {"result": "Hi", "success": True}
    for wrong in ({}, {"ids": [-1]}, {"ids": ["x"]}, {"ids": [2**40]}):
        assert client.post("/api/extra/detokenize", json=wrong).status_code == 400


def test_embeddings_as_sillytavern_reads_them(client: httpx.Client) -> None:
    found = client.post("/api/extra/embeddings", json={"input": ["one", "two"]}).json()
    assert found["model"] == MODEL
    assert [(item["index"], len(item["embedding"])) for item in found["data"]] == [(0, 8), (1, 8)]
    for wrong in ({"input": []}, {"input": ""}, {"input": ["a", ""]}, {"input": ["x"] * 2049}):
        assert client.post("/api/extra/embeddings", json=wrong).status_code == 400


def test_performance_is_true(client: httpx.Client) -> None:
    before = client.get("/api/extra/perf").json()
    client.post("/api/v1/generate", json={"prompt": "one two three", "max_length": 2})
    found = client.get("/api/extra/perf").json()
    assert (found["last_token_count"], found["last_input_count"], found["stop_reason"]) == (2, 3, 0)
    assert found["total_gens"] == before["total_gens"] + 1
    assert (found["queue"], found["idle"]) == (0, 1)
    assert found["last_eval_speed"] == pytest.approx(2 / found["last_eval_time"])
    assert found["uptime"] > 0


def test_service_info(client: httpx.Client) -> None:
    found = client.get("/.well-known/serviceinfo").json()
    assert found["software"] == {"name": "Zhibei", "version": __version__}
    assert found["api"]["koboldai"]["rel_url"] == "/api"


@pytest.mark.parametrize(
    "path",
    [
        "/api/extra/transcribe",
        "/api/extra/tts",
        "/api/extra/websearch",
        "/api/extra/multiplayer/status",
        "/api/extra/data/save",
        "/sdapi/v1/txt2img",
    ],
)
def test_what_is_not_offered_is_refused_in_words(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={"prompt": "x"})
    assert answer.status_code == 501
    assert answer.json()["detail"]["type"] == "not_implemented"
    assert path in answer.json()["detail"]["msg"]


def test_an_unknown_path_is_refused_in_koboldcpps_words(client: httpx.Client) -> None:
    answer = client.get("/api/extra/nothing")
    assert answer.status_code == 404
    assert answer.json()["detail"]["type"] == "not_found"


def test_without_any_model_there_is_no_connection(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as empty, httpx.Client(base_url=empty.url, timeout=20) as client:
        assert client.get("/api/v1/model").json() == {"result": "ReadOnly"}
        assert client.get("/api/extra/version").json()["vision"] is False
        assert client.get("/api/extra/true_max_context_length").status_code == 404
        assert client.post("/api/v1/generate", json={"prompt": "x"}).status_code == 404


def test_the_model_that_is_loaded_is_the_one_that_is_meant(tiny_home: Path) -> None:
    # The settings' model is not even in this store.
    with serving(tiny_home, settings=Settings(model="absent")) as other, httpx.Client(base_url=other.url, timeout=20) as client:
        assert client.get("/api/v1/model").json() == {"result": "ReadOnly"}
        assert client.post("/v1/completions", json={"model": MODEL, "prompt": "x"}).status_code == 200
        assert client.get("/api/v1/model").json() == {"result": f"koboldcpp/{MODEL}"}
        assert client.post("/api/v1/generate", json={"prompt": "one"}).json()["results"][0]["text"] == "one"
