"""Ollama's completions through the official client, and what is on the wire."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from support.gguf_writer import text
from support.models import model_bytes
from support.serving import MODEL, Serving, import_model, serving, stored_model
from zhibei.chat import ChatRequest, CompletionRequest, ImagePart, TextPart, TokenLogprob
from zhibei.engines.echo import Fail
from zhibei.errors import EngineDied
from zhibei.events import Finished, ReasoningDelta, TextDelta, Timings, Usage
from zhibei.options import LoadOptions, Sampling
from zhibei.settings import ModelSettings, Settings

END = Finished(("stop",), Usage(7, 3, 2), Timings(5, 0.25, 3, 0.5, 2))
THINKER = "thinker:latest"
THINKING_TEMPLATE = "{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = tmp_path_factory.mktemp("ollama") / "home"
    stored_model(home)
    source = home.parent / "thinker.gguf"
    source.write_bytes(model_bytes(4, **{"tokenizer.chat_template": text(THINKING_TEMPLATE)}))
    import_model(home, source, THINKER)
    with serving(home) as running:
        yield running


@pytest.fixture
def client(server: Serving) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as made:
        yield made


def last_request(server: Serving) -> ChatRequest | CompletionRequest:
    return server.script.requests[-1]


def unload(server: Serving, name: str) -> None:
    assert httpx.post(f"{server.url}/api/generate", json={"model": name, "keep_alive": 0}).status_code == 200


def test_an_answer(server: Serving, client: ollama.Client) -> None:
    server.answers((TextDelta("Hi "), TextDelta("there"), END))
    found = client.generate(MODEL, "hello")
    assert (found.model, found.response, found.done, found.done_reason) == (MODEL, "Hi there", True, "stop")
    assert (found.prompt_eval_count, found.eval_count) == (7, 3)
    assert (found.prompt_eval_duration, found.eval_duration) == (250_000_000, 500_000_000)
    assert found.total_duration is not None and found.load_duration is not None
    assert 0 < found.load_duration <= found.total_duration
    assert found.created_at is not None and found.created_at.endswith("Z")


def test_a_streamed_answer(server: Serving, client: ollama.Client) -> None:
    server.answers((TextDelta("Hi "), TextDelta("there"), END))
    *pieces, last = client.generate(MODEL, "hello", stream=True)
    assert [(piece.response, piece.done) for piece in pieces] == [("Hi ", False), ("there", False)]
    assert (last.response, last.done, last.done_reason, last.eval_count) == ("", True, "stop", 3)


def test_a_stream_is_lines_of_json_unless_it_is_declined(server: Serving) -> None:
    body = {"model": "TINY", "prompt": "one two"}
    streamed = httpx.post(f"{server.url}/api/generate", json=body)
    assert streamed.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in streamed.text.splitlines()]
    assert [line["response"] for line in lines] == ["one ", "two", ""]
    assert all(line["model"] == "TINY" for line in lines)
    whole = httpx.post(f"{server.url}/api/generate", json={**body, "stream": False})
    assert whole.headers["content-type"] == "application/json" and whole.json()["response"] == "one two"


async def test_from_async_code(server: Serving) -> None:
    async with ollama.AsyncClient(host=server.url) as client:
        pieces = [piece.response async for piece in await client.generate(MODEL, "one two", stream=True)]
        assert "".join(piece or "" for piece in pieces) == "one two"


def test_system_and_options_reach_the_engine(server: Serving, client: ollama.Client) -> None:
    options = {"temperature": 0.5, "top_k": -1, "seed": 3, "num_predict": 1, "stop": ["x"], "mirostat": 2, "min_p": 0.1}
    found = client.generate(MODEL, "a b", system="Be brief.", options=options)
    wanted = last_request(server)
    assert isinstance(wanted, ChatRequest)
    assert [(message.role, message.text) for message in wanted.messages] == [("system", "Be brief."), ("user", "a b")]
    assert wanted.sampling == Sampling(temperature=0.5, top_k=0, seed=3, mirostat=2, min_p=0.1)
    assert (wanted.limits.max_tokens, wanted.limits.stop) == (1, ("x",))
    assert (found.response, found.done_reason) == ("a ", "length")


@pytest.mark.parametrize("num_predict", [-1, -2, 0])
def test_no_limit(server: Serving, client: ollama.Client, num_predict: int) -> None:
    client.generate(MODEL, "a b", options={"num_predict": num_predict})
    assert last_request(server).limits.max_tokens is None


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"top_p": 2},
        {"num_ctx": -5},
        {"num_predict": -3},
        {"mirostat": 3},
        {"stop": ["x"] * 17},
        {"seed": 2**70},
        {"temperature": "hot"},
        {"num_gpu": 10**9},
    ],
)
def test_options_out_of_range_are_refused(client: ollama.Client, options: dict[str, Any]) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        client.generate(MODEL, "a", options=options)
    assert caught.value.status_code == 400 and caught.value.error


def test_options_without_a_meaning_are_reported(server: Serving) -> None:
    body = {"model": MODEL, "prompt": "a", "options": {"tfs_z": 1, "num_keep": 4, "temperature": 0}, "wide": 1}
    found = httpx.post(f"{server.url}/api/generate", json=body)
    assert found.status_code == 200
    assert set(found.headers["x-zhibei-ignored"].split(",")) == {"wide", "options.tfs_z", "options.num_keep"}


def test_raw_text_and_a_suffix(server: Serving, client: ollama.Client) -> None:
    assert client.generate(MODEL, "one two", raw=True).response == "one two"
    raw = last_request(server)
    assert isinstance(raw, CompletionRequest) and (raw.prompt, raw.suffix) == ("one two", None)
    server.answers((TextDelta("gap"), END))
    assert client.generate(MODEL, "def f(", suffix="return 1").response == "gap"
    filled = last_request(server)
    assert isinstance(filled, CompletionRequest) and (filled.prompt, filled.suffix) == ("def f(", "return 1")


def test_thinking_is_apart(server: Serving, client: ollama.Client) -> None:
    answer = (ReasoningDelta("Hm."), TextDelta("Yes."), END)
    server.answers(answer, answer)
    found = client.generate(THINKER, "a", think="high")
    assert (found.thinking, found.response) == ("Hm.", "Yes.")
    wanted = last_request(server)
    assert isinstance(wanted, ChatRequest) and wanted.reasoning_effort == "high"
    first, second, _ = client.generate(MODEL, "a", think=False, stream=True)
    assert (first.thinking, first.response, second.response) == ("Hm.", "", "Yes.")
    wanted = last_request(server)
    assert isinstance(wanted, ChatRequest) and wanted.reasoning_effort == "none"
    unload(server, THINKER)


@pytest.mark.parametrize("think", [True, "low", "high"])
def test_a_model_that_cannot_think_says_so(server: Serving, client: ollama.Client, think: Any) -> None:
    num_before = len(server.script.requests)
    for ask in (
        lambda: client.chat("tiny", [{"role": "user", "content": "a"}], think=think),
        lambda: list(client.chat("tiny", [{"role": "user", "content": "a"}], think=think, stream=True)),
        lambda: client.generate("tiny", "a", think=think),
        lambda: client.generate("tiny", "a", think=think, raw=True),
        # Clients load a model so before they show a prompt, to learn that it cannot.
        lambda: client.generate("tiny", think=think),
    ):
        with pytest.raises(ollama.ResponseError, match='"tiny" does not support thinking') as caught:
            ask()
        assert caught.value.status_code == 400
    assert len(server.script.requests) == num_before
    assert client.generate("tiny", think=think, keep_alive=0).done_reason == "unload"


def test_thoughts_of_raw_text_are_not_asked_for(server: Serving) -> None:
    body = {"model": THINKER, "prompt": "a", "raw": True, "think": True, "stream": False}
    found = httpx.post(f"{server.url}/api/generate", json=body)
    assert (found.status_code, found.headers["x-zhibei-ignored"]) == (200, "think")
    unload(server, THINKER)


def test_the_settings_template_may_think_where_the_models_cannot(server: Serving) -> None:
    own = {MODEL: ModelSettings(load=LoadOptions(chat_template=THINKING_TEMPLATE))}
    with serving(server.settings.home, settings=Settings(models=own)) as other, ollama.Client(host=other.url) as client:
        assert client.chat(MODEL, [{"role": "user", "content": "a"}], think=True).done


def test_formats(server: Serving, client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    body = {"model": MODEL, "prompt": "a", "stream": False}
    for wanted, kind in (("json", "json_object"), (schema, "json_schema"), ("", "text"), (None, "text")):
        server.answers((TextDelta("{}"), END))
        found = httpx.post(f"{server.url}/api/generate", json={**body, "format": wanted})
        # The scripted engine keeps no format, and says so.
        assert found.status_code == (200 if kind == "text" else 400)
    server.script.answers.clear()
    assert httpx.post(f"{server.url}/api/generate", json={**body, "format": "yaml"}).status_code == 400
    refused = httpx.post(f"{server.url}/api/generate", json={**body, "format": {"type": "nonsense"}})
    assert refused.status_code == 400 and "schema" in refused.json()["error"]


def test_images(server: Serving, client: ollama.Client) -> None:
    client.generate(MODEL, "what is it", images=[base64.b64decode(PIXEL)])
    wanted = last_request(server)
    assert isinstance(wanted, ChatRequest)
    image, words = wanted.messages[0].parts
    assert isinstance(image, ImagePart) and image.media_type == "image/png"
    assert words == TextPart("what is it")
    bad = httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "prompt": "a", "images": ["!!"]})
    assert bad.status_code == 400


def test_log_probabilities(server: Serving, client: ollama.Client) -> None:
    top = (TokenLogprob("é", -0.5, "é".encode(), 7), TokenLogprob("e", -1.5, b"e", 8))
    answer = (TextDelta("é", 0, (TokenLogprob("é", -0.5, "é".encode(), 7, top),)), END)
    server.answers(answer, answer)
    found = client.generate(MODEL, "a", logprobs=True, top_logprobs=2)
    assert found.logprobs is not None and found.logprobs[0].token == "é"
    assert [item.token for item in found.logprobs[0].top_logprobs or ()] == ["é", "e"]
    first, _ = client.generate(MODEL, "a", logprobs=True, top_logprobs=2, stream=True)
    assert first.response == "é" and first.logprobs is not None and first.logprobs[0].logprob == -0.5
    refused = httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "prompt": "a", "top_logprobs": 2})
    assert refused.status_code == 400


def test_a_context_goes_on(server: Serving, client: ollama.Client) -> None:
    first = client.generate(MODEL, "one")
    # The scripted engine has a token for each character, and writes a line for each message.
    assert first.context is not None and "".join(map(chr, first.context)) == "user: one\none"
    server.answers((TextDelta("fine"), END))
    second = client.generate(MODEL, "two", context=list(first.context))
    wanted = last_request(server)
    assert isinstance(wanted, CompletionRequest) and not isinstance(wanted.prompt, str)
    assert "".join(map(chr, wanted.prompt)) == "user: one\none\nuser: two\n"
    assert second.context is not None and "".join(map(chr, second.context)) == "user: one\none\nuser: two\nfine"


def test_loading_and_unloading(server: Serving, client: ollama.Client) -> None:
    loaded = client.generate(MODEL, keep_alive="10m")
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
    assert [model.model for model in client.ps().models] == [MODEL]
    gone = client.generate(MODEL, "", keep_alive=0)
    assert (gone.done, gone.done_reason) == (True, "unload")
    assert client.ps().models == []
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"


@pytest.mark.parametrize(
    ("value", "stays"), [(-1, True), ("-1m", True), ("1h30m", True), (300, True), ("500ms", False), ("0s", False)]
)
def test_durations_of_staying(server: Serving, client: ollama.Client, value: str | float, stays: bool) -> None:
    client.generate(MODEL, "a", keep_alive=value)
    if stays:
        assert len(client.ps().models) == 1
    server.until(lambda: stays or (server.app is not None and server.app.pool.residents() == ()))
    client.generate(MODEL, keep_alive=0)


@pytest.mark.parametrize("value", ["soon", "5 parsecs", "1h-5m"])
def test_what_is_no_duration_is_refused(client: ollama.Client, value: str) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        client.generate(MODEL, "a", keep_alive=value)
    assert caught.value.status_code == 400 and value in caught.value.error


def test_a_template_is_refused(client: ollama.Client) -> None:
    for prompt in ("a", ""):
        with pytest.raises(ollama.ResponseError, match="template") as caught:
            client.generate(MODEL, prompt, template="{{ .Prompt }}")
        assert caught.value.status_code == 400


def test_an_unknown_model(client: ollama.Client) -> None:
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError) as caught:
            list(client.generate("nobody", "a", stream=stream))
        assert (caught.value.status_code, caught.value.error) == (404, "model 'nobody:latest' not found")


def test_a_stream_that_fails_never_says_that_it_is_done(server: Serving) -> None:
    server.answers((TextDelta("a"), Fail(EngineDied("The engine died."))))
    found = httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "prompt": "a"})
    lines = [json.loads(line) for line in found.text.splitlines()]
    assert lines[0]["response"] == "a"
    assert set(lines[-1]) == {"error"} and not any(line.get("done") for line in lines)


def test_a_base_model_continues_text(tmp_path: Path) -> None:
    home = tmp_path / "home"
    stored_model(home)
    (tmp_path / "tiny.gguf").write_bytes(model_bytes(4, **{"tokenizer.chat_template": None, "general.name": text("base")}))
    import_model(home, tmp_path / "tiny.gguf", "base")
    with serving(home) as server, ollama.Client(host=server.url) as client:
        assert client.generate("base", "one two").response == "one two"
        wanted = last_request(server)
        assert isinstance(wanted, CompletionRequest) and wanted.prompt == "one two"
        assert "completion" in (client.show("base").capabilities or ())


def test_one_copy_serves_every_context_that_is_no_longer(server: Serving, client: ollama.Client) -> None:
    client.generate(MODEL, keep_alive=0)
    started = len(server.script.started)
    for num_ctx, num_starts, ctx_size in ((64, 1, 64), (32, 1, 64), (64, 1, 64), (100, 2, 100), (64, 2, 100)):
        client.generate(MODEL, "a", options={"num_ctx": num_ctx})
        assert len(server.script.started) - started == num_starts
        server.until(lambda: server.app is not None and len(server.app.pool.residents()) == 1)
        assert [model.context_length for model in client.ps().models] == [ctx_size]
    client.generate(MODEL, keep_alive=0)


def test_load_options(server: Serving, client: ollama.Client) -> None:
    client.generate(MODEL, keep_alive=0)
    client.generate(MODEL, "a", options={"num_ctx": 96, "num_batch": 64, "num_thread": 2, "use_mmap": False, "num_gpu": 0})
    spec = server.script.started[-1]
    assert (spec.ctx_size, spec.batch_size, spec.threads, spec.mmap) == (96, 64, 2, False)
    client.generate(MODEL, keep_alive=0)


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "application/json"])
def test_programs_need_not_say_that_they_send_json(server: Serving, content_type: str | None) -> None:
    body = json.dumps({"model": MODEL, "prompt": "one", "stream": False}).encode()
    said = {"content-type": content_type} if content_type is not None else {}
    assert httpx.post(f"{server.url}/api/generate", content=body, headers=said).json()["response"] == "one"


@pytest.mark.parametrize("page", [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}])
@pytest.mark.parametrize("content_type", ["", "application/x-www-form-urlencoded", "text/plain", "application/json"])
def test_pages_of_other_sites_are_refused_all_the_same(server: Serving, page: dict[str, str], content_type: str) -> None:
    num_requests = len(server.script.requests)
    body = json.dumps({"model": MODEL, "prompt": "one"}).encode()
    for path in ("/api/generate", "/api/pull", "/api/delete"):
        method = "DELETE" if path == "/api/delete" else "POST"
        found = httpx.request(method, f"{server.url}{path}", content=body, headers={**page, "content-type": content_type})
        assert found.status_code == 403 and set(found.json()) == {"error"}
    assert len(server.script.requests) == num_requests


def test_a_page_of_this_server_says_what_it_sends(server: Serving) -> None:
    body = json.dumps({"model": MODEL, "prompt": "one"}).encode()
    headers = {"sec-fetch-site": "same-origin", "content-type": "application/x-www-form-urlencoded"}
    assert httpx.post(f"{server.url}/api/generate", content=body, headers=headers).status_code == 415
    plain = httpx.post(f"{server.url}/api/generate", content=body, headers={"content-type": "text/plain"})
    assert plain.status_code == 415 and set(plain.json()) == {"error"}
