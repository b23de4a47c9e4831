"""Anthropic's client and ``/v1/responses`` on a real model: counts that agree, and answers that are the same in all dialects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel

from support.serving import Serving, serving

pytestmark = pytest.mark.model

MODEL = "smollm2:135m"
ASK: Any = [{"role": "user", "content": "Name the capital of France."}]
# The vendor's client takes no temperature for itself any more.
COLD: Any = {"temperature": 0}


@pytest.fixture(scope="module")
def server(smollm2_home: Path) -> Iterator[Serving]:
    with serving(smollm2_home, engine="llama.cpp") as made:
        yield made


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture(scope="module")
def openai_client(server: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


def test_an_answer_and_its_counts(client: Anthropic) -> None:
    answer = client.messages.create(model=MODEL, max_tokens=16, messages=ASK, extra_body=COLD)
    text: Any = answer.content[0]
    assert "Paris" in text.text and 1 <= answer.usage.output_tokens <= 16
    counted = client.messages.count_tokens(model=MODEL, messages=ASK)
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)


def test_all_dialects_say_the_same(client: Anthropic, openai_client: OpenAI) -> None:
    chat = openai_client.chat.completions.create(model=MODEL, max_tokens=24, messages=ASK, temperature=0)
    response = openai_client.responses.create(model=MODEL, max_output_tokens=24, input=ASK, temperature=0)
    with client.messages.stream(model=MODEL, max_tokens=24, messages=ASK, extra_body=COLD) as stream:
        message: Any = stream.get_final_message()
    assert chat.choices[0].message.content == response.output_text == message.content[0].text
    assert chat.usage is not None and response.usage is not None
    assert chat.usage.completion_tokens == response.usage.output_tokens == message.usage.output_tokens
    assert chat.usage.prompt_tokens == response.usage.input_tokens
    counted = openai_client.responses.input_tokens.count(model=MODEL, input=ASK)
    assert counted.input_tokens == response.usage.input_tokens


def test_a_stop_sequence_is_named(client: Anthropic) -> None:
    answer = client.messages.create(model=MODEL, max_tokens=40, messages=ASK, stop_sequences=["Paris", "Lyon"], extra_body=COLD)
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Paris")
    assert all("Paris" not in block.text for block in answer.content if block.type == "text")


def test_an_answer_that_was_begun_is_continued(client: Anthropic) -> None:
    begun: Any = [*ASK, {"role": "assistant", "content": "The capital of France is"}]
    answer: Any = client.messages.create(model=MODEL, max_tokens=8, messages=begun, extra_body=COLD)
    assert "Paris" in answer.content[0].text and "capital" not in answer.content[0].text


def test_a_conversation_goes_on_by_its_id(openai_client: OpenAI) -> None:
    first = openai_client.responses.create(model=MODEL, input="My name is Ada.", max_output_tokens=16, temperature=0)
    second = openai_client.responses.create(
        model=MODEL, input="Say hello.", previous_response_id=first.id, max_output_tokens=8, temperature=0
    )
    assert first.usage is not None and second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    assert second.usage.input_tokens_details.cached_tokens > 0


def test_a_schema_holds(openai_client: OpenAI) -> None:
    class City(BaseModel):
        big: bool

    parsed = openai_client.responses.parse(model=MODEL, input=ASK, text_format=City, max_output_tokens=40)
    assert parsed.output_parsed is not None and parsed.output_parsed.big in (True, False)


def test_too_long_is_said_with_both_numbers(client: Anthropic) -> None:
    long: Any = [{"role": "user", "content": "one two three " * 3000}]
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: 90\d\d tokens > 8192 maximum"):
        client.messages.create(model=MODEL, max_tokens=5, messages=long)
