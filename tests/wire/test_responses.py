"""``/v1/responses`` through the official client, and each event held against its model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_item_list import ResponseItemList
from pydantic import BaseModel

from support import images
from support.serving import MODEL, Serving, serving
from support.strict import sse, strict
from zhibei.chat import ImagePart, TextPart, TokenLogprob
from zhibei.engines.echo import Fail
from zhibei.errors import ContextTooLong, EngineDied
from zhibei.events import Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage

END = Finished(("stop",), Usage(7, 3, 2))
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather somewhere.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
CALLS = (
    ReasoningDelta("look "),
    ReasoningDelta("twice"),
    ToolCallDelta(0, "", "call_a", "weather"),
    ToolCallDelta(0, '{"city": '),
    ToolCallDelta(0, '"Bern"}'),
    ToolCallDelta(1, '{"city": "Wien"}', "call_b", "weather"),
    Finished(("tool_calls",), Usage(7, 9)),
)
# Fields of the client's model that belong to things that are not here at all.
ABSENT = (
    "conversation moderation prompt prompt_cache_options prompt_cache_retention phase caller namespace "
    "generate_summary context mode encrypted_content created_by defer_loading allowed_callers output_schema content"
).split()


@pytest.fixture(scope="module")
def module_server(tiny_home: Path) -> Iterator[Serving]:
    with serving(tiny_home) as made:
        yield made


@pytest.fixture
def client(server: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def post(server: Serving, **fields: Any) -> httpx.Response:
    return httpx.post(server.url + "/v1/responses", json={"model": MODEL, **fields}, timeout=30)


def checked_events(server: Serving, **fields: Any) -> list[Any]:
    """The events of a stream, each strictly of its kind and in order."""
    events = sse(post(server, stream=True, **fields))
    assert [data["type"] for _, data in events] == [name for name, _ in events]
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    return [strict(ResponseStreamEvent, data, extra=("store",), missing=ABSENT) for _, data in events]


def test_an_answer(client: OpenAI, server: Serving) -> None:
    answer = client.responses.create(model=MODEL, input="guten Tag 你好", instructions="Be kind.", metadata={"a": "b"})
    assert answer.output_text == "guten Tag 你好" and answer.status == "completed"
    assert answer.id.startswith("resp_") and answer.output[0].id is not None and answer.output[0].id.startswith("msg_")
    assert answer.usage is not None and answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    request: Any = server.script.requests[0]
    assert [(message.role, message.text) for message in request.messages] == [("system", "Be kind."), ("user", "guten Tag 你好")]


def test_the_conversation_is_one_that_strict_templates_take(client: OpenAI, server: Serving) -> None:
    """What agents send: where they are and what is asked, each in a message of its own; also after an earlier response."""
    said: Any = [{"role": role, "content": role[0]} for role in ("developer", "user", "user", "assistant", "developer", "user")]
    first = client.responses.create(model=MODEL, input=said[:3], instructions="Be kind.")
    client.responses.create(model=MODEL, input=said[3:], instructions="Be brief.", previous_response_id=first.id)
    one, two = ([(each.role, each.text) for each in request.messages] for request in server.script.requests)  # type: ignore[union-attr]
    assert one == [("system", "Be kind.\n\nd"), ("user", "u\n\nu")]
    assert [role for role, _ in two] == ["system", "user", "assistant", "user"]
    assert two[0] == ("system", "Be brief.\n\nd") and two[-1] == ("user", "d\n\nu")


def test_every_field_of_a_response_is_there(server: Serving) -> None:
    server.answers((ReasoningDelta("hm"), TextDelta("yes"), END), CALLS)
    for fields in (
        {},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "weather"}, "reasoning": {"effort": "low"}},
    ):
        body = post(server, input="x", **fields).json()
        found = strict(Response, body, extra=("store",), missing=ABSENT)
        assert found.completed_at >= found.created_at and found.error is None and found.incomplete_details is None


def test_the_events_of_an_answer(server: Serving) -> None:
    server.answers((TextDelta("a "), TextDelta("b"), END))
    events = checked_events(server, input="x")
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[6].text == "a b" and events[-1].response.output[0].content[0].text == "a b"
    assert events[-1].response.usage.input_tokens_details.cached_tokens == 2
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {events[-1].response.output[0].id}


def test_the_events_of_reasoning_and_calls(server: Serving) -> None:
    server.answers(CALLS)
    events = checked_events(server, input="x", tools=[WEATHER])
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "function_call", "function_call"]
    assert [json.loads(item.arguments)["city"] for item in final.output[1:]] == ["Bern", "Wien"]
    assert final.usage.output_tokens_details.reasoning_tokens == 2


def test_streamed_and_whole_are_the_same(server: Serving) -> None:
    server.answers(CALLS, CALLS)
    streamed = sse(post(server, input="x", stream=True, tools=[WEATHER]))[-1][1]["response"]
    whole = post(server, input="x", tools=[WEATHER]).json()
    for body in (streamed, whole):
        for name in ("id", "created_at", "completed_at"):
            body.pop(name)
        for item in body["output"]:
            item.pop("id")
    assert streamed == whole


def test_the_clients_stream_helper(server: Serving, client: OpenAI) -> None:
    server.answers(CALLS)
    with client.responses.stream(model=MODEL, input="x", tools=[WEATHER]) as stream:
        final = stream.get_final_response()
    calls: Any = final.output[1:]
    assert [call.arguments for call in calls] == ['{"city": "Bern"}', '{"city": "Wien"}']


async def test_from_async_code(server: Serving) -> None:
    async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        stream = await client.responses.create(model=MODEL, input="a b c", stream=True)
        assert "".join([event.delta async for event in stream if event.type == "response.output_text.delta"]) == "a b c"


def test_parsing_into_a_model_asks_for_its_schema(server: Serving, client: OpenAI) -> None:
    class City(BaseModel):
        name: str

    server.answers((TextDelta('{"name": "Bern"}'), END))
    with pytest.raises(openai.BadRequestError) as caught:  # the scripted engine keeps to no format, and says so
        client.responses.parse(model=MODEL, input="x", text_format=City)
    assert caught.value.code == "unsupported_parameter"


def test_a_conversation_goes_on(server: Serving, client: OpenAI) -> None:
    server.answers(CALLS)
    first = client.responses.create(model=MODEL, input="?", instructions="old", tools=[WEATHER])
    outputs: Any = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
        for item in first.output
        if item.type == "function_call"
    ]
    second = client.responses.create(
        model=MODEL, previous_response_id=first.id, input=[*outputs, {"role": "user", "content": "and now?"}]
    )
    assert second.output_text == "and now?" and second.previous_response_id == first.id
    request: Any = server.script.requests[1]
    assert [message.role for message in request.messages] == ["user", "assistant", "tool", "tool", "user"]
    assert request.messages[1].reasoning == "look twice" and len(request.messages[1].tool_calls) == 2
    client.responses.create(model=MODEL, previous_response_id=second.id, input="third")
    assert len(server.script.requests[2].messages) == 7  # type: ignore[union-attr]


def test_the_same_without_anything_kept(server: Serving, client: OpenAI) -> None:
    server.answers(CALLS)
    first = client.responses.create(model=MODEL, input="?", tools=[WEATHER], store=False, include=["reasoning.encrypted_content"])
    items: Any = [item.to_dict() for item in first.output]
    assert items[0]["encrypted_content"]
    # As a client does that shows no thoughts: only what is sealed comes back.
    items[0].pop("content")
    outputs = [{"type": "function_call_output", "call_id": item["call_id"], "output": [{"type": "input_text", "text": "rain"}]}
               for item in items[1:]]  # fmt: skip
    client.responses.create(model=MODEL, input=[{"role": "user", "content": "?"}, *items, *outputs], store=False)
    request: Any = server.script.requests[1]
    assert [message.role for message in request.messages] == ["user", "assistant", "tool", "tool"]
    assert request.messages[1].reasoning == "look twice" and request.messages[2].text == "rain"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_what_is_kept_can_be_read_and_forgotten(server: Serving, client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input=[{"role": "user", "content": "one"}, {"role": "user", "content": "two"}])
    assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
    raw = httpx.get(f"{server.url}/v1/responses/{made.id}/input_items", params={"order": "asc"}).json()
    listed = strict(ResponseItemList, raw, missing=[*ABSENT, "prompt_cache_breakpoint"])
    assert [item.content[0].text for item in listed.data] == ["one", "two"] and not listed.has_more
    assert [item.id for item in client.responses.input_items.list(made.id, limit=1)] == [item.id for item in listed.data[::-1]]
    again = client.responses.create(model=MODEL, input=[{"type": "item_reference", "id": listed.data[0].id}])
    assert again.output_text == "one"
    client.responses.delete(made.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="x", previous_response_id=made.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_an_answer_that_was_cut_is_incomplete(server: Serving, client: OpenAI) -> None:
    events = checked_events(server, input="a b c", max_output_tokens=2)
    final = events[-1].response
    assert events[-1].type == "response.incomplete" and final.incomplete_details.reason == "max_output_tokens"
    assert final.output[0].status == "incomplete" and final.output[0].content[0].text == "a b "
    assert client.responses.create(model=MODEL, input="a b c", max_output_tokens=2).status == "incomplete"


def test_an_engine_that_dies_under_way_ends_the_stream_as_failed(server: Serving) -> None:
    server.answers((TextDelta("half "), Fail(EngineDied("The engine died."))))
    *_, error, failed = checked_events(server, input="x")
    assert (error.type, error.code) == ("error", "engine_died")
    assert failed.type == "response.failed" and failed.response.error.code == "server_error"
    assert "died" in failed.response.error.message


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_is_said_before_the_stream_begins(server: Serving, client: OpenAI, stream: bool) -> None:
    server.answers((Fail(ContextTooLong(500, 128)),))
    with pytest.raises(openai.BadRequestError, match=r"500.*128") as caught:
        client.responses.create(model=MODEL, input="x", stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_truncation_drops_the_oldest_turns_and_says_so(server: Serving) -> None:
    turns = [{"role": role, "content": text * 30} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    load = {"ctx_size": 64}
    answer = post(server, input=turns, truncation="auto", max_output_tokens=8, load=load)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-zhibei-truncated"] == "messages=2" and answer.json()["truncation"] == "auto"
    streamed = post(server, input=turns, truncation="auto", max_output_tokens=8, load=load, stream=True)
    assert streamed.headers["x-zhibei-truncated"] == "messages=2"
    assert [message.text[0] for message in server.script.requests[-1].messages] == ["c"]  # type: ignore[union-attr]
    whole = post(server, input="short", truncation="auto", load=load)
    assert "x-zhibei-truncated" not in whole.headers


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(server: Serving, stream: bool) -> None:
    top = (TokenLogprob("é", -0.5, "é".encode(), 7), TokenLogprob("e", -1.5, b"e", 8))
    server.answers((TextDelta("é", 0, (TokenLogprob("é", -0.5, "é".encode(), 7, top),)), END))
    asked: Any = {"input": "x", "top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    if stream:
        events = checked_events(server, **asked)
        assert events[4].logprobs[0].token == "é" and len(events[4].logprobs[0].top_logprobs) == 2
        final = events[-1].response
    else:
        final = strict(Response, post(server, **asked).json(), extra=("store",), missing=ABSENT)
    (found,) = final.output[0].content[0].logprobs
    assert (found.token, found.bytes, [each.token for each in found.top_logprobs]) == ("é", [195, 169], ["é", "e"])


def test_images_reach_the_engine(server: Serving) -> None:
    parts = [{"type": "input_text", "text": "what?"}, {"type": "input_image", "image_url": images.data_url(images.gif())}]
    assert post(server, input=[{"role": "user", "content": parts}]).json()["output"][0]["content"][0]["text"] == "what?"
    request: Any = server.script.requests[0]
    assert request.messages[0].parts == (TextPart("what?"), ImagePart(images.gif(), "image/gif"))


def test_tools_may_be_narrowed(server: Serving) -> None:
    other = WEATHER | {"name": "other"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]}
    assert post(server, input="x", tools=[WEATHER, other], tool_choice=choice).status_code == 200
    request: Any = server.script.requests[0]
    assert [tool.name for tool in request.tools] == ["other"] and request.tool_choice.mode == "required"


def test_input_is_counted(server: Serving, client: OpenAI) -> None:
    counted = client.responses.input_tokens.count(model=MODEL, input="four")
    assert (counted.input_tokens, counted.object) == (len("user: four\n"), "response.input_tokens")


def test_what_changes_nothing_is_reported(server: Serving) -> None:
    answer = post(server, input="x", reasoning={"summary": "auto"}, text={"verbosity": "low"}, mystery=1)
    assert answer.headers["x-zhibei-ignored"] == "mystery,text.verbosity,reasoning.summary"


def test_tools_that_an_agent_adds_by_itself_do_not_shut_it_out(server: Serving) -> None:
    """The request of Codex: functions, and kinds that only the vendor has."""
    server.answers(CALLS)
    inner = {"type": "function", "name": "spawn", "parameters": {"type": "object", "properties": {}}}
    tools = [
        WEATHER,
        {"type": "namespace", "name": "agents", "description": "Others.", "tools": [inner]},
        {"type": "web_search", "external_web_access": True},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}},
    ]
    told = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You edit."}]}
    answer = post(
        server,
        input=[told, {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look."}]}],
        tools=tools,
        tool_choice="auto",
        parallel_tool_calls=True,
        reasoning={"summary": "auto"},
        store=False,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="a",
        client_metadata={"session_id": "b"},
    )
    ignored = "client_metadata,reasoning.summary,tools.namespace,tools.web_search,tools.custom"
    assert (answer.status_code, answer.headers["x-zhibei-ignored"]) == (200, ignored), answer.text
    assert [tool["name"] for tool in answer.json()["tools"]] == ["weather"]
    request: Any = server.script.requests[0]
    assert [tool.name for tool in request.tools] == ["weather"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"tools": [{"type": "file_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
    ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tool_choice": {"type": "function", "name": "no"}}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"metadata": {str(index): "" for index in range(17)}}, "metadata"),
    ({"metadata": {"k" * 65: ""}}, "metadata"),
    ({"include": ["everything"]}, "include[0]"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"input": []}, "input"),
    ({"input": None}, "input"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"type": "computer_call"}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "msg_no"}]}, "input[0].id"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0].file_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[param for _, param in REFUSED])
def test_what_cannot_be_is_a_400_in_openais_envelope(module_server: Serving, fields: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        answer = post(module_server, **{"input": "x", "stream": stream, **fields})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
        assert set(error) == {"message", "type", "param", "code"}


def test_nothing_can_be_cancelled_or_streamed_again(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="x")
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.retrieve(made.id, stream=True)
