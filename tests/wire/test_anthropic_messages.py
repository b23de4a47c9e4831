"""``/v1/messages`` through the official client, and each event held against its model."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent

from support import images
from support.serving import MODEL, Serving, serving
from support.strict import sse, strict
from zhibei.chat import ImagePart, TextPart
from zhibei.engines.echo import Fail
from zhibei.errors import Busy, ContextTooLong, EngineDied
from zhibei.events import Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage

END = Finished(("stop",), Usage(7, 3, 2))
WEATHER: Any = {
    "name": "weather",
    "description": "The weather somewhere.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLS = (
    TextDelta("Let me look."),
    ToolCallDelta(0, "", "call_a", "weather"),
    ToolCallDelta(0, '{"city": '),
    ToolCallDelta(0, '"Bern"}'),
    ToolCallDelta(1, '{"city": "Wien"}', "call_b", "weather"),
    Finished(("tool_calls",), Usage(7, 9)),
)
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
THOUGHTS = (ReasoningDelta("hm, "), ReasoningDelta("yes"), TextDelta("Yes."), END)
# Of a block's fields, the one for tools that belong to a toolset.
ABSENT = ("toolset_name",)


@pytest.fixture(scope="module")
def module_server(tiny_home: Path) -> Iterator[Serving]:
    with serving(tiny_home) as made:
        yield made


@pytest.fixture
def client(server: Serving) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def post(server: Serving, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "max_tokens": 2048, "messages": said("a b"), **fields}
    return httpx.post(server.url + "/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"}, timeout=30)


def checked_events(server: Serving, **fields: Any) -> list[Any]:
    """The events of a stream, each strictly of its kind; without the pings."""
    events = sse(post(server, stream=True, **fields))
    assert [name for name, _ in events[:2]] == ["message_start", "ping"]
    assert all(data["type"] == name for name, data in events)
    return [strict(RawMessageStreamEvent, data, missing=ABSENT) for name, data in events if name != "ping"]


def test_an_answer(client: Anthropic, server: Serving) -> None:
    answer = client.messages.create(model=MODEL, max_tokens=50, messages=said("guten Tag 你好"), system="Be kind.")
    block: Any = answer.content[0]
    assert (block.type, block.text, answer.stop_reason, answer.role) == ("text", "guten Tag 你好", "end_turn", "assistant")
    assert answer.id.startswith("msg_") and answer.model == MODEL and answer._request_id is not None
    assert answer._request_id.startswith("req_")
    request: Any = server.script.requests[0]
    assert [(message.role, message.text) for message in request.messages] == [("system", "Be kind."), ("user", "guten Tag 你好")]


def test_every_field_of_a_message_is_there(server: Serving) -> None:
    server.answers(CALLS, THOUGHTS)
    called = strict(Message, post(server, tools=[WEATHER]).json(), missing=ABSENT)
    assert [block.type for block in called.content] == ["text", "tool_use", "tool_use"] and called.stop_reason == "tool_use"
    assert [block.input for block in called.content[1:]] == [{"city": "Bern"}, {"city": "Wien"}]
    assert all(block.id.startswith("toolu_") for block in called.content[1:])
    thought = strict(Message, post(server, thinking=THINKING).json(), missing=ABSENT)
    assert [block.type for block in thought.content] == ["thinking", "text"] and thought.content[0].thinking == "hm, yes"
    usage = thought.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (5, 2, 3)
    assert usage.output_tokens_details.thinking_tokens == 2


def test_the_events_of_an_answer(server: Serving) -> None:
    server.answers((TextDelta("a "), TextDelta("b"), END))
    events = checked_events(server)
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.content == [] and events[0].message.stop_reason is None
    assert [event.delta.text for event in events[2:4]] == ["a ", "b"]
    assert events[-2].delta.stop_reason == "end_turn"
    assert (events[-2].usage.input_tokens, events[-2].usage.output_tokens) == (5, 3)


def test_the_events_of_thinking_and_tools(server: Serving) -> None:
    server.answers((*THOUGHTS[:2], *CALLS))
    events = checked_events(server, thinking=THINKING, tools=[WEATHER])
    blocks = [(event.index, event.content_block.type) for event in events if event.type == "content_block_start"]
    assert blocks == [(0, "thinking"), (1, "text"), (2, "tool_use"), (3, "tool_use")]
    deltas = [(event.index, event.delta.type) for event in events if event.type == "content_block_delta"]
    assert deltas == [
        (0, "thinking_delta"),
        (0, "thinking_delta"),
        (0, "signature_delta"),
        (1, "text_delta"),
        *[(2, "input_json_delta")] * 3,
        (3, "input_json_delta"),
    ]
    stops = [event.index for event in events if event.type == "content_block_stop"]
    assert stops == [0, 1, 2, 3] and events[-2].delta.stop_reason == "tool_use"


def test_the_clients_stream_helper(server: Serving, client: Anthropic) -> None:
    server.answers(CALLS)
    with client.messages.stream(model=MODEL, max_tokens=50, messages=said("?"), tools=[WEATHER]) as stream:
        final: Any = stream.get_final_message()
    assert [block.type for block in final.content] == ["text", "tool_use", "tool_use"]
    assert final.content[2].input == {"city": "Wien"} and final.usage.output_tokens == 9 and final.usage.input_tokens == 7


async def test_from_async_code(server: Serving) -> None:
    client = AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0)
    async with client, client.messages.stream(model=MODEL, max_tokens=50, messages=said("a b c")) as stream:
        assert "".join([text async for text in stream.text_stream]) == "a b c"


def test_streamed_and_whole_are_the_same(server: Serving, client: Anthropic) -> None:
    server.answers(THOUGHTS, THOUGHTS)
    asked: Any = {"model": MODEL, "max_tokens": 2048, "messages": said("?"), "thinking": THINKING}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert [block.to_dict() for block in whole.content] == [block.to_dict() for block in streamed.content]
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (streamed.usage.input_tokens, streamed.usage.output_tokens)


def test_a_conversation_with_tools_goes_on(server: Serving, client: Anthropic) -> None:
    server.answers((*THOUGHTS[:2], *CALLS))
    first = client.messages.create(model=MODEL, max_tokens=2048, messages=said("?"), tools=[WEATHER], thinking=THINKING)
    results: Any = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "rain"}], "is_error": index == 1}
        for index, block in enumerate(block for block in first.content if block.type == "tool_use")
    ]
    more: Any = [*said("?"), {"role": "assistant", "content": first.content}]
    more.append({"role": "user", "content": [*results, {"type": "text", "text": "and now?"}]})
    answer: Any = client.messages.create(model=MODEL, max_tokens=50, messages=more, tools=[WEATHER])
    assert answer.content[0].text == "and now?"
    request: Any = server.script.requests[1]
    assert [message.role for message in request.messages] == ["user", "assistant", "tool", "tool", "user"]
    assert request.messages[1].reasoning == "hm, yes" and request.messages[1].text == "Let me look."
    assert request.messages[1].tool_calls[0].arguments == '{"city":"Bern"}'
    assert [message.text for message in request.messages[2:4]] == ["rain", "Error: rain"]


def test_thoughts_that_were_not_asked_for_are_no_block(server: Serving, client: Anthropic) -> None:
    server.answers(THOUGHTS)
    answer = client.messages.create(model=MODEL, max_tokens=50, messages=said("?"))
    assert [block.type for block in answer.content] == ["text"] and answer.usage.output_tokens == 3
    request: Any = server.script.requests[0]
    assert request.reasoning_effort == "none"


def test_thoughts_that_are_not_to_be_shown_come_back_sealed(server: Serving) -> None:
    server.answers(THOUGHTS)
    thinking = {"type": "adaptive", "display": "omitted"}
    first = post(server, thinking=thinking, output_config={"effort": "low"}).json()
    assert first["content"][0]["thinking"] == "" and first["content"][0]["signature"]
    post(server, messages=[*said("?"), {"role": "assistant", "content": first["content"]}, *said("go on")])
    request: Any = server.script.requests
    assert request[0].reasoning_effort == "low" and request[1].messages[1].reasoning == "hm, yes"


def test_stops(server: Serving, client: Anthropic) -> None:
    server.answers((TextDelta("a "), Finished(("stop",), Usage(1, 1), None, ("END",))))
    stopped = client.messages.create(model=MODEL, max_tokens=50, messages=said("x"), stop_sequences=["END", "FIN"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "END")
    cut = client.messages.create(model=MODEL, max_tokens=2, messages=said("a b c"))
    assert (cut.stop_reason, cut.stop_sequence, cut.usage.output_tokens) == ("max_tokens", None, 2)
    server.answers((TextDelta("a "), Finished(("length",), Usage(1, 1))))
    full = client.messages.create(model=MODEL, max_tokens=50, messages=said("x"))
    assert full.stop_reason == "model_context_window_exceeded"
    request: Any = server.script.requests[0]
    assert request.limits.stop == ("END", "FIN") and request.limits.max_tokens == 50


def test_sampling_and_tool_choice_reach_the_engine(server: Serving, client: Anthropic) -> None:
    asked: Any = {"tools": [WEATHER], "extra_body": {"temperature": 0.3, "top_p": 0.9, "top_k": 4}}
    choices: list[tuple[Any, Any]] = [
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", None, False)),
        ({"type": "any"}, ("required", None, None)),
        ({"type": "tool", "name": "weather"}, ("required", "weather", None)),
        ({"type": "none"}, ("none", None, None)),
    ]
    for choice, expected in choices:
        client.messages.create(model=MODEL, max_tokens=5, messages=said("x"), tool_choice=choice, **asked)
        request: Any = server.script.requests[-1]
        assert (request.tool_choice.mode, request.tool_choice.name, request.parallel_tool_calls) == expected
        assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (0.3, 0.9, 4)


def test_images_and_texts_reach_the_engine(server: Serving, client: Anthropic) -> None:
    picture = {"type": "base64", "media_type": "image/jpeg", "data": base64.b64encode(images.jpeg()).decode()}
    content: Any = [
        {"type": "image", "source": picture, "cache_control": {"type": "ephemeral"}},
        {"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain", "data": "some text"}},
        {"type": "text", "text": "what?"},
    ]
    client.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": content}])
    request: Any = server.script.requests[0]
    parts = (ImagePart(images.jpeg(), "image/jpeg"), TextPart("Notes\n\nsome text"), TextPart("what?"))
    assert request.messages[0].parts == parts


def test_what_an_editor_sends(server: Serving, client: Anthropic) -> None:
    """Several system blocks, many tools, marks for the cache, a beta header, an answer begun for the model."""
    system: Any = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}} for text in ("You edit.", "Be brief.")]
    tools: Any = [WEATHER | {"name": f"tool_{index}"} for index in range(60)]
    messages: Any = [*said("x " * 500), {"role": "assistant", "content": "I"}]
    raw = client.messages.with_raw_response.create(
        model=MODEL,
        max_tokens=4000,
        system=system,
        tools=tools,
        messages=messages,
        metadata={"user_id": "u"},
        extra_headers={"anthropic-beta": "tools-1,cache-2"},
        extra_body={"context_management": {"edits": []}},
    )
    assert raw.headers["x-zhibei-ignored"] == "context_management,anthropic-beta:tools-1 cache-2"
    request: Any = server.script.requests[0]
    assert request.messages[0].text == "You edit.\n\nBe brief." and len(request.tools) == 60
    assert request.messages[-1].role == "assistant"


def test_the_conversation_is_one_that_strict_templates_take(server: Serving, client: Anthropic) -> None:
    """Instructions in between are said by the user, and what one side says in a row is one turn."""
    call: Any = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    messages: Any = [
        *said("first"),
        {"role": "system", "content": "Agents: none."},
        *said("second"),
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen"}]},
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
    ]
    client.messages.create(model=MODEL, max_tokens=50, messages=messages, system="You edit.")
    request: Any = server.script.requests[0]
    assert [(message.role, message.text) for message in request.messages] == [
        ("system", "You edit."),
        ("user", "first\n\nAgents: none.\n\nsecond"),
        ("assistant", ""),
        ("tool", "seen"),
        ("user", "Be brief."),
    ]
    client.messages.create(model=MODEL, max_tokens=50, messages=[messages[1], *said("x")], system="You edit.")
    request = server.script.requests[1]
    assert [(message.role, message.text) for message in request.messages] == [
        ("system", "You edit.\n\nAgents: none."),
        ("user", "x"),
    ]


def test_tokens_are_counted(server: Serving, client: Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=said("four"), system="s")
    assert counted.input_tokens == len("system: s\nuser: four\n")
    raw = httpx.post(server.url + "/v1/messages/count_tokens", json={"model": MODEL, "messages": said("x")})
    strict(MessageTokensCount, raw.json())
    assert raw.headers["request-id"].startswith("req_")


def test_models(client: Anthropic) -> None:
    page = client.models.list()
    assert [(model.id, model.type, model.display_name) for model in page.data] == [(MODEL, "model", MODEL)]
    assert page.first_id == page.last_id == MODEL and page.has_more is False
    assert page.data[0].created_at.tzinfo is not None
    assert client.models.retrieve("tiny").id == MODEL


ERRORS: list[tuple[Any, type[anthropic.APIStatusError], str]] = [
    (ContextTooLong(500, 128), anthropic.BadRequestError, "invalid_request_error"),
    (Busy("Full."), anthropic.InternalServerError, "overloaded_error"),
    (EngineDied("Gone."), anthropic.InternalServerError, "api_error"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "kind", "name"), ERRORS, ids=[name for _, _, name in ERRORS])
def test_errors_before_the_first_token_have_a_status(
    server: Serving, client: Anthropic, stream: bool, error: Any, kind: type[anthropic.APIStatusError], name: str
) -> None:
    server.answers((Fail(error),))
    with pytest.raises(kind) as caught:
        client.messages.create(model=MODEL, max_tokens=5, messages=said("x"), stream=stream)
    body: Any = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == name
    assert body["request_id"] == caught.value.response.headers["request-id"]
    if isinstance(error, ContextTooLong):
        assert body["error"]["message"] == "prompt is too long: 500 tokens > 128 maximum"


def test_an_engine_that_dies_under_way_is_an_error_event(server: Serving) -> None:
    server.answers((TextDelta("half "), Fail(EngineDied("The engine died."))))
    events = sse(post(server, stream=True))
    name, data = events[-1]
    assert name == "error" and data["error"]["type"] == "api_error" and data["request_id"].startswith("req_")
    assert "message_stop" not in [name for name, _ in events]


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_is_not_here_is_a_404(client: Anthropic, stream: bool) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(model="nowhere", max_tokens=5, messages=said("x"), stream=stream)
    assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]


def test_a_key_is_wanted_in_either_header(start: Any) -> None:
    secret = "k" * 24
    server = start(api_key=secret)
    with (
        Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as wrong,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        wrong.messages.create(model=MODEL, max_tokens=5, messages=said("x"))
    assert caught.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    for login in ({"api_key": secret}, {"auth_token": secret}):
        with Anthropic(base_url=server.url, max_retries=0, **login) as right:
            assert right.messages.create(model=MODEL, max_tokens=5, messages=said("x")).content


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"temperature": 1.1}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"stop_sequences": ["  "]}, "stop_sequences"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"container": "c"}, "container"),
    ({"service_tier": "batch"}, "service_tier"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
    ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url"}}]}]}, "messages[0].content[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]},
        "messages[0].content[0].tool_use_id",
    ),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]}]}, "messages[0].content[0]"),
]


@pytest.mark.parametrize(("fields", "where"), REFUSED, ids=[str(index) for index in range(len(REFUSED))])
def test_what_cannot_be_is_a_400_in_anthropics_envelope(module_server: Serving, fields: dict[str, Any], where: str) -> None:
    for stream in (False, True):
        answer = post(module_server, **{"stream": stream, **fields})
        body = answer.json()
        assert answer.status_code == 400, body
        assert set(body) == {"type", "error", "request_id"} and body["error"]["type"] == "invalid_request_error"
        assert body["error"]["message"].startswith(where), body
        assert answer.headers["request-id"] == body["request_id"]


def test_what_is_not_there_is_said_in_the_same_envelope(module_server: Serving) -> None:
    with httpx.Client(base_url=module_server.url) as client:
        batches = client.post("/v1/messages/batches", json={"requests": []})
        assert batches.status_code == 501 and "not work yet" in batches.json()["error"]["message"]
        assert batches.headers["x-should-retry"] == "false"
        unknown = client.get("/v1/messages/unknown")
        assert unknown.status_code == 404 and unknown.json()["error"]["type"] == "not_found_error"
        wrong = client.post("/v1/messages", content="x", headers={"content-type": "text/plain"})
        assert wrong.json()["type"] == "error" and wrong.headers["request-id"] == wrong.json()["request_id"]
