"""Completions, embeddings and models through the official client."""

from __future__ import annotations

import array
import base64
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from support.serving import MODEL, Serving
from zhibei.chat import TokenLogprob
from zhibei.engines.echo import Fail
from zhibei.errors import EngineDied
from zhibei.events import Finished, TextDelta, Usage

END = Finished(("stop",), Usage(7, 3, 2))


@pytest.fixture
def client(server: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_completion(client: OpenAI) -> None:
    found = client.completions.create(model=MODEL, prompt="one two")
    assert (found.object, found.choices[0].text, found.choices[0].finish_reason) == ("text_completion", "one two", "stop")
    assert found.id.startswith("cmpl-") and found.usage is not None and found.usage.prompt_tokens == 2


def test_a_streamed_completion(client: OpenAI) -> None:
    options: Any = {"include_usage": True}
    *chunks, last = client.completions.create(model=MODEL, prompt="one two", stream=True, stream_options=options)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 2


async def test_completions_from_async_code(server: Serving) -> None:
    async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        stream = await client.completions.create(model=MODEL, prompt="one two", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "one two"
        found = await client.embeddings.create(model=MODEL, input=["a"])
        assert len(found.data) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_and_answers_are_counted_through(client: OpenAI, stream: bool) -> None:
    asked: Any = {"model": MODEL, "prompt": ["one", "two two"], "n": 2, "extra_body": {"load": {"parallel": 2}}}
    texts = [""] * 4
    if stream:
        for chunk in client.completions.create(stream=True, **asked):
            texts[chunk.choices[0].index] += chunk.choices[0].text
    else:
        found = client.completions.create(**asked)
        for choice in found.choices:
            texts[choice.index] = choice.text
        assert found.usage is not None and found.usage.prompt_tokens == 3
    assert texts == ["one", "one", "two two", "two two"]


@pytest.mark.parametrize("prompt", [[104, 105], [[104, 105]], "hi", ["hi"]])
@pytest.mark.parametrize("echo", [False, True])
def test_prompts_in_all_forms_with_and_without_echo(client: OpenAI, prompt: Any, echo: bool) -> None:
    found = client.completions.create(model=MODEL, prompt=prompt, echo=echo)
    assert found.choices[0].text == ("hihi" if echo else "hi")


def test_completion_logprobs(server: Serving, client: OpenAI) -> None:
    top = (TokenLogprob("é", -0.5, "é".encode(), 7), TokenLogprob("e", -1.5, b"e", 8))
    server.answers((TextDelta("é", 0, (TokenLogprob("é", -0.5, "é".encode(), 7, top),)), END))
    logprobs = client.completions.create(model=MODEL, prompt="x", logprobs=2).choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset) == (["é"], [-0.5], [0])
    assert logprobs.top_logprobs == [{"é": -0.5, "e": -1.5}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{"best_of": 2}, {"logprobs": 6}, {"echo": True, "logprobs": 1}, {"prompt": []}])
def test_what_completions_cannot_do_is_a_400(client: OpenAI, stream: bool, fields: dict[str, Any]) -> None:
    asked: Any = {"model": MODEL, "prompt": "x", **fields}
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(stream=stream, **asked)
    assert caught.value.param in fields


def test_a_completion_that_breaks_off_is_an_error(server: Serving, client: OpenAI) -> None:
    server.answers((TextDelta("half"), Fail(EngineDied("The engine died."))))
    with pytest.raises(openai.APIError, match="died"):
        list(client.completions.create(model=MODEL, prompt="x", stream=True))


def test_embeddings_as_the_client_asks_for_them_by_default(client: OpenAI) -> None:
    found = client.embeddings.create(model=MODEL, input=["one", "two", "one"])
    assert [item.index for item in found.data] == [0, 1, 2]
    assert found.data[0].embedding == found.data[2].embedding != found.data[1].embedding
    assert sum(value * value for value in found.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert found.usage.prompt_tokens == found.usage.total_tokens == 3


def test_embeddings_as_numbers_and_as_base64_are_the_same(server: Serving) -> None:
    with httpx.Client(base_url=server.url) as client:
        body = {"model": MODEL, "input": [[104, 105], [106]]}
        numbers = client.post("/v1/embeddings", json={**body, "encoding_format": "float"}).json()["data"]
        encoded = client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()["data"]
    for one, other in zip(numbers, encoded, strict=True):
        assert list(array.array("f", base64.b64decode(other["embedding"]))) == pytest.approx(one["embedding"])


def test_dimensions_are_the_models(client: OpenAI) -> None:
    length = len(client.embeddings.create(model=MODEL, input="x").data[0].embedding)
    client.embeddings.create(model=MODEL, input="x", dimensions=length)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input="x", dimensions=length + 1)
    assert caught.value.param == "dimensions"


@pytest.mark.parametrize("given", ["", [""], [], [[]]])
def test_nothing_has_no_embedding(client: OpenAI, given: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input=given)
    assert caught.value.param == "input"


def test_models(client: OpenAI) -> None:
    listed = client.models.list().data
    assert [(model.id, model.object, model.owned_by) for model in listed] == [(MODEL, "model", "zhibei")]
    own: Any = listed[0].model_extra
    assert set(own["zhibei"]) == {"size_bytes", "quantisation", "context_length", "num_parameters"}
    for name in (MODEL, "tiny", "TINY"):
        assert client.models.retrieve(name) == listed[0]


def test_model_names_may_have_slashes_and_colons(server: Serving, client: OpenAI) -> None:
    with httpx.Client(base_url=server.url) as native:
        copied = {"source": MODEL, "target": "team/tiny:v2"}
        assert native.post("/zhibei/v1/models/copy", json=copied).status_code == 200
        try:
            assert client.models.retrieve("team/tiny:v2").id == "team/tiny:v2"
            assert native.get("/v1/models/team/tiny:v2").json()["id"] == "team/tiny:v2"
            assert client.chat.completions.create(model="team/tiny:v2", messages=[{"role": "user", "content": "x"}]).choices
        finally:
            native.delete("/zhibei/v1/models/team%2Ftiny:v2")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("team/tiny:v2")


def test_health_and_the_api_page(server: Serving) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/health").json() == {"status": "ok"}
        page = client.get("/docs")
        assert page.status_code == 200 and "https://" not in page.text and "http://" not in page.text and "src=" not in page.text
        assert "'unsafe" not in page.headers["content-security-policy"]
        api = client.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/health"} <= set(api["paths"])
    # Other dialects have chats too; then the names are those of their modules.
    chat = next(schema for name, schema in api["components"]["schemas"].items() if name.endswith("openai__schema__ChatBody"))
    assert "messages" in chat["required"] and chat["properties"]["n"]["anyOf"][0]["maximum"] == 128
    assert "HTTPValidationError" not in api["components"]["schemas"]
