"""Token routes and model routes as the front ends call them: SillyTavern's types, Open WebUI's llama.cpp provider."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from support.serving import MODEL, Serving, stored_model
from zhibei import __version__
from zhibei.engines.echo import EchoScript
from zhibei.events import Finished, TextDelta, Timings, Usage
from zhibei.options import LoadOptions
from zhibei.server.keys import KeyFile
from zhibei.settings import ServerSettings, Settings

CTX_SIZE = 256
IDS = [72, 105]
END = Finished(("stop",), Usage(5, 2), Timings(5, 0.5, 2, 0.25))


def _serving(home: Path, grace_s: float = 5.0) -> Serving:
    load = LoadOptions(ctx_size=CTX_SIZE, parallel=2)
    settings = replace(Settings(), home=home, engine="echo", model=MODEL, load=load, server=ServerSettings(port=0))
    return Serving(settings, EchoScript(), grace_s)


@pytest.fixture(scope="module")
def one(tiny_home: Path) -> Iterator[Serving]:
    made = _serving(tiny_home)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def client(one: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=one.url, timeout=20) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"content": "Hi"}),
        ("/tokenize", {"content": "Hi", "model": MODEL}),
        ("/tokenize", {"content": ["H", 105]}),
        ("/tokenize", {"model": MODEL, "prompt": "Hi"}),
        ("/v1/tokenize", {"prompt": "Hi"}),
        ("/v1/token/encode", {"text": "Hi", "add_bos_token": True, "encode_special_tokens": True}),
        ("/v1/internal/encode", {"text": "Hi"}),
        ("/v1/internal/token-count", {"text": "Hi"}),
    ],
)
def test_one_token_reply_serves_every_front_end(client: httpx.Client, path: str, body: dict[str, object]) -> None:
    found = client.post(path, json=body).json()
    assert (found["tokens"], found["ids"]) == (IDS, IDS)
    assert (found["length"], found["count"], found["value"], found["max_model_len"]) == (2, 2, 2, CTX_SIZE)


def test_pieces_of_a_text(client: httpx.Client) -> None:
    found = client.post("/tokenize", json={"content": "Hi", "with_pieces": True}).json()
    assert found["tokens"] == [{"id": 72, "piece": "H"}, {"id": 105, "piece": "i"}]
    assert client.post("/tokenize", json={"prompt": "Hi", "return_token_strs": True}).json()["token_strs"] == ["H", "i"]
    assert client.post("/tokenize", json={"content": "x" * 2000, "with_pieces": True}).status_code == 400


def test_tokens_of_a_chat(client: httpx.Client) -> None:
    found = client.post("/tokenize", json={"messages": [{"role": "user", "content": "Hi"}]}).json()
    assert "".join(map(chr, found["tokens"])) == "user: Hi\n"


@pytest.mark.parametrize("path", ["/detokenize", "/v1/detokenize", "/v1/token/decode", "/v1/internal/decode"])
def test_one_text_reply_serves_every_front_end(client: httpx.Client, path: str) -> None:
    found = client.post(path, json={"tokens": IDS}).json()
    assert found == {"content": "Hi", "prompt": "Hi", "text": "Hi", "result": "Hi"}
    assert client.post(path, json={"tokens": [-1]}).status_code == 400


def test_token_questions_out_of_range(client: httpx.Client) -> None:
    for body in ({}, {"content": 5}, {"content": [-1]}, {"content": [1.5]}, {"content": "x", "add_special": "yes"}):
        answer = client.post("/tokenize", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, 400)
    assert client.post("/tokenize", json={"content": "x" * (4 * 1024 * 1024 + 1)}).status_code == 400


def test_props_as_sillytavern_reads_them(one: Serving, client: httpx.Client) -> None:
    client.post("/tokenize", json={"content": "x"})
    for query in ("", f"?model={MODEL}", "?autoload=false"):
        found = client.get("/props" + query).json()
        assert isinstance(found["chat_template"], str)
        assert found["chat_template_hash"] == hashlib.sha256(found["chat_template"].encode()).hexdigest()
        assert (found["total_slots"], found["default_generation_settings"]["n_ctx"]) == (2, CTX_SIZE)
        assert (found["model_alias"], found["is_sleeping"], found["build_info"]) == (MODEL, False, f"zhibei-{__version__}")
        assert found["modalities"]["vision"] is False
        # Nobody learns where models lie.
        assert str(one.settings.home) not in json.dumps(found) and "/" not in found["model_path"]
    assert client.get("/props?model=nothing:here").status_code == 404


def test_slots_show_who_works_and_no_prompt(one: Serving, client: httpx.Client) -> None:
    gate = one.gate()
    one.answers((TextDelta("Once"), gate.step, TextDelta("more"), END))
    with client.stream("POST", "/completion", json={"prompt": "secret", "stream": True}) as stream:
        chunks = stream.iter_text()
        next(chunks)
        found = client.get("/slots").json()
        assert [(slot["id"], slot["n_ctx"], slot["is_processing"]) for slot in found] == [
            (0, CTX_SIZE, True),
            (1, CTX_SIZE, False),
        ]
        assert "secret" not in json.dumps(found)
        gate.open()
        assert "more" in "".join(chunks)
    assert not any(slot["is_processing"] for slot in client.get(f"/slots?model={MODEL}").json())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/slots/0?action=erase"),
        ("POST", "/slots/0?action=save"),
        ("POST", "/props"),
        ("POST", "/lora-adapters"),
        ("POST", "/models"),
        ("DELETE", "/models?model=x"),
        ("POST", "/v1/internal/stop-generation"),
    ],
)
def test_what_is_not_offered_is_refused_in_words(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path, json={"filename": "x"})
    assert answer.status_code == 501
    assert answer.json()["error"]["message"]


def test_small_answers(client: httpx.Client) -> None:
    assert client.get("/v1/health").json() == {"status": "ok"}
    assert client.get("/version").json() == {"version": __version__}
    assert client.get("/lora-adapters").json() == []
    assert client.get("/v1/model/list").json()["data"][0]["id"] == MODEL
    card = client.get("/v1/model").json()
    assert (card["id"], card["parameters"]["max_seq_len"]) == (MODEL, CTX_SIZE)
    assert client.get("/v1/internal/model/info").json()["model_name"] == MODEL
    assert client.get("/v1/internal/model/list").json() == {"model_names": [MODEL]}
    assert client.get("/v1/auth/permission").json() == {"permission": "admin"}


def _status(client: httpx.Client) -> str:
    (entry,) = client.get("/models?reload=1").json()["data"]
    assert entry["id"] == MODEL
    return str(entry["status"]["value"])


def test_models_are_loaded_and_unloaded_as_open_webui_does(tiny_home: Path) -> None:
    one = _serving(tiny_home)
    one.start()
    try:
        with httpx.Client(base_url=one.url, timeout=20) as client, client.stream("GET", "/models/sse") as events:
            lines = (line.removeprefix("data: ") for line in events.iter_lines() if line.startswith("data: "))
            assert json.loads(next(lines)) == {"model": MODEL, "event": "model_status", "data": {"status": "unloaded"}}
            assert _status(client) == "unloaded"
            assert client.get("/slots").json() == []
            assert client.get("/props").json()["is_sleeping"] is True
            assert client.post("/models/load", json={"model": MODEL}).json() == {"success": True}
            assert _status(client) == "loaded"
            assert [json.loads(next(lines))["data"]["status"] for _ in range(2)] == ["loading", "loaded"]
            assert client.post("/models/load", json={"model": MODEL}).json() == {"success": True}
            assert client.post("/models/unload", json={"model": MODEL}).json() == {"success": True}
            assert _status(client) == "unloaded"
            last = json.loads(next(lines))
            assert (last["model"], last["event"], last["data"]["status"]) == (MODEL, "status_change", "unloaded")
            assert client.post("/models/unload", json={"model": MODEL}).status_code == 404
            assert client.post("/models/load", json={"model": "nothing:here"}).status_code == 404
            assert client.post("/models/load", json={}).status_code == 400
    finally:
        one.stop()


def test_who_watches_is_not_waited_for_when_the_server_stops(tiny_home: Path) -> None:
    one = _serving(tiny_home, grace_s=3600.0)
    one.start()
    try:
        with httpx.Client(base_url=one.url, timeout=20) as client, client.stream("GET", "/models/sse") as events:
            lines = events.iter_lines()
            assert "model_status" in next(line for line in lines if line.startswith("data: "))
            one.interrupt()
            assert not [line for line in lines if line.startswith("data: ")], "the stream ends, and not with an error"
    finally:
        one.stop()


def test_a_model_that_is_being_loaded_says_so(tiny_home: Path) -> None:
    one = _serving(tiny_home)
    one.start()
    try:
        gate = one.gate()
        one.script.load = gate.event
        with (
            httpx.Client(base_url=one.url, timeout=20) as client,
            httpx.Client(base_url=one.url, timeout=20) as other,
            client.stream("GET", "/models/sse") as events,
        ):
            lines = (line.removeprefix("data: ") for line in events.iter_lines() if line.startswith("data: "))
            next(lines)
            thread = threading.Thread(target=lambda: other.post("/models/load", json={"model": MODEL}))
            thread.start()
            assert json.loads(next(lines))["data"]["status"] == "loading"
            assert _status(client) == "loading"
            gate.open()
            thread.join(20)
            assert json.loads(next(lines))["data"]["status"] == "loaded"
    finally:
        one.stop()


def test_who_may_load_and_who_may_look(tmp_path: Path) -> None:
    home = tmp_path / "own"
    stored_model(home)
    keys = {scopes: KeyFile(home).create("", scopes)[1] for scopes in (("chat",), ("read",), ("admin",), ("chat", "read"))}
    one = _serving(home)
    one.start()
    try:
        with httpx.Client(base_url=one.url, timeout=20) as client:

            def status(key: str | None, method: str, path: str) -> int:
                headers = {} if key is None else {"authorization": f"Bearer {key}"}
                body = {"model": MODEL, "content": "x"} if method == "POST" else None
                return client.request(method, path, json=body, headers=headers).status_code

            assert status(None, "GET", "/props") == 401
            assert status(None, "GET", "/v1/health") == 200
            for path in ("/models/load", "/models/unload"):
                assert [status(key, "POST", path) for key in keys.values()] == [403, 403, 200, 403]
            assert [status(key, "POST", "/tokenize") for key in keys.values()] == [200, 403, 200, 200]
            assert [status(key, "GET", "/slots") for key in keys.values()] == [403, 200, 200, 200]
            permission = [
                client.get("/v1/auth/permission", headers={"authorization": f"Bearer {keys[scopes]}"}).json()["permission"]
                for scopes in (("admin",), ("chat", "read"))
            ]
            assert permission == ["admin", "api"]
    finally:
        one.stop()
