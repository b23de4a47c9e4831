"""Zhibei's own routes on the wire: shapes, errors, and pulls that are left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.hostile_server import HostileServer
from support.models import model_bytes
from support.serving import MODEL, Serving, serving, stored_model
from zhibei import __version__
from zhibei.wire import decode_error, decode_pull_event


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Serving]:
    """A server with a store that the test may change."""
    home = tmp_path / "home"
    stored_model(home)
    with serving(home) as made:
        yield made


@pytest.fixture
def client(own: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.url + "/zhibei/v1", timeout=20) as made:
        yield made


def test_version(client: httpx.Client) -> None:
    assert client.get("/version").json() == {"name": "zhibei", "version": __version__}


def test_models(client: httpx.Client) -> None:
    listed = client.get("/models").json()
    assert [model["name"] for model in listed] == [MODEL]
    assert listed[0] == client.get("/models/tiny").json() and listed[0]["info"]["format"] == "gguf"
    assert client.post("/models/copy", json={"source": MODEL, "target": "team/other"}).json() == {}
    assert client.get("/models/team%2Fother:latest").json()["name"] == "team/other:latest"
    assert client.delete("/models/team/other").json() == {}
    gone = client.delete("/models/team/other")
    assert gone.status_code == 404 and gone.json()["error"]["code"] == "model_not_found"


def test_errors_carry_what_is_needed_to_raise_them_again(client: httpx.Client) -> None:
    error = client.get("/models/nowhere").json()["error"]
    again = decode_error(error["zhibei"])
    assert type(again).__name__ == "ModelNotFound" and "nowhere" in str(again)
    assert {"message", "type", "param", "code", "zhibei"} == set(error)


def test_running_models(own: Serving, client: httpx.Client) -> None:
    assert client.get("/ps").json() == []
    assert client.post("/tokenize", json={"model": MODEL, "text": "hi", "keep_alive": "1h"}).json() == {"tokens": [104, 105]}
    assert client.post("/detokenize", json={"model": MODEL, "tokens": [104, 105]}).json() == {"text": "hi"}
    (resident,) = client.get("/ps").json()
    assert (resident["name"], resident["engine"], resident["num_leases"]) == (MODEL, "echo", 0)
    assert client.post("/stop", json={"name": MODEL}).json() == {}
    assert client.get("/ps").json() == []
    assert client.post("/stop", json={"name": MODEL}).status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/pull", {}),
        ("/pull", {"ref": ""}),
        ("/pull", {"ref": 5}),
        ("/pull", {"ref": "x", "unknown": 1}),
        ("/pull", {"ref": "a b"}),
        ("/models/copy", {"source": MODEL}),
        ("/models/copy", {"source": MODEL, "target": "../x"}),
        ("/models/copy", {"source": MODEL, "target": "con"}),
        ("/stop", {"name": None}),
        ("/tokenize", {"model": MODEL}),
        ("/tokenize", {"model": MODEL, "text": "x", "load": {"lora": "/etc/passwd"}}),
        ("/detokenize", {"model": MODEL, "tokens": [-1]}),
        ("/detokenize", {"model": MODEL, "tokens": ["1"]}),
        ("/detokenize", {"model": MODEL, "tokens": "hi"}),
    ],
)
def test_what_makes_no_sense_is_a_400(client: httpx.Client, path: str, body: Any) -> None:
    assert client.post(path, json=body).status_code == 400


def test_a_pull_is_lines_of_events(client: httpx.Client, tmp_path: Path) -> None:
    source = tmp_path / "mine.gguf"
    source.write_bytes(model_bytes(6))
    reply = client.post("/pull", json={"ref": str(source), "name": "mine", "copy_file": True})
    assert reply.headers["content-type"] == "application/x-ndjson"
    events = [decode_pull_event(json.loads(line)) for line in reply.text.splitlines()]
    assert type(events[-1]).__name__ == "Pulled"
    assert client.get("/models/mine").status_code == 200


def test_a_pull_that_fails_at_once_has_a_status(client: httpx.Client, tmp_path: Path) -> None:
    assert client.post("/pull", json={"ref": str(tmp_path / "nothing.gguf")}).status_code in (400, 404)
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"GGUF" + bytes(50))
    assert client.post("/pull", json={"ref": str(fake), "copy_file": True}).status_code == 422


def test_files_of_the_server_cannot_be_named_over_the_network(start: Callable[..., Serving], tmp_path: Path) -> None:
    source = tmp_path / "secret.gguf"
    source.write_bytes(model_bytes(4))
    server = start(host="0.0.0.0", api_key="k")
    with httpx.Client(base_url=server.url, headers={"Authorization": "Bearer k"}) as client:
        for ref in (str(source), f"file:{source}", "~/x.gguf", "./x.gguf", "FILE:/etc/passwd", "C:\\x"):
            said = [{"role": "user", "content": "x"}]
            for path, body in (
                ("/zhibei/v1/pull", {"ref": ref}),
                ("/v1/chat/completions", {"model": ref, "messages": said}),
                ("/v1/completions", {"model": ref, "prompt": "x"}),
                ("/v1/embeddings", {"model": ref, "input": "x"}),
                ("/zhibei/v1/tokenize", {"model": ref, "text": "x"}),
                ("/zhibei/v1/detokenize", {"model": ref, "tokens": []}),
            ):
                assert client.post(path, json=body).status_code == 403, (path, ref)
            for path in (f"/v1/models/{ref}", f"/zhibei/v1/models/{ref}"):
                assert client.get(path.replace("//", "/%2F")).status_code in (400, 403, 404)
        for ref in ("http://127.0.0.1:1/x.gguf", "url:https://example.com/x.gguf"):
            assert client.post("/zhibei/v1/pull", json={"ref": ref}).status_code == 403
        assert client.post("/v1/completions", json={"model": MODEL, "prompt": "x"}).status_code == 200


def test_a_pull_whose_client_leaves_stops_and_goes_on_later(own: Serving, client: httpx.Client) -> None:
    content = model_bytes(3000)
    gate = own.gate()
    half = len(content) // 2

    async def open_server() -> HostileServer:
        made = HostileServer(content)
        await made.__aenter__()
        made.fault = lambda request, reply: (
            replace(reply, hold_after=half - request.first, hold=gate.event) if request.is_body else None
        )
        return made

    async def close_server() -> None:
        await source.__aexit__(None, None, None)

    source = own.run(open_server)
    try:
        body = {"ref": source.url("Mine-Q4_0.gguf"), "name": "mine"}
        with client.stream("POST", "/pull", json=body) as reply:
            lines = reply.iter_lines()
            assert json.loads(next(lines))["event"] == "inspected"
            own.until(lambda: source.num_body_bytes >= half)
        assert client.get("/models/mine").status_code == 404
        source.fault = None
        before = source.num_body_bytes
        text = client.post("/pull", json=body).text
        assert json.loads(text.splitlines()[-1])["event"] == "pulled"
        assert source.bodies[-1].first > 0 and source.num_body_bytes - before < len(content)
        assert client.get("/models/mine").status_code == 200
    finally:
        gate.open()
        own.run(close_server)


def test_a_pull_that_breaks_under_way_ends_with_its_error(own: Serving, client: httpx.Client) -> None:
    content = model_bytes(200)

    async def open_server() -> HostileServer:
        made = HostileServer(content)
        await made.__aenter__()
        made.fault = lambda request, reply: (
            replace(reply, status=404, body=b"") if request.number > 1 or request.is_body else None
        )
        return made

    async def close_server() -> None:
        await source.__aexit__(None, None, None)

    source = own.run(open_server)
    try:
        reply = client.post("/pull", json={"ref": source.url("Mine-Q4_0.gguf"), "name": "mine"})
        last = json.loads(reply.text.splitlines()[-1])
        assert "error" in last and decode_error(last["error"]["zhibei"])
        assert client.get("/models/mine").status_code == 404
    finally:
        own.run(close_server)
