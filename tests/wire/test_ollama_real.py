"""Ollama's dialect over a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from support.serving import Serving, serving

MODEL = "smollm2:135m"
OPTIONS = {"temperature": 0, "seed": 1, "num_ctx": 512, "num_predict": 6}

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def server(smollm2_home: Path) -> Iterator[Serving]:
    with serving(smollm2_home, engine="llama.cpp") as running:
        yield running


@pytest.fixture
def client(server: Serving) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as made:
        yield made


def test_a_chat_streamed_and_whole(client: ollama.Client) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    whole = client.chat(MODEL, messages, options=OPTIONS)
    assert whole.message.content
    *pieces, last = client.chat(MODEL, messages, options=OPTIONS, stream=True)
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert (last.prompt_eval_count, last.eval_count) == (whole.prompt_eval_count, whole.eval_count)
    assert whole.eval_count is not None and 0 < whole.eval_count <= 6
    assert whole.eval_duration is not None and whole.total_duration is not None
    assert 0 < whole.eval_duration < whole.total_duration


def test_a_context_holds_what_was_said(client: ollama.Client) -> None:
    first = client.generate(MODEL, "My name is Wilhelmina. Remember it.", options=OPTIONS)
    assert first.context is not None
    second = client.generate(MODEL, "What is my name?", context=list(first.context), options=OPTIONS)
    assert second.context is not None and tuple(second.context[: len(first.context)]) == tuple(first.context)
    assert second.prompt_eval_count is not None and second.prompt_eval_count > len(first.context)
    assert second.response


def test_an_answer_keeps_to_a_schema(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    found = client.generate(MODEL, "How old is a cat? Answer in JSON.", format=schema, options={**OPTIONS, "num_predict": 24})
    assert isinstance(json.loads(found.response or "")["age"], int)


def test_a_model_without_tools_or_thoughts_says_so_in_the_words_that_clients_look_for(client: ollama.Client) -> None:
    asked = [{"role": "user", "content": "What is the weather in Bern?"}]
    tool = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": {"type": "object"}}}
    with pytest.raises(ollama.ResponseError, match="does not support tools") as caught:
        client.chat(MODEL, asked, tools=[tool], options=OPTIONS)
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match=f'"{MODEL}" does not support thinking') as caught:
        client.chat(MODEL, asked, think=True, options=OPTIONS)
    assert caught.value.status_code == 400
    assert client.chat(MODEL, asked, think=False, options=OPTIONS).message.content


def test_too_long_is_an_error_with_both_numbers(client: ollama.Client) -> None:
    long = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(MODEL, long, options=OPTIONS)
    assert caught.value.status_code == 400 and "512" in caught.value.error and "20" in caught.value.error


def test_what_it_is(client: ollama.Client) -> None:
    shown = client.show(MODEL)
    assert shown.modelinfo is not None and shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert shown.details is not None and (shown.details.parameter_size or "").endswith("M")
    assert "completion" in (shown.capabilities or [])
    (running,) = client.ps().models
    assert running.context_length == 512 and running.size is not None and running.size > 50_000_000


def test_embeddings(client: ollama.Client) -> None:
    cat, kitten, car = client.embed(MODEL, ["a cat", "a cat", "the price of a car in 1990"]).embeddings
    assert sum(x * y for x, y in zip(cat, kitten, strict=True)) > sum(x * y for x, y in zip(cat, car, strict=True))
