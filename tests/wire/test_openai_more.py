"""What OpenAI's own API has not, but its clients call here: reranking, contexts, aliases, and what is not built yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import CompletionUsage, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from support.serving import MODEL, Serving, serving
from support.strict import sse, strict
from zhibei.engines.echo import EchoScript
from zhibei.settings import ModelSettings, Settings

SAID = [{"role": "user", "content": "a b"}]
DOCUMENTS = ["nothing", "the cat sat", {"text": "the cat"}]


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[Serving]:
    with serving(tiny_home) as made:
        yield made


def post(server: Serving, path: str, **fields: Any) -> httpx.Response:
    return httpx.post(server.url + path, json={"model": MODEL, **fields}, timeout=30)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"])
def test_documents_are_sorted_by_their_scores(server: Serving, path: str) -> None:
    answer = post(server, path, query="the cat sat", documents=DOCUMENTS, return_documents=True).json()
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert [result["document"]["text"] for result in answer["results"]] == ["the cat sat", "the cat", "nothing"]
    assert answer["results"][0]["relevance_score"] == 1.0 and answer["usage"]["total_tokens"] == 6
    best = post(server, path, query="the cat sat", documents=DOCUMENTS, top_n=1).json()
    assert [result["index"] for result in best["results"]] == [1] and "document" not in best["results"][0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"documents": []}, "documents"), ({"query": ""}, "query"), ({"top_n": 0}, "top_n"), ({"documents": [3]}, "documents[0]")],
)
def test_what_cannot_be_sorted_is_a_400(server: Serving, fields: dict[str, Any], param: str) -> None:
    answer = post(server, "/v1/rerank", **{"query": "x", "documents": ["y"], **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "path", ["audio/transcriptions", "audio/translations", "audio/speech", "images/generations", "images/edits", "moderations"]
)
def test_what_is_not_built_yet_says_so_whatever_is_sent(server: Serving, path: str) -> None:
    for sent in ({"files": {"file": ("a.wav", b"RIFF" * 1000)}}, {"json": {"model": "whisper-1"}}, {"content": b""}):
        answer = httpx.post(f"{server.url}/v1/{path}", timeout=30, **sent)  # type: ignore[arg-type]
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], answer.headers["x-should-retry"]) == (501, "not_implemented", "false")
        assert "does not work yet" in error["message"]


def test_the_client_says_it_too(server: Serving) -> None:
    with OpenAI(base_url=server.url + "/v1", api_key="none") as client, pytest.raises(openai.InternalServerError, match="yet"):
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF"))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/messages"])
def test_num_ctx_is_the_size_of_the_context(tiny_home: Path, path: str) -> None:
    said: dict[str, Any] = {"/v1/completions": {"prompt": "a"}, "/v1/responses": {"input": "a"}}.get(path, {"messages": SAID})
    if path == "/v1/messages":
        said["max_tokens"] = 5
    with serving(tiny_home, script=EchoScript()) as own:
        assert post(own, path, **said, num_ctx=64).status_code == 200
        assert [spec.ctx_size for spec in own.script.started] == [64]
        assert post(own, path, **said, num_ctx=0).status_code == 400


def test_num_ctx_may_be_among_ollamas_options(tiny_home: Path) -> None:
    with serving(tiny_home, script=EchoScript()) as own:
        answer = post(own, "/v1/chat/completions", messages=SAID, options={"num_ctx": 96, "num_thread": 2})
        assert answer.headers["x-zhibei-ignored"] == "options.num_thread"
        assert [spec.ctx_size for spec in own.script.started] == [96]
        post(own, "/v1/chat/completions", messages=SAID, num_ctx=112, load={"ctx_size": 128})
        assert own.script.started[-1].ctx_size == 128


def test_a_shorter_context_needs_no_second_copy_in_whatever_dialect(tiny_home: Path) -> None:
    with serving(tiny_home, script=EchoScript()) as own:
        assert post(own, "/v1/chat/completions", messages=SAID, num_ctx=128).status_code == 200
        assert post(own, "/v1/completions", prompt="a", num_ctx=64).status_code == 200
        assert post(own, "/v1/messages", messages=SAID, max_tokens=5, num_ctx=96).status_code == 200
        assert post(own, "/api/generate", prompt="a", options={"num_ctx": 32}).status_code == 200
        assert [spec.ctx_size for spec in own.script.started] == [128]


def test_models_have_a_status_and_their_aliases(tiny_home: Path) -> None:
    settings = replace(Settings(), models={"tiny": ModelSettings(aliases=("gpt-4o",))})
    with serving(tiny_home, script=EchoScript(), settings=settings) as own:
        listed = httpx.get(own.url + "/v1/models").json()
        assert [model["id"] for model in listed["data"]] == [MODEL, "gpt-4o"]
        assert {model["status"]["value"] for model in listed["data"]} == {"unloaded"}
        assert listed["data"][1]["zhibei"]["alias_of"] == MODEL
        answer = post(own, "/v1/chat/completions", model="gpt-4o", messages=SAID)
        assert answer.json()["choices"][0]["message"]["content"] == "a b"
        assert httpx.get(own.url + "/v1/models/gpt-4o").json()["status"]["value"] == "loaded"
        for model in httpx.get(own.url + "/v1/models").json()["data"]:
            strict(Model, model, extra=("status", "zhibei"), missing=("lifecycle",))
        pages = [
            httpx.get(own.url + "/v1/models", params=page, headers={"anthropic-version": "2023-06-01"}).json()
            for page in ({"limit": 1}, {"limit": 1, "after_id": MODEL}, {"before_id": "gpt-4o"}, {"after_id": "gpt-4o"})
        ]
        assert [[model["id"] for model in page["data"]] for page in pages] == [[MODEL], ["gpt-4o"], [MODEL], []]
        assert [page["has_more"] for page in pages] == [True, False, False, False] and pages[3]["first_id"] is None


def test_every_field_of_a_chats_reply_is_there(server: Serving) -> None:
    absent = "audio function_call annotations tool_calls service_tier completion_tokens_details moderation".split()
    absent += ["audio_tokens", "cache_write_tokens", "refusal", "role", "content", "usage", "logprobs"]
    whole = post(server, "/v1/chat/completions", messages=SAID)
    found = strict(ChatCompletion, whole.json(), extra=("timings",), missing=absent)
    strict(CompletionUsage, whole.json()["usage"], missing=absent)
    assert found.choices[0].message.content == "a b"
    events = sse(post(server, "/v1/chat/completions", messages=SAID, stream=True, stream_options={"include_usage": True}))
    assert events[-1][1] == "[DONE]"
    for _, chunk in events[:-1]:
        strict(ChatCompletionChunk, chunk, extra=("timings",), missing=absent)


def test_every_documented_field_of_a_chat_is_taken_or_refused_in_words(server: Serving) -> None:
    taken = {
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "safety_identifier": "s",
        "parallel_tool_calls": True,
        "reasoning_effort": "high",
        "max_completion_tokens": 5,
        "logit_bias": {"5": -100},
        "service_tier": "auto",
        "metadata": {"a": "b"},
        "store": False,
        "modalities": ["text"],
        "user": "u",
    }
    answer = post(server, "/v1/chat/completions", messages=SAID, **taken)
    assert answer.status_code == 200 and "x-zhibei-ignored" not in answer.headers
    refused = {"audio": {}, "prediction": {}, "web_search_options": {}, "functions": [], "moderation": {"model": "m"}}
    for name, value in refused.items():
        error = post(server, "/v1/chat/completions", messages=SAID, **{name: value}).json()["error"]
        assert (error["param"], error["code"]) == (name, "unsupported_parameter")
