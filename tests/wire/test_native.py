"""Zhibei's own routes on the wire: shapes, errors, and pulls that are left."""

from __future__ import annotations

import json
import os
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
from zhibei.judging.fit import Judgement
from zhibei.judging.machine import Machine
from zhibei.planner.recommend import Recommendation
from zhibei.plans import Plan
from zhibei.server.native.jobs import MAX_RUNNING
from zhibei.wire import decode, decode_error, decode_pull_event


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
    told = client.get("/version").json()
    assert (told["name"], told["version"]) == ("zhibei", __version__) and told["instance"]


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
        ("/prune", {"unknown": 1}),
        ("/prune", []),
        ("/verify", {"names": "tiny"}),
        ("/verify", {"names": [5]}),
        ("/verify", {"names": [""]}),
        ("/verify", {"names": ["tiny"] * 10_001}),
        ("/verify", {"names": ["../x"]}),
        ("/verify", {"unknown": 1}),
        ("/repair", {}),
        ("/repair", {"name": ""}),
        ("/repair", {"name": 5}),
        ("/repair", {"name": "../x"}),
        ("/repair", {"name": "/etc/passwd"}),
        ("/repair", {"name": "tiny", "copy_file": True}),
        ("/update", {}),
        ("/update", {"name": ["tiny"]}),
        ("/update", {"name": "file:/etc/passwd"}),
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


def lines_of(reply: httpx.Response) -> list[Any]:
    """The events of a stream that went well."""
    assert reply.status_code == 200 and reply.headers["content-type"] == "application/x-ndjson"
    return [decode_pull_event(json.loads(line)) for line in reply.text.splitlines() if line]


def kinds_of(events: list[Any]) -> list[str]:
    return list(dict.fromkeys(type(event).__name__ for event in events))


def blob_of(server: Serving) -> Path:
    blobs = (server.settings.home / "blobs" / "sha256").rglob("*")
    (found,) = (path for path in blobs if path.is_file() and path.suffix != ".chunks")
    return found


def test_what_belongs_to_no_model_is_listed_and_removed(own: Serving, client: httpx.Client) -> None:
    assert client.get("/leftovers").json() == client.post("/prune", json={}).json() == []
    orphan = own.settings.home / "blobs" / "sha256" / "cd" / ("cd" * 32)
    orphan.parent.mkdir()
    orphan.write_bytes(b"nobody's")
    os.utime(orphan, (1, 1))
    expected = {
        "kind": "blob",
        "path": str(orphan),
        "size_bytes": 8,
        "origin": None,
        "total_bytes": None,
        "is_active": False,
    }
    assert client.get("/leftovers").json() == [expected]
    assert client.get("/leftovers", params={"partial_only": "true"}).json() == []
    assert client.get("/leftovers", params={"partial_only": "perhaps"}).status_code == 400
    assert orphan.exists()
    assert client.post("/prune", json={}).json() == [expected]
    assert not orphan.exists()
    assert client.get("/prune").status_code == 405 and client.post("/leftovers", json={}).status_code == 405


def test_a_check_is_lines_of_events(own: Serving, client: httpx.Client) -> None:
    events = lines_of(client.post("/verify", json={}))
    assert kinds_of(events) == ["Progress", "Checked"] and events[-1].problem is None
    assert lines_of(client.post("/verify", json={"names": [MODEL]})) == events
    blob_of(own).write_bytes(b"?" * blob_of(own).stat().st_size)
    assert lines_of(client.post("/verify", json={"names": ["tiny"]}))[-1].bad_files == ("tiny.gguf",)
    client.delete("/models/tiny")
    empty = client.post("/verify", json={})
    assert (empty.status_code, empty.text.strip()) == (200, "")


def test_a_repair_is_a_check_and_then_a_pull(own: Serving, client: httpx.Client) -> None:
    blob = blob_of(own)
    content = blob.read_bytes()
    blob.write_bytes(b"?" + content[1:])
    events = lines_of(client.post("/repair", json={"name": "tiny"}))
    assert kinds_of(events) == ["Progress", "Checked", "Inspected", "Pulled"]
    assert blob.read_bytes() == content
    assert client.get("/models/tiny").json()["problem"] is None


def test_an_update_is_lines_of_events_as_of_a_pull(own: Serving, client: httpx.Client) -> None:
    (own.settings.home.parent / "tiny.gguf").write_bytes(model_bytes(8, seed=5))
    events = lines_of(client.post("/update", json={"name": "tiny"}))
    assert kinds_of(events) == ["Inspected", "Progress", "Pulled"]
    assert blob_of(own).read_bytes() == model_bytes(8, seed=5)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/verify", {"names": [MODEL, "nowhere"]}), ("/repair", {"name": "nowhere"}), ("/update", {"name": "nowhere"})],
)
def test_upkeep_of_what_is_not_here_has_a_status(client: httpx.Client, path: str, body: Any) -> None:
    reply = client.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert "nowhere" in str(decode_error(reply.json()["error"]["zhibei"]))


def test_an_update_whose_source_is_gone_has_a_status_and_changes_nothing(own: Serving, client: httpx.Client) -> None:
    before = client.get("/models/tiny").json()
    (own.settings.home.parent / "tiny.gguf").unlink()
    assert client.post("/update", json={"name": "tiny"}).status_code == 404
    assert client.get("/models/tiny").json() == before


def test_what_is_sound_needs_no_source_to_be_repaired_but_one_to_be_updated(own: Serving, client: httpx.Client) -> None:
    (own.settings.home.parent / "tiny.gguf").unlink()
    repaired = json.loads(client.post("/repair", json={"name": "tiny"}).text.splitlines()[-1])
    assert repaired["event"] == "pulled"
    updated = json.loads(client.post("/update", json={"name": "tiny"}).text.splitlines()[-1])
    assert type(decode_error(updated["error"]["zhibei"])).__name__ == "ModelNotFound"
    assert client.get("/models/tiny").json()["problem"] is None


@pytest.mark.parametrize("path", ["/repair", "/update"])
def test_a_model_of_which_nothing_is_known_is_broken_not_a_bad_request(own: Serving, client: httpx.Client, path: str) -> None:
    (manifest,) = (own.settings.home / "manifests").rglob("*.json")
    manifest.write_text("{")
    error = client.post(path, json={"name": "tiny"}).json()["error"]
    assert type(decode_error(error["zhibei"])).__name__ == "ModelBroken"


UPKEEP = (
    ("GET", "/leftovers", None),
    ("POST", "/prune", {}),
    ("POST", "/verify", {}),
    ("POST", "/repair", {"name": MODEL}),
    ("POST", "/update", {"name": MODEL}),
)


@pytest.mark.parametrize(("method", "path", "body"), UPKEEP)
def test_upkeep_needs_the_key(start: Callable[..., Serving], method: str, path: str, body: Any) -> None:
    url = start(api_key="k").url + "/zhibei/v1" + path
    with httpx.Client(timeout=20) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert client.request(method, url, json=body, headers=headers).status_code == 401
        assert client.request(method, url, json=body, headers={"Authorization": "Bearer k"}).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), UPKEEP[1:])
def test_pages_of_other_sites_change_nothing(client: httpx.Client, method: str, path: str, body: Any) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
        assert client.request(method, path, json=body, headers=headers).status_code == 403
    assert client.request(method, path, content=json.dumps(body), headers={"Content-Type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("path", ["/repair", "/update"])
def test_a_server_that_others_can_reach_looks_at_none_of_its_files_again(start: Callable[..., Serving], path: str) -> None:
    server = start(host="0.0.0.0", api_key="k")
    with httpx.Client(base_url=server.url + "/zhibei/v1", headers={"Authorization": "Bearer k"}) as client:
        reply = client.post(path, json={"name": MODEL})
        assert (reply.status_code, type(decode_error(reply.json()["error"]["zhibei"])).__name__) == (403, "NotPermitted")
        assert client.post("/verify", json={}).status_code == 200


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


def test_the_machine_is_told_and_judged(client: httpx.Client) -> None:
    machine = decode(Machine, client.get("/hardware").json())
    assert machine.hardware.total_bytes and machine.room is not None and machine.engines
    judged = decode(Judgement, client.post("/fit", json={"reference": "tiny", "load": {"ctx_size": 64}}).json())
    assert judged.plan is not None and judged.plan.ctx_size == 64 and judged.appraisal.models[0].is_here
    imagined = client.post("/fit", json={"reference": "tiny", "hardware": "rtx4090,ram=64g"}).json()
    assert {use["device"] for use in imagined["plan"]["devices"]} == {"cpu", "gpu0"}
    offers = [decode(Recommendation, item) for item in client.post("/recommend", json={"limit": 2, "purpose": "code"}).json()]
    assert len(offers) == 2 and all(offer.plan.is_runnable and offer.reasons for offer in offers)
    plan = decode(Plan, client.post("/plan", json={"model": "tiny", "load": {"ctx_size": 96}}).json())
    assert plan.spec is not None and (plan.spec.engine, plan.ctx_size) == ("echo", 96)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/fit", {}),
        ("/fit", {"reference": "tiny", "hardware": "a machine"}),
        ("/fit", {"reference": "tiny", "purpose": "dancing"}),
        ("/fit", {"reference": "tiny", "load": {"ctx_size": 0}}),
        ("/recommend", {"limit": 1000}),
        ("/recommend", {"ctx_size": 1}),
        ("/plan", {"model": 5}),
        ("/load", {"model": MODEL, "task": "dance"}),
        ("/pulls", {"ref": "a b"}),
        ("/pulls", {}),
    ],
)
def test_questions_that_make_no_sense_are_a_400(client: httpx.Client, path: str, body: Any) -> None:
    assert client.post(path, json=body).status_code == 400, (path, body)


def test_settings_are_told_without_their_secrets(start: Callable[..., Serving]) -> None:
    server = start(api_key="the key")
    with httpx.Client(base_url=server.url, headers={"Authorization": "Bearer the key"}) as client:
        reply = client.get("/zhibei/v1/settings")
    rows = {row["name"]: row for row in reply.json()}
    assert rows["server.api_key"]["value"] == "********" and "the key" not in reply.text
    assert rows["engine"]["value"] == "echo" and rows["hubs.hf_token"]["value"] is None


def test_a_model_is_loaded_by_hand_and_seen_in_the_pool(client: httpx.Client) -> None:
    (loaded,) = client.post("/load", json={"model": "tiny", "keep_alive": "1h"}).json()
    assert (loaded["name"], loaded["num_leases"]) == (MODEL, 0)
    pool = client.get("/pool").json()
    assert [resident["name"] for resident in pool["residents"]] == [MODEL]
    assert pool["num_waiting"] == 0 and 0 < pool["available_bytes"] <= pool["total_bytes"]
    assert client.post("/load", json={"model": "nowhere"}).status_code == 404


def test_events_tell_what_happens_from_now_on(client: httpx.Client) -> None:
    with client.stream("GET", "/events") as reply:
        lines = (json.loads(line) for line in reply.iter_lines() if line)
        assert next(lines)["event"] == "pool"
        client.post("/load", json={"model": "tiny"})
        client.post("/stop", json={"name": "tiny"})
        seen = []
        for line in lines:
            seen.append(line)
            if line["event"] == "model_unloaded":
                break
    told = [(line["event"], line.get("name")) for line in seen if line["event"] != "queue_length"]
    assert told == [("load_began", MODEL), ("model_loaded", MODEL), ("model_unloaded", MODEL)]
    assert seen[-1]["why"] == "asked"


def test_lines_of_an_engine_are_read_and_followed(own: Serving, client: httpx.Client) -> None:
    assert own.app is not None
    book = own.app.pool.logs

    async def write(text: str) -> None:
        book.write(MODEL, text)

    own.run(lambda: write("one\ntwo"))
    assert [json.loads(line)["text"] for line in client.get("/logs/tiny?lines=1").text.splitlines() if line] == ["two"]
    with client.stream("GET", "/logs/tiny:latest?follow=true&lines=2") as reply:
        lines = (json.loads(line)["text"] for line in reply.iter_lines() if line)
        assert [next(lines), next(lines)] == ["one", "two"]
        own.run(lambda: write("three"))
        assert next(lines) == "three"
    assert client.get("/logs/nowhere").status_code == 404
    assert client.get("/logs/tiny?lines=-1").status_code == 400


def test_followers_do_not_hold_up_the_end_of_the_server(own: Serving, client: httpx.Client) -> None:
    with client.stream("GET", "/events") as reply:
        lines = reply.iter_lines()
        assert json.loads(next(line for line in lines if line))["event"] == "pool"
        own.interrupt()
        assert [line for line in lines if line and "queue_length" not in line] == []


def test_a_pull_goes_on_when_its_client_has_left(own: Serving, client: httpx.Client, tmp_path: Path) -> None:
    source = tmp_path / "mine.gguf"
    source.write_bytes(model_bytes(6))
    begun = client.post("/pulls", json={"ref": str(source), "name": "mine", "copy_file": True}).json()
    lines = [json.loads(line) for line in client.get(f"/pulls/{begun['id']}/events").text.splitlines() if line]
    assert [line["event"] for line in lines if line["event"] != "progress"] == ["inspected", "pulled"]
    assert client.get("/models/mine").status_code == 200
    (listed,) = client.get("/pulls").json()
    assert listed == client.get(f"/pulls/{begun['id']}").json()
    assert (listed["state"], listed["name"], listed["error"]) == ("done", "mine:latest", None)
    again = [json.loads(line) for line in client.get(f"/pulls/{begun['id']}/events").text.splitlines() if line]
    assert [line["event"] for line in again] == ["inspected", "progress", "pulled"] and all(line in lines for line in again)
    assert client.delete(f"/pulls/{begun['id']}").json()["state"] == "done"
    assert client.get("/pulls").json() == []
    for method, path in (("GET", "/pulls/nothing"), ("GET", "/pulls/nothing/events"), ("DELETE", "/pulls/nothing")):
        assert client.request(method, path).status_code == 404


def test_a_pull_that_fails_says_so_to_all_who_ask(client: httpx.Client, tmp_path: Path) -> None:
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"GGUF" + bytes(50))
    begun = client.post("/pulls", json={"ref": str(fake), "copy_file": True}).json()
    last = json.loads(client.get(f"/pulls/{begun['id']}/events").text.splitlines()[-1])
    assert last["event"] == "failed" and type(decode_error(last["error"]["zhibei"])).__name__ == "ModelFileError"
    assert client.get(f"/pulls/{begun['id']}").json()["state"] == "failed"


def test_pulls_are_bounded_not_begun_twice_and_can_be_cancelled(own: Serving, client: httpx.Client) -> None:
    gate = own.gate()
    content = model_bytes(300)

    async def open_server() -> HostileServer:
        made = HostileServer(content)
        await made.__aenter__()
        made.fault = lambda request, reply: replace(reply, hold_after=10, hold=gate.event) if request.is_body else None
        return made

    async def close_server() -> None:
        await source.__aexit__(None, None, None)

    source = own.run(open_server)
    try:
        refs = [source.url(f"Mine{number}-Q4_0.gguf") for number in range(MAX_RUNNING)]
        begun = [client.post("/pulls", json={"ref": ref}).json() for ref in refs]
        assert client.post("/pulls", json={"ref": refs[0]}).json()["id"] == begun[0]["id"]
        refused = client.post("/pulls", json={"ref": source.url("More-Q4_0.gguf")})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy") and refused.headers["retry-after"]
        with client.stream("GET", f"/pulls/{begun[0]['id']}/events") as reply:
            lines = (json.loads(line) for line in reply.iter_lines() if line)
            assert next(lines)["event"] == "inspected"
            assert client.delete(f"/pulls/{begun[0]['id']}").json()["state"] == "cancelled"
            assert [line["event"] for line in lines if line["event"] != "progress"] == ["cancelled"]
        for pull in begun[1:]:
            client.delete(f"/pulls/{pull['id']}")
        assert {pull["state"] for pull in client.get("/pulls").json()} == {"cancelled"}
    finally:
        gate.open()
        own.run(close_server)


def test_files_of_the_server_are_neither_judged_nor_pulled_over_the_network(
    start: Callable[..., Serving], tmp_path: Path
) -> None:
    source = tmp_path / "secret.gguf"
    source.write_bytes(model_bytes(4))
    server = start(host="0.0.0.0", api_key="k")
    with httpx.Client(base_url=server.url + "/zhibei/v1", headers={"Authorization": "Bearer k"}) as client:
        for ref in (str(source), f"file:{source}", "http://127.0.0.1:1/x.gguf"):
            assert client.post("/fit", json={"reference": ref}).status_code == 403
            assert client.post("/pulls", json={"ref": ref}).status_code == 403
        for path in ("/plan", "/load"):
            assert client.post(path, json={"model": str(source)}).status_code == 403
