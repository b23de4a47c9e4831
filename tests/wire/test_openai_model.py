"""The official client and a real model: what only an engine that computes can show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from support.serving import Serving, serving

pytestmark = pytest.mark.model

MODEL = "smollm2:135m"
ASK: Any = [{"role": "user", "content": "Name the capital of France."}]


@pytest.fixture(scope="module")
def server(smollm2_home: Path) -> Iterator[Serving]:
    with serving(smollm2_home, engine="llama.cpp") as made:
        yield made


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


def num_leases(server: Serving) -> int:
    assert server.app is not None
    return sum(resident.num_leases for resident in server.app.pool.residents())


def test_an_answer_and_its_usage(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=16, temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None and 1 <= answer.usage.completion_tokens <= 16 and answer.usage.prompt_tokens > 5
    assert answer.timings["predicted_n"] == answer.usage.completion_tokens  # type: ignore[attr-defined]


def test_streamed_and_whole_say_the_same(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": ASK, "max_tokens": 24, "temperature": 0, "seed": 1}
    whole = client.chat.completions.create(**asked)
    *chunks, last = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage is not None and whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_a_prefix_that_came_before_is_not_computed_again(client: OpenAI) -> None:
    said: Any = [{"role": "user", "content": "Repeat after me: " + "one two three " * 20}]
    cached = []
    for _ in range(2):
        usage = client.chat.completions.create(model=MODEL, messages=said, max_tokens=1).usage
        assert usage is not None and usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens or 0)
    assert cached[1] > cached[0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_seed_repeats_and_another_does_not(client: OpenAI, stream: bool) -> None:
    def text(seed: int) -> str:
        asked: Any = {"model": MODEL, "messages": ASK, "max_tokens": 24, "temperature": 1.5, "seed": seed}
        if stream:
            return "".join(chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **asked))
        return client.chat.completions.create(**asked).choices[0].message.content or ""

    assert text(7) == text(7)
    assert len({text(seed) for seed in (7, 8, 2**40)}) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: OpenAI, stream: bool) -> None:
    asked: Any = {"model": MODEL, "messages": ASK, "max_tokens": 5, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    if stream:
        chunks = list(client.chat.completions.create(stream=True, **asked))
        found = [item for chunk in chunks if chunk.choices[0].logprobs for item in chunk.choices[0].logprobs.content or ()]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        choice = client.chat.completions.create(**asked).choices[0]
        assert choice.logprobs is not None
        found, text = choice.logprobs.content or [], choice.message.content or ""
    assert "".join(item.token for item in found) == text
    assert all(item.logprob <= 0 and len(item.top_logprobs) == 3 for item in found)
    assert all(item.top_logprobs[0].logprob == max(top.logprob for top in item.top_logprobs) for item in found)


def test_several_answers(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, n=2, max_tokens=8, temperature=1, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None and answer.usage.completion_tokens > 8


def test_stop(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=40, temperature=0, stop=["Paris"])
    assert "Paris" not in (answer.choices[0].message.content or "") and answer.choices[0].finish_reason == "stop"


def test_logit_bias(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 1, "temperature": 0, "logprobs": 1}
    plain = client.completions.create(**asked).choices[0].text
    import httpx

    (token,) = httpx.post(
        str(client.base_url).replace("/v1/", "/zhibei/v1/tokenize"), json={"model": MODEL, "text": plain}, timeout=60
    ).json()["tokens"][-1:]
    assert client.completions.create(logit_bias={str(token): -100}, **asked).choices[0].text != plain


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_in_a_schema(client: OpenAI, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "big": {"type": "boolean"}},
        "required": ["city", "big"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    asked: Any = {"model": MODEL, "messages": ASK, "response_format": wanted, "max_tokens": 100, "temperature": 0}
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **asked))
    else:
        text = client.chat.completions.create(**asked).choices[0].message.content or ""
    found = json.loads(text)
    assert set(found) == {"city", "big"} and isinstance(found["big"], bool)


def test_an_answer_in_json(client: OpenAI) -> None:
    wanted: Any = {"type": "json_object"}
    said: Any = [{"role": "user", "content": "Give me a JSON object with the key city and the value Paris."}]
    answer = client.chat.completions.create(model=MODEL, messages=said, response_format=wanted, max_tokens=200, temperature=0)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    else:
        assert (answer.choices[0].message.content or "").lstrip().startswith("{")


def test_completions(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 6, "temperature": 0}
    text = client.completions.create(prompt="The capital of France is", **asked).choices[0].text
    assert "Paris" in text
    several = client.completions.create(prompt=["The capital of France is", "Once upon a"], echo=True, **asked)
    assert several.choices[0].text == "The capital of France is" + text
    assert several.choices[1].text.startswith("Once upon a time")
    streamed = client.completions.create(prompt="The capital of France is", stream=True, **asked)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text


def test_embeddings(client: OpenAI) -> None:
    found = client.embeddings.create(model=MODEL, input=["a cat", "a cat", "the price of oil in 1973"])
    one, same, other = (item.embedding for item in found.data)
    assert len(one) == 576 and found.usage.prompt_tokens > 5

    def likeness(left: list[float], right: list[float]) -> float:
        return sum(a * b for a, b in zip(left, right, strict=True))

    assert likeness(one, same) > likeness(one, other)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(client: OpenAI, stream: bool) -> None:
    said: Any = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=said, stream=stream)
    assert caught.value.code == "context_length_exceeded" and re.search(r"90\d\d tokens.* 8192", str(caught.value))


def test_a_client_that_leaves_frees_its_place(server: Serving, client: OpenAI) -> None:
    for _ in range(3):
        stream = client.chat.completions.create(
            model=MODEL, messages=ASK, stream=True, max_tokens=2000, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    server.until(lambda: num_leases(server) == 0)
    assert client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=4).choices[0].message.content
