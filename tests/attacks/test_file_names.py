"""Files of the server's machine in requests: its own user may name them, and nobody else, in whichever dialect."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from support.every_route import WRITING
from support.models import model_bytes
from support.serving import serving, stored_model
from zhibei.server.keys import KeyFile
from zhibei.settings import DEFAULT_MODEL, Settings

SAID = [{"role": "user", "content": "x"}]
# What takes the name of a model beside the routes that write; {model} stands for it in paths.
CHATTING = (
    ("POST", "/v1/embeddings", {"input": "x"}),
    ("POST", "/v1/rerank", {"query": "x", "documents": ["y"]}),
    ("POST", "/v1/messages/count_tokens", {"messages": SAID}),
    ("POST", "/api/embed", {"input": "x"}),
    ("POST", "/api/generate", {}),
    ("POST", "/api/generate", {"keep_alive": 0}),
    ("POST", "/tokenize", {"content": "x"}),
    ("POST", "/zhibei/v1/tokenize", {"text": "x"}),
    ("POST", "/zhibei/v1/detokenize", {"tokens": [1]}),
)
READING = (
    ("POST", "/api/show", {}),
    ("GET", "/v1/models/{model}", None),
    ("GET", "/zhibei/v1/models/{model}", None),
    ("GET", "/props?model={model}", None),
    ("POST", "/zhibei/v1/plan", {}),
    ("POST", "/zhibei/v1/fit", {}),
)
NAMED = tuple(each for each in WRITING if "model" in each.body or each.path in ("/completion", "/infill"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "private.gguf"
    path.write_bytes(model_bytes(2, name="private"))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("files") / "home"
    stored_model(made)
    stored_model(made, DEFAULT_MODEL)
    return made


def spellings(model: Path) -> tuple[str, ...]:
    """Ways to name the file, and files that are none or no models."""
    return (
        str(model),
        f"file:{model}",
        f"FILE:{model}",
        f" {model}",
        f"{model.parent}/../{model.parent.name}/{model.name}",
        "./x",
        "~/x",
    )


def asked(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None, name: str) -> httpx.Response:
    if body is None:
        return client.request(method, path.replace("{model}", quote(name, safe="/:~.")))
    return client.request(method, path, json={**body, "reference" if path.endswith("/fit") else "model": name})


def test_a_key_for_less_than_everything_names_no_files(home: Path, model: Path) -> None:
    with serving(home) as server, httpx.Client(base_url=server.url, timeout=20) as client:
        file = KeyFile(home)
        try:
            key = file.create("", ("chat", "read"))[1]
            client.headers["x-api-key"] = key
            for name in spellings(model):
                for each in NAMED:
                    for body in each.bodies:
                        reply = client.post(each.path, json={**body, "model": name})
                        assert (reply.status_code, "may not name files" in reply.text) == (403, True), (
                            each.path,
                            name,
                            reply.text,
                        )
                for method, path, fields in (*CHATTING, *READING):
                    reply = asked(client, method, path, fields, name)
                    assert reply.status_code in (400, 403, 404), (path, name, reply.text)
                    assert str(model) not in reply.text.replace(name, "") and "is no GGUF" not in reply.text
                    if path != "/props?model={model}" and name == str(model) and method == "POST":
                        assert reply.status_code == 403 and "may not name files" in reply.text, (path, reply.text)
        finally:
            file.path.unlink()
    assert server.script.started == []


def test_an_administrator_may_and_so_may_the_user_of_a_server_without_keys(home: Path, model: Path) -> None:
    said = {"model": str(model), "messages": SAID}
    with serving(home) as server:
        assert httpx.post(server.url + "/v1/chat/completions", json=said).status_code == 200
        assert httpx.post(server.url + "/api/show", json={"model": str(model)}).status_code == 200
    with serving(home, api_key="k") as server:
        assert httpx.post(server.url + "/v1/chat/completions", json=said, headers={"x-api-key": "k"}).status_code == 200


def test_where_others_can_reach_the_server_nobody_may(home: Path, model: Path) -> None:
    with serving(home, host="0.0.0.0", api_key="k") as server:
        client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers={"x-api-key": "k"}, timeout=20)
        with client:
            for each in NAMED:
                assert client.post(each.path, json={**each.bodies[0], "model": str(model)}).status_code == 403, each.path
            for method, path, fields in READING:
                if method == "POST":
                    assert asked(client, method, path, fields, str(model)).status_code == 403, path
    assert server.script.started == []


def test_a_file_that_the_settings_name_is_everybodys(home: Path, model: Path) -> None:
    settings = Settings(model=str(model))
    with serving(home, settings=settings) as server:
        file = KeyFile(home)
        try:
            headers = {"x-api-key": file.create("", ("chat",))[1]}
            said = {"model": str(model), "messages": SAID}
            assert httpx.post(server.url + "/v1/chat/completions", json=said, headers=headers).status_code == 200
            other = {**said, "model": f"file:{model}"}
            assert httpx.post(server.url + "/v1/chat/completions", json=other, headers=headers).status_code == 403
        finally:
            file.path.unlink()
