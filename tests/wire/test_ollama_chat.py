"""Ollama's chats and embeddings through the official client."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from support.serving import MODEL, Serving, serving, stored_model
from zhibei.chat import ChatRequest, ToolCall
from zhibei.engines.echo import Fail
from zhibei.errors import Unsupported
from zhibei.events import Finished, ReasoningDelta, TextDelta, Timings, ToolCallDelta, Usage

END = Finished(("stop",), Usage(7, 3, 2), Timings(5, 0.25, 3, 0.5, 2))
CALLED = Finished(("tool_calls",), Usage(7, 3))
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
USER = {"role": "user", "content": "one two"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = tmp_path_factory.mktemp("ollama") / "home"
    stored_model(home)
    with serving(home) as running:
        yield running


@pytest.fixture
def client(server: Serving) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as made:
        yield made


def last_request(server: Serving) -> ChatRequest:
    found = server.script.requests[-1]
    assert isinstance(found, ChatRequest)
    return found


def test_an_answer(server: Serving, client: ollama.Client) -> None:
    server.answers((ReasoningDelta("Hm."), TextDelta("Hi "), TextDelta("there"), END))
    found = client.chat(MODEL, [USER])
    assert (found.message.role, found.message.content, found.message.thinking) == ("assistant", "Hi there", "Hm.")
    assert (found.done, found.done_reason, found.prompt_eval_count, found.eval_count) == (True, "stop", 7, 3)


def test_a_streamed_answer(server: Serving, client: ollama.Client) -> None:
    server.answers((ReasoningDelta("Hm."), TextDelta("Hi "), TextDelta("there"), END))
    thought, *pieces, last = client.chat(MODEL, [USER], stream=True)
    assert (thought.message.thinking, thought.message.content) == ("Hm.", "")
    assert [piece.message.content for piece in pieces] == ["Hi ", "there"]
    assert (last.message.content, last.done, last.eval_duration) == ("", True, 500_000_000)


async def test_from_async_code(server: Serving) -> None:
    async with ollama.AsyncClient(host=server.url) as client:
        pieces = [piece.message.content async for piece in await client.chat(MODEL, [USER], stream=True)]
        assert "".join(piece or "" for piece in pieces) == "one two"
        assert len((await client.embed(MODEL, ["a", "b"])).embeddings) == 2


def test_what_a_line_of_a_stream_holds(server: Serving) -> None:
    server.answers((TextDelta('"é\n'), END))
    found = httpx.post(f"{server.url}/api/chat", json={"model": MODEL, "messages": [USER]})
    first, last = (json.loads(line) for line in found.text.splitlines())
    assert list(first) == ["model", "created_at", "message", "done"]
    assert first["message"] == {"role": "assistant", "content": '"é\n'} and first["done"] is False
    assert list(last) == [
        "model",
        "created_at",
        "message",
        "done",
        "done_reason",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ]


def test_tool_calls_come_whole(server: Serving, client: ollama.Client) -> None:
    answer = (
        TextDelta("Let me see."),
        ToolCallDelta(0, '{"tow', "call_a", "weather"),
        ToolCallDelta(0, 'n": "Bergen"}'),
        ToolCallDelta(1, "{}", "call_b", "weather"),
        CALLED,
    )
    server.answers(answer, answer)
    found = client.chat(MODEL, [USER], tools=[WEATHER])
    assert found.done_reason == "stop"
    calls = found.message.tool_calls or ()
    assert [(call.function.name, dict(call.function.arguments)) for call in calls] == [
        ("weather", {"town": "Bergen"}),
        ("weather", {}),
    ]
    assert last_request(server).tools[0].name == "weather"
    said, first, second, last = client.chat(MODEL, [USER], tools=[WEATHER], stream=True)
    assert said.message.content == "Let me see." and last.done
    streamed = [call for piece in (first, second) for call in piece.message.tool_calls or ()]
    assert [dict(call.function.arguments) for call in streamed] == [{"town": "Bergen"}, {}]


def test_a_call_that_was_cut_short_stays_readable(server: Serving, client: ollama.Client) -> None:
    server.answers((ToolCallDelta(0, '{"town": "Ber', "a", "weather"), Finished(("length",), Usage(1, 1))))
    found = client.chat(MODEL, [USER], tools=[WEATHER])
    assert (found.message.content, found.message.tool_calls, found.done_reason) == ('{"town": "Ber', None, "length")


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_without_tools_says_so_in_the_words_that_clients_look_for(
    server: Serving, client: ollama.Client, stream: bool
) -> None:
    refusal = Unsupported("No tools.", hint="Choose a model that was made for tools.", param="tools", ability="tools")
    server.answers((Fail(refusal),))
    with pytest.raises(ollama.ResponseError, match="does not support tools") as caught:
        list(client.chat(MODEL, [USER], tools=[WEATHER], stream=stream))
    assert caught.value.status_code == 400


def test_python_functions_as_tools(server: Serving, client: ollama.Client) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: One.
            b: Another.
        """
        return a + b

    server.answers((ToolCallDelta(0, '{"a": 1, "b": 2}', "x", "add"), CALLED))
    found = client.chat(MODEL, [USER], tools=[add])
    assert (found.message.tool_calls or ())[0].function.arguments == {"a": 1, "b": 2}
    parameters = last_request(server).tools[0].parameters
    assert parameters is not None and set(parameters["properties"]) == {"a", "b"}


def test_a_conversation_with_tools_thoughts_and_images(server: Serving, client: ollama.Client) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look", "images": [PIXEL]},
        {
            "role": "assistant",
            "content": "",
            "thinking": "Two towns.",
            "tool_calls": [
                {"function": {"name": "weather", "arguments": {"town": "Bergen"}}},
                {"function": {"name": "time", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "noon", "tool_name": "time"},
        {"role": "tool", "content": "rain", "tool_name": "weather"},
    ]
    client.chat(MODEL, messages)
    system, user, assistant, time, weather = last_request(server).messages
    assert (system.role, system.text, user.text, len(user.parts)) == ("system", "Be brief.", "Look", 2)
    assert assistant.reasoning == "Two towns."
    assert assistant.tool_calls == (ToolCall("call_0", "weather", '{"town":"Bergen"}'), ToolCall("call_1", "time", "{}"))
    assert (time.tool_call_id, time.name, weather.tool_call_id) == ("call_1", "time", "call_0")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "wizard", "content": "a"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": "a", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
        [{"role": "assistant", "content": "a", "images": [PIXEL]}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "text"}}]}],
        [{"role": "user", "content": "a", "images": ["not base64"]}],
        "hello",
    ],
)
def test_messages_that_make_no_sense(server: Serving, messages: object) -> None:
    found = httpx.post(f"{server.url}/api/chat", json={"model": MODEL, "messages": messages})
    assert found.status_code == 400 and isinstance(found.json()["error"], str)


def test_loading_and_unloading(client: ollama.Client) -> None:
    client.chat(MODEL, [], keep_alive=0)
    assert client.chat(MODEL, []).done_reason == "load"
    assert [model.model for model in client.ps().models] == [MODEL]
    assert client.chat(MODEL, [], keep_alive=0).done_reason == "unload"
    assert client.ps().models == []


def test_nothing_is_cut_unasked_and_what_is_cut_is_said(server: Serving) -> None:
    """The model's context is 128, and the scripted engine has a token for each character."""
    turns = [
        {"role": "user", "content": "a" * 40},
        {"role": "assistant", "content": "b" * 40},
        {"role": "user", "content": "end"},
    ]
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "system", "content": "S"}, *turns], "stream": False}
    whole = httpx.post(f"{server.url}/api/chat", json=body)
    assert whole.status_code == 200 and "x-zhibei-truncated" not in whole.headers
    assert len(last_request(server).messages) == 4
    for name in ("truncate", "shift"):
        cut = httpx.post(f"{server.url}/api/chat", json={**body, name: True})
        assert cut.headers["x-zhibei-truncated"] == "messages=2"
        assert cut.json()["zhibei"] == {"cut": {"messages": 2}}
        assert [message.text for message in last_request(server).messages] == ["S", "end"]
    streamed = httpx.post(f"{server.url}/api/chat", json={**body, "truncate": True, "stream": True})
    assert streamed.headers["x-zhibei-truncated"] == "messages=2"
    long = {**body, "messages": [{"role": "user", "content": "c" * 200}], "truncate": True}
    refused = httpx.post(f"{server.url}/api/chat", json=long)
    assert refused.status_code == 400 and "207" in refused.json()["error"] and "128" in refused.json()["error"]


def test_embeddings_have_length_one(client: ollama.Client) -> None:
    one, two = client.embed(MODEL, ["a", "b"]).embeddings
    assert math.isclose(math.hypot(*one), 1) and list(one) != list(two)
    found = client.embed(MODEL, "a")
    assert list(found.embeddings[0]) == list(one) and found.prompt_eval_count == 1
    assert list(client.embeddings(MODEL, "a").embedding) == list(one)


def test_fewer_dimensions_are_made_of_length_one_again(client: ollama.Client) -> None:
    whole = client.embed(MODEL, "a").embeddings[0]
    (short,) = client.embed(MODEL, "a", dimensions=3).embeddings
    assert len(short) == 3 and math.isclose(math.hypot(*short), 1)
    assert math.isclose(short[0] / short[1], whole[0] / whole[1])
    with pytest.raises(ollama.ResponseError) as caught:
        client.embed(MODEL, "a", dimensions=100)
    assert caught.value.status_code == 400 and "8" in caught.value.error and "100" in caught.value.error


def test_long_inputs_are_cut_only_where_asked(server: Serving) -> None:
    body = {"model": MODEL, "input": ["a" * 200, "b"], "truncate": True}
    found = httpx.post(f"{server.url}/api/embed", json=body)
    assert found.headers["x-zhibei-truncated"] == "tokens=72"
    assert found.json()["zhibei"] == {"cut": {"tokens": 72}}
    same = httpx.post(f"{server.url}/api/embed", json={"model": MODEL, "input": "a" * 128})
    assert same.json()["embeddings"][0] == found.json()["embeddings"][0]


def test_no_input_loads_the_model(server: Serving) -> None:
    assert httpx.post(f"{server.url}/api/embed", json={"model": MODEL, "input": []}).json()["embeddings"] == []
    assert httpx.post(f"{server.url}/api/embeddings", json={"model": MODEL}).json() == {"embedding": []}
