"""Ollama's routes around models: what is here, what is made, what is uploaded; through the official client."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from support.gguf_writer import text
from support.models import model_bytes, sha256, shard_bytes
from support.serving import MODEL, Serving, import_model, serving, stored_model
from zhibei.chat import ChatRequest
from zhibei.settings import ModelSettings, Settings
from zhibei.store.disk import Disk

TOOLS_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if tools %}{{ tools }}{% endif %}<think>"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    stored_model(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def server(home: Path) -> Iterator[Serving]:
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """For tests that leave no trace."""
    home = tmp_path_factory.mktemp("shared") / "home"
    stored_model(home)
    with serving(home) as running:
        yield running


@pytest.fixture
def client(server: Serving) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as made:
        yield made


def upload(server: Serving, data: bytes) -> str:
    digest = f"sha256:{sha256(data)}"
    assert httpx.post(f"{server.url}/api/blobs/{digest}", content=data).status_code == 201
    return digest


def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


def test_greeting_and_version(shared: Serving) -> None:
    greeting = httpx.get(shared.url)
    assert (greeting.status_code, greeting.text) == (200, "Ollama is running")
    assert greeting.headers["content-type"].startswith("text/plain")
    version = httpx.get(f"{shared.url}/api/version").json()
    assert all(part.isdigit() for part in version["version"].split(".")) and version["version"].count(".") == 2
    assert version["zhibei"]
    for path in ("/", "/api/version", "/api/tags"):
        head = httpx.head(f"{shared.url}{path}")
        assert (head.status_code, head.content) == (200, b"")


def test_a_list(server: Serving, client: ollama.Client) -> None:
    (model,) = client.list().models
    assert model.model == MODEL and model.size is not None and model.size > 1000
    assert model.digest is not None and len(bytes.fromhex(model.digest)) == 32
    assert model.modified_at is not None and abs((datetime.now(timezone.utc) - model.modified_at).total_seconds()) < 600
    assert model.details is not None and (model.details.format, model.details.family) == ("gguf", "llama")
    (raw,) = httpx.get(f"{server.url}/api/tags").json()["models"]
    assert raw["name"] == raw["model"] == MODEL and raw["capabilities"] == ["completion"]
    assert raw["details"]["context_length"] == 128


def test_what_runs(client: ollama.Client) -> None:
    assert client.ps().models == []
    client.generate(MODEL, keep_alive=60)
    (model,) = client.ps().models
    assert (model.name, model.model, model.context_length, model.size_vram) == (MODEL, MODEL, 128, 0)
    assert model.expires_at is not None and model.digest == client.list().models[0].digest
    assert 0 < (model.expires_at - datetime.now(timezone.utc)).total_seconds() <= 60
    client.generate(MODEL, keep_alive=-1)
    (model,) = client.ps().models
    assert model.expires_at is not None and model.expires_at.year > 2100


def test_show(server: Serving, client: ollama.Client) -> None:
    shown = client.show(MODEL)
    assert shown.details is not None and shown.details.family == "llama"
    assert shown.modelinfo is not None and shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] == 128
    assert shown.modelinfo["general.parameter_count"] > 0
    assert shown.capabilities == ["completion"]
    assert (shown.template, shown.license) == ("{{ messages[0].content }}", "apache-2.0")
    assert shown.modelfile is not None and f"FROM {MODEL}" in shown.modelfile
    verbose = httpx.post(f"{server.url}/api/show", json={"name": MODEL, "verbose": True}).json()
    assert verbose["model_info"]["general.architecture"] == "llama"


def test_capabilities_are_the_models_own(home: Path, tmp_path: Path) -> None:
    (tmp_path / "t.gguf").write_bytes(model_bytes(4, **{"tokenizer.chat_template": text(TOOLS_TEMPLATE)}))
    import_model(home, tmp_path / "t.gguf", "toolful")
    with serving(home) as server, ollama.Client(host=server.url) as client:
        assert client.show("toolful").capabilities == ["completion", "tools", "thinking"]


@pytest.mark.parametrize("path", ["/api/show", "/api/chat", "/api/generate", "/api/embed"])
def test_an_unknown_model(shared: Serving, path: str) -> None:
    found = httpx.post(f"{shared.url}{path}", json={"model": "nobody", "prompt": "a", "input": "a", "messages": []})
    assert (found.status_code, found.json()) == (404, {"error": "model 'nobody:latest' not found"})


def test_copy_and_delete(client: ollama.Client) -> None:
    assert client.copy(MODEL, "Other").status == "success"
    assert sorted(model.model or "" for model in client.list().models) == ["other:latest", MODEL]
    assert len({model.digest for model in client.list().models}) == 1
    assert client.delete("other").status == "success"
    for missing in (lambda: client.copy("nobody", "x"), lambda: client.delete("other")):
        with pytest.raises(ollama.ResponseError) as caught:
            missing()
        assert caught.value.status_code == 404


def test_a_model_from_another_one(server: Serving, client: ollama.Client) -> None:
    made = client.create(
        "Mario",
        from_=MODEL,
        system="You are Mario.",
        parameters={"temperature": 0.5, "num_ctx": 64, "num_predict": 2, "stop": ["x", "y"], "num_keep": 3},
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "It's me"}],
        license="MIT",
    )
    assert made.status == "success"
    client.chat("mario", [{"role": "user", "content": "one two three"}])
    wanted = server.script.requests[-1]
    assert isinstance(wanted, ChatRequest)
    assert [(message.role, message.text) for message in wanted.messages] == [
        ("system", "You are Mario."),
        ("user", "hi"),
        ("assistant", "It's me"),
        ("user", "one two three"),
    ]
    assert (wanted.sampling.temperature, wanted.limits.stop, wanted.limits.max_tokens) == (0.5, ("x", "y"), 2)
    assert server.script.started[-1].ctx_size == 64
    shown = httpx.post(f"{server.url}/api/show", json={"model": "mario"}).json()
    assert (shown["system"], shown["license"]) == ("You are Mario.", "MIT")
    assert shown["messages"] == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "It's me"}]
    assert shown["parameters"].splitlines()[0] == "num_ctx                        64"
    assert shown["details"]["parent_model"] == MODEL


def test_the_steps_of_making_one(server: Serving) -> None:
    body = {"model": "mario", "from": MODEL, "system": "S", "parameters": {"num_keep": 1}, "files": None}
    found = httpx.post(f"{server.url}/api/create", json=body)
    statuses = [line["status"] for line in lines_of(found)]
    assert statuses[0] == "reading model metadata" and statuses[-2:] == ["writing manifest", "success"]
    assert any(status.startswith("using existing layer sha256:") for status in statuses)
    assert found.headers["x-zhibei-ignored"] == "parameters.num_keep"


def test_what_is_shown_makes_the_same_again(server: Serving, client: ollama.Client) -> None:
    modelfile = (
        f'FROM {MODEL}\n# a comment\nSYSTEM """You are "Mario".\nNothing else."""\nPARAMETER temperature 0.25\n'
        'parameter stop "<|end|>"\nPARAMETER num_ctx 64\nMESSAGE user Hello there\nMESSAGE assistant """It\'s\nme"""\n'
        'TEMPLATE """{% for m in messages %}{{ m.content }}{% endfor %}"""\nLICENSE """Do "as" you like."""\n'
    )
    made = httpx.post(f"{server.url}/api/create", json={"model": "first", "modelfile": modelfile, "stream": False})
    assert made.json() == {"status": "success"}
    first = client.show("first")
    assert first.modelfile is not None
    again = httpx.post(f"{server.url}/api/create", json={"model": "second", "modelfile": first.modelfile, "stream": False})
    assert again.json() == {"status": "success"}
    second = client.show("second")
    assert second.modelfile is not None
    assert second.modelfile.replace("FROM second:latest", "") == first.modelfile.replace("FROM first:latest", "")
    assert (second.parameters, second.template, second.license) == (first.parameters, first.template, first.license)
    # The very same name may be made anew.
    assert client.create("second", from_="second", system="Else").status == "success"
    assert 'SYSTEM "Else"' in (client.show("second").modelfile or "")


def test_a_go_template_of_a_known_format(server: Serving, client: ollama.Client) -> None:
    chatml = (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ if .Prompt }}<|im_start|>user\n"
        "{{ .Prompt }}<|im_end|>\n{{ end }}<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    )
    client.create("templated", from_=MODEL, template=chatml)
    assert client.show("templated").template == chatml
    client.generate("templated", "a")
    assert "<|im_start|>user" in (server.script.started[-1].chat_template or "")
    with pytest.raises(ollama.ResponseError, match="template"):
        client.create("odd", from_=MODEL, template="{{ .System }} !! {{ .Prompt }} ??")


def test_uploads(server: Serving, client: ollama.Client, home: Path) -> None:
    data = model_bytes(8, name="uploaded")
    digest = f"sha256:{sha256(data)}"
    url = f"{server.url}/api/blobs/{digest}"
    assert httpx.head(url).status_code == 404
    assert httpx.post(url, content=iter([data[:1000], data[1000:]])).status_code == 201
    assert httpx.head(url).status_code == 200
    assert httpx.post(url, content=data).status_code == 200
    assert client.create("made", files={"model.gguf": digest}).status == "success"
    assert client.generate("made", "one").response == "one"
    assert client.show("made").modelinfo is not None
    assert list((home / "tmp").iterdir()) == []
    client.delete("made")
    assert httpx.head(url).status_code == 404


def test_the_clients_own_upload(client: ollama.Client, tmp_path: Path) -> None:
    path = tmp_path / "up.gguf"
    path.write_bytes(model_bytes(6))
    digest = client.create_blob(path)
    assert client.create("up", files={"up.gguf": digest}).status == "success"


def test_uploads_that_are_not_what_they_are_called(server: Serving, home: Path) -> None:
    wrong = httpx.post(f"{server.url}/api/blobs/sha256:{'0' * 64}", content=b"something else")
    assert wrong.status_code == 400 and hashlib.sha256(b"something else").hexdigest() in wrong.json()["error"]
    for digest in ("sha256:" + "A" * 64, "md5:" + "0" * 64, "0" * 64, "sha256:..%2f" + "0" * 58):
        for found in (
            httpx.head(f"{server.url}/api/blobs/{digest}"),
            httpx.post(f"{server.url}/api/blobs/{digest}", content=b"x"),
        ):
            assert found.status_code in (400, 404, 415)
    assert not list((home / "blobs").rglob("0" * 64)) and list((home / "tmp").iterdir()) == []


def test_a_full_disk(server: Serving, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Disk, fileno: int, data: bytes | memoryview) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    url = f"{server.url}/api/blobs/sha256:{sha256(b'data')}"
    monkeypatch.setattr(Disk, "free_bytes", lambda self, path: 1)
    assert httpx.post(url, content=b"data").status_code == 507
    monkeypatch.undo()
    monkeypatch.setattr(Disk, "write", full)
    refused = httpx.post(url, content=b"data")
    assert refused.status_code == 507 and "full" in refused.json()["error"]
    assert list((home / "tmp").iterdir()) == []


def test_a_model_in_several_files(server: Serving, client: ollama.Client) -> None:
    second, first = upload(server, shard_bytes(1, 2)), upload(server, shard_bytes(0, 2))
    assert client.create("sharded", files={"b.gguf": second, "a.gguf": first}).status == "success"
    client.generate("sharded", "a")
    assert server.script.started[-1].model_path.endswith("-00001-of-00002.gguf")
    with pytest.raises(ollama.ResponseError):
        client.create("half", files={"a.gguf": first})


def test_an_adapter(server: Serving, client: ollama.Client) -> None:
    adapter = upload(server, model_bytes(5, **{"general.type": text("adapter")}))
    client.create("tuned", from_=MODEL, adapters={"lora.gguf": adapter})
    client.generate("tuned", "a")
    assert len(server.script.started[-1].lora) == 1
    with pytest.raises(ollama.ResponseError, match="adapter"):
        client.create("wrong", from_=MODEL, adapters={"x.gguf": upload(server, model_bytes(7))})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "from"),
        ({"from": MODEL, "quantize": "q4_K_M"}, "quantised"),
        ({"from": "/etc/passwd"}, "disk"),
        ({"from": "./x.gguf"}, "disk"),
        ({"path": "/etc/passwd"}, "disk"),
        ({"from": MODEL, "files": {"a": "sha256:" + "0" * 64}}, "both"),
        ({"files": {"a": "nonsense"}}, "digest"),
        ({"files": {"a": "sha256:" + "0" * 64}}, "Upload"),
        ({"from": MODEL, "parameters": {"temperature": "hot"}}, "temperature"),
        ({"from": MODEL, "parameters": {"nonsense": 1}}, "nonsense"),
        ({"modelfile": "FROM\n"}, "line 1"),
        ({"modelfile": f"FROM {MODEL}\nBLAH x"}, "line 2"),
        ({"modelfile": f'FROM {MODEL}\nSYSTEM """open'}, "line 2"),
        ({"modelfile": f"FROM {MODEL}\nPARAMETER top_p 7"}, "line 2"),
        ({"modelfile": f"FROM {MODEL}\nADAPTER ./lora.gguf"}, "digest"),
    ],
)
def test_recipes_that_make_no_sense(shared: Serving, body: dict[str, Any], words: str) -> None:
    found = httpx.post(f"{shared.url}/api/create", json={"model": "x", "stream": False, **body})
    assert found.status_code in (400, 404) and words in found.json()["error"], found.text


def test_safetensors_and_rubbish_are_refused(server: Serving) -> None:
    header = b'{"__metadata__":{}}'
    tensors = upload(server, len(header).to_bytes(8, "little") + header)
    rubbish = upload(server, b"<html>" * 100)
    body: dict[str, Any] = {"model": "x", "stream": False}
    refused = httpx.post(f"{server.url}/api/create", json={**body, "files": {"model.safetensors": tensors}})
    assert refused.status_code == 400 and "Safetensors" in refused.json()["error"]
    refused = httpx.post(f"{server.url}/api/create", json={**body, "files": {"model.gguf": rubbish}})
    assert refused.status_code == 422 and "HTML" in refused.json()["error"]
    assert [model["name"] for model in httpx.get(f"{server.url}/api/tags").json()["models"]] == [MODEL]


def test_no_model_is_lost_to_another_of_its_name(server: Serving, client: ollama.Client) -> None:
    other = upload(server, model_bytes(9))
    with pytest.raises(ollama.ResponseError, match="already") as caught:
        client.create(MODEL, files={"a.gguf": other})
    assert caught.value.error
    assert client.create("mine", files={"a.gguf": other}).status == "success"
    assert client.create("mine", from_=MODEL).status == "success"


def test_push_is_refused_in_words(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="published") as caught:
        client.push(MODEL)
    assert caught.value.status_code == 400


def test_pulling_what_is_here(server: Serving, client: ollama.Client) -> None:
    statuses = [step.status for step in client.pull(MODEL, stream=True)]
    assert statuses == ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"]
    assert client.pull(MODEL).status == "success"
    found = httpx.post(f"{server.url}/api/pull", json={"name": MODEL, "insecure": True, "stream": False})
    assert found.json() == {"status": "success"} and found.headers["x-zhibei-ignored"] == "insecure"


def test_pulling_a_file_shows_its_progress(server: Serving, tmp_path: Path) -> None:
    path = tmp_path / "new.gguf"
    path.write_bytes(model_bytes(16))
    found = httpx.post(f"{server.url}/api/pull", json={"model": str(path)})
    assert lines_of(found)[-1] == {"status": "success"}
    assert "new:latest" in [model["name"] for model in httpx.get(f"{server.url}/api/tags").json()["models"]]


def test_pulling_what_nobody_has(server: Serving, tmp_path: Path) -> None:
    found = httpx.post(f"{server.url}/api/pull", json={"model": str(tmp_path / "none.gguf")})
    assert found.status_code == 404 and set(found.json()) == {"error"}
    refused = httpx.post(f"{server.url}/api/pull", json={"model": "registry.example.com/a/b"})
    assert refused.status_code == 400 and "registry.example.com" in refused.json()["error"]
    assert httpx.post(f"{server.url}/api/pull", json={"model": "???"}).status_code == 400


def test_aliases_are_listed_and_run(home: Path) -> None:
    settings = Settings(models={MODEL: ModelSettings(aliases=("quick",))})
    with serving(home, settings=settings) as server, ollama.Client(host=server.url) as client:
        assert sorted(model.model or "" for model in client.list().models) == ["quick", MODEL]
        assert client.generate("quick", "one").response == "one"
        assert client.show("quick").modelinfo is not None
        assert [model.model for model in client.ps().models] == [MODEL]
        assert client.generate("quick", keep_alive=0).done_reason == "unload"
        assert client.ps().models == []
