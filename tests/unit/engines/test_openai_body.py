"""Requests as OpenAI documents them, and events out of streams that llama.cpp's server really sent (``recordings/``)."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from zhibei.chat import (
    ChatRequest,
    CompletionRequest,
    ImagePart,
    Message,
    ResponseFormat,
    TextPart,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
)
from zhibei.engines.openai_body import EventReader, chat_body, completion_body, error_of, plainer, vectors
from zhibei.engines.sse import SseSplitter
from zhibei.errors import BadRequest, Busy, ContextTooLong, EngineRefused, NotPermitted, Unsupported, ZhibeiError
from zhibei.events import Finished, GenerationEvent, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from zhibei.options import Limits, Sampling

RECORDINGS = Path(__file__).parent / "recordings"
HELLO = (Message.of("user", "Hello"),)
STREAM = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
WEATHER = Tool("weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})
CLOCK = Tool("clock")


def body_of(**changes: Any) -> dict[str, Any]:
    return chat_body(ChatRequest(**{"messages": HELLO, **changes}), "m")


# Requests


def test_the_smallest_chat() -> None:
    assert body_of() == {**STREAM, "messages": [{"role": "user", "content": "Hello"}]}


def test_the_smallest_completion() -> None:
    assert completion_body(CompletionRequest("Hello"), "m") == {**STREAM, "prompt": "Hello"}
    assert completion_body(CompletionRequest((1, 2)), "m")["prompt"] == [1, 2]


def test_every_sampling_field_is_sent_under_its_own_name() -> None:
    values = {field.name: number for number, field in enumerate(fields(Sampling), 1) if field.name != "logit_bias"}
    sampling = Sampling(**values, logit_bias=((15, -100.0), (16, 2.5)))  # type: ignore[arg-type]
    expected = {**values, "logit_bias": {"15": -100.0, "16": 2.5}}
    for body in (body_of(sampling=sampling), completion_body(CompletionRequest("x", sampling), "m")):
        assert {key: body[key] for key in expected} == expected


def test_zero_is_a_value() -> None:
    body = body_of(sampling=Sampling(temperature=0.0, seed=0, top_k=0), limits=Limits(max_tokens=0))
    assert (body["temperature"], body["seed"], body["top_k"], body["max_tokens"]) == (0.0, 0, 0, 0)


def test_limits_and_choices() -> None:
    body = body_of(limits=Limits(7, ("a", "b"), ignore_eos=True), num_choices=3)
    assert {key: body[key] for key in ("max_tokens", "stop", "ignore_eos", "n")} == {
        "max_tokens": 7,
        "stop": ["a", "b"],
        "ignore_eos": True,
        "n": 3,
    }


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (Message.of("system", "Be brief."), {"role": "system", "content": "Be brief."}),
        (Message.of("user", ""), {"role": "user", "content": ""}),
        (Message("user"), {"role": "user", "content": ""}),
        (Message("user", (TextPart("a"), TextPart("b"))), {"role": "user", "content": "ab"}),
        (Message("user", (TextPart("a"),), name="ann"), {"role": "user", "content": "a", "name": "ann"}),
        (
            Message("user", (TextPart("What is this?"), ImagePart(b"\x89PNG", "image/png"))),
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
                ],
            },
        ),
        (
            Message("assistant", tool_calls=(ToolCall("id1", "weather", '{"city":"Oslo"}'),)),
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "id1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
                ],
            },
        ),
        (
            Message("assistant", (TextPart("So"),), reasoning="Hm."),
            {"role": "assistant", "content": "So", "reasoning_content": "Hm."},
        ),
        (
            Message("tool", (TextPart("sunny"),), tool_call_id="id1"),
            {"role": "tool", "content": "sunny", "tool_call_id": "id1"},
        ),
    ],
)
def test_messages(message: Message, wire: dict[str, Any]) -> None:
    assert body_of(messages=(message,))["messages"] == [wire]


def test_tools() -> None:
    body = body_of(tools=(WEATHER, CLOCK), parallel_tool_calls=False)
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "weather", "description": "The weather of a city.", "parameters": WEATHER.parameters},
        },
        {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}},
    ]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", False)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body_of(parallel_tool_calls=True))


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        (ToolChoice("none"), "none"),
        (ToolChoice("required"), "required"),
        (ToolChoice("required", "clock"), {"type": "function", "function": {"name": "clock"}}),
    ],
)
def test_tool_choice(choice: ToolChoice, wire: object) -> None:
    assert body_of(tools=(WEATHER, CLOCK), tool_choice=choice)["tool_choice"] == wire


def test_response_formats() -> None:
    schema = {"type": "object"}
    assert "response_format" not in body_of()
    assert body_of(response_format=ResponseFormat("json_object"))["response_format"] == {"type": "json_object"}
    assert body_of(response_format=ResponseFormat("json_schema", schema))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema},
    }
    for wanted in (ResponseFormat("json_schema", schema), ResponseFormat("json_object")):
        assert completion_body(CompletionRequest("x", response_format=wanted), "m")["json_schema"] == schema


def test_logprobs_and_reasoning() -> None:
    body = body_of(top_logprobs=0, reasoning_effort="none")
    assert (body["logprobs"], body["top_logprobs"], body["reasoning_effort"]) == (True, 0, "none")
    assert completion_body(CompletionRequest("x", top_logprobs=3), "m")["logprobs"] == 3
    assert not {"logprobs", "top_logprobs", "reasoning_effort"} & set(body_of())


def test_a_body_is_json() -> None:
    request = ChatRequest(
        HELLO, tools=(WEATHER,), response_format=ResponseFormat("json_schema", {"type": "object"}), top_logprobs=2
    )
    assert json.loads(json.dumps(chat_body(request, "m"))) == chat_body(request, "m")


def test_plainer_requests() -> None:
    """What llama.cpp reads as "auto" and as "no log-probabilities" is said in words it understands."""
    forced = plainer(ChatRequest(HELLO, tools=(WEATHER, CLOCK), tool_choice=ToolChoice("required", "clock"), top_logprobs=0))
    assert (forced.tools, forced.tool_choice, forced.top_logprobs) == ((CLOCK,), ToolChoice("required"), 1)
    assert plainer(CompletionRequest("x", top_logprobs=0)).top_logprobs == 1
    for same in (ChatRequest(HELLO, tools=(WEATHER,), top_logprobs=2), ChatRequest(HELLO), CompletionRequest("x")):
        assert plainer(same) == same


# Answers


def read(name: str, num_choices: int = 1, top_logprobs: int | None = None) -> tuple[list[GenerationEvent], Finished]:
    reader, events = EventReader(num_choices, top_logprobs), []
    for data in SseSplitter().feed((RECORDINGS / f"{name}.sse").read_bytes()):
        if data != b"[DONE]":
            assert reader.finish() is None or b'"choices":[]' in data
            events += reader.read(json.loads(data))
    finished = reader.finish()
    assert finished is not None
    return events, finished


def texts(events: list[GenerationEvent], choice: int = 0) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta) and event.choice == choice]


def test_a_chat() -> None:
    events, finished = read("chat")
    assert texts(events) == ["I", "'m", " thrilled", " to", " meet", " you", ".", " I"]
    assert len(events) == 8, "a chunk that says nothing is no event"
    assert (finished.reasons, finished.usage) == (("length",), Usage(33, 8, 0))
    assert finished.timings is not None
    assert (finished.timings.num_prompt_tokens, finished.timings.prompt_s) == (33, pytest.approx(2.996549))
    assert (finished.timings.num_generated_tokens, finished.timings.generation_s) == (8, pytest.approx(16.023117))


def test_a_completion() -> None:
    events, finished = read("completion")
    assert texts(events) == ["-", "year", "-", "old", " girls"]
    assert (finished.reasons, finished.usage) == (("length",), Usage(3, 5, 0))


def test_a_stop_string() -> None:
    events, finished = read("stop_string")
    assert texts(events) == ["One", " two", " "]
    assert finished.reasons == ("stop",)
    assert finished.usage == Usage(35, 3, 24)
    assert finished.timings is not None and (finished.timings.num_prompt_tokens, finished.timings.num_cached_tokens) == (11, 24)


@pytest.mark.parametrize(
    ("name", "first", "second", "usage"),
    [
        ("chat_two_choices", ["Sorry", ",", " I"], ["Hello", ",", " it"], Usage(33, 6, 32)),
        ("completion_two_choices", ["-", "dimensional"], ["-", "digit"], Usage(3, 4, 2)),
    ],
)
def test_two_choices(name: str, first: list[str], second: list[str], usage: Usage) -> None:
    events, finished = read(name, 2)
    assert (texts(events, 0), texts(events, 1)) == (first, second)
    assert finished.reasons == ("length", "length")
    assert finished.usage == usage, "the prompt counts once, what was generated counts for every choice"


def test_logprobs() -> None:
    events, _ = read("chat_logprobs")
    assert isinstance(events[0], TextDelta)
    assert events[0].logprobs == (
        TokenLogprob(
            "I",
            -2.2841155529022217,
            b"I",
            57,
            (TokenLogprob("Hello", -2.081272840499878, b"Hello", 19556), TokenLogprob("I", -2.2841155529022217, b"I", 57)),
        ),
    )
    assert [len(event.logprobs) for event in events if isinstance(event, TextDelta)] == [1, 1, 1]
    events, _ = read("completion_logprobs")
    assert [item.token for event in events if isinstance(event, TextDelta) for item in event.logprobs] == ["-", "digit"]


def test_logprobs_without_alternatives() -> None:
    events, _ = read("chat_logprobs", top_logprobs=0)
    found = [item for event in events if isinstance(event, TextDelta) for item in event.logprobs]
    assert [item.token for item in found] == ["I", "'m", " thrilled"]
    assert {item.top for item in found} == {()}


def test_a_character_of_several_tokens() -> None:
    """Three tokens make one emoji; the log-probability that comes with it is that of the last."""
    events, finished = read("emoji")
    assert texts(events) == ["👩", "👩"]
    assert finished.usage.num_generated_tokens == 6
    assert isinstance(events[0], TextDelta) and events[0].logprobs[0].raw == "👩".encode()
    assert events[0].logprobs[0].top[0].raw == b"\xa9"


def test_reasoning_comes_before_the_answer() -> None:
    events, finished = read("reasoning")
    kinds = [type(event) for event in events]
    assert kinds == [ReasoningDelta] * 6 + [TextDelta] * 6
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "Let me think.\n"
    assert "".join(texts(events)) == "Hi you."
    assert finished.reasons == ("stop",)


def test_a_tool_call() -> None:
    events, finished = read("tool_call")
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert calls == events
    assert (calls[0].name, calls[0].id) == ("weather", "mX1qNUeavDvHvc4rtSKleJAr3O2Jdb8x")
    assert {(call.index, call.choice) for call in calls} == {(0, 0)}
    assert {(call.name, call.id) for call in calls[1:]} == {(None, None)}
    assert json.loads("".join(call.arguments for call in calls)) == {"city": "Oslo"}
    assert finished.reasons == ("tool_calls",)


def test_a_stream_that_ends_too_early_has_no_end() -> None:
    reader = EventReader(2)
    reader.read({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
    assert reader.finish() is None
    reader.read({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    assert reader.finish() is None, "the other choice has not ended"
    reader.read({"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]})
    assert reader.finish() == Finished(("stop", "length"), Usage(0, 0))


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [{"index": 0, "delta": {}}]},
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]},
        {"choices": [{"index": 0, "delta": {"content": "", "tool_calls": None}}], "usage": None, "error": None},
        {"choices": [{"index": 0, "text": "", "logprobs": None}]},
        {"choices": [{"index": 0, "text": None, "logprobs": {"content": None}}]},
        {"choices": [{"index": 7, "delta": {}, "finish_reason": "stop"}]},
    ],
)
def test_chunks_that_say_nothing(chunk: dict[str, Any]) -> None:
    assert EventReader(1).read(chunk) == []


def test_unknown_reasons_are_an_end_like_any_other() -> None:
    reader = EventReader(1)
    reader.read({"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]})
    assert reader.finish() == Finished(("stop",), Usage(0, 0))


def test_usage_of_a_server_that_reports_once_for_all_choices() -> None:
    reader = EventReader(2)
    reader.read({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}})
    reader.read({"choices": [{"index": n, "delta": {}, "finish_reason": "stop"} for n in (0, 1)]})
    assert reader.finish() == Finished(("stop", "stop"), Usage(5, 9))


def ended(index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}], **fields}


def test_the_stop_text_that_ended_each_choice_is_told() -> None:
    reader = EventReader(2, stop=("END", "###"))
    reader.read(ended(0, __verbose={"index": 0, "stop": True, "stop_type": "word", "stopping_word": "###"}))
    assert reader.finish() is None
    reader.read(ended(1, __verbose={"index": 1, "stop": True, "stop_type": "eos", "stopping_word": ""}))
    finished = reader.finish()
    assert finished is not None and finished.stop_texts == ("###", None)


@pytest.mark.parametrize(
    ("stop", "chunk", "stop_texts"),
    [
        # Nothing to stop at; nobody told; the template's own word; vLLM's text, its token, and no word of it.
        ((), ended(), (None,)),
        (("END",), ended(), ()),
        (None, ended(), ()),
        (("END",), ended(__verbose={"stop": True, "stopping_word": "<|im_end|>"}), (None,)),
        (("END",), ended(__verbose={"stop": False, "content": "END"}), ()),
        (("END",), {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}, ("END",)),
        (("END",), {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 128001}]}, (None,)),
        (("END",), {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": None}]}, (None,)),
    ],
)
def test_who_tells_the_stop_text(stop: tuple[str, ...] | None, chunk: dict[str, Any], stop_texts: tuple[str | None, ...]) -> None:
    reader = EventReader(1, stop=stop)
    reader.read(chunk)
    finished = reader.finish()
    assert finished is not None and finished.stop_texts == stop_texts


def test_a_suffix_is_sent_as_openai_names_it() -> None:
    assert completion_body(CompletionRequest("a", suffix="b"), "m")["suffix"] == "b"
    assert "suffix" not in completion_body(CompletionRequest("a"), "m")


@pytest.mark.parametrize("index", [-1, 1 << 40, "0", 1.5])
def test_an_index_that_is_none_is_refused(index: object) -> None:
    with pytest.raises(ValueError, match="index"):
        EventReader(1).read({"choices": [{"index": index, "delta": {"content": "x"}}]})


def test_an_error_in_a_stream_is_raised() -> None:
    with pytest.raises(EngineRefused, match="out of slots"):
        EventReader(1).read({"error": {"code": 500, "message": "out of slots", "type": "server_error"}})


# Errors


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (
            400,
            '{"error":{"code":400,"message":"Expected \'messages\' to be an array","type":"invalid_request_error"}}',
            BadRequest,
        ),
        (401, '{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}', NotPermitted),
        (404, '{"error":{"message":"File Not Found","type":"not_found_error","code":404}}', BadRequest),
        (501, '{"error":{"code":501,"message":"no embeddings","type":"not_supported_error"}}', Unsupported),
        (503, '{"error":{"message":"Loading model","type":"unavailable_error","code":503}}', Busy),
        (500, '{"error":{"code":500,"message":"x","type":"server_error"}}', EngineRefused),
        (500, '{"error":{"code":400,"message":"x","type":"invalid_request_error"}}', BadRequest),
        (401, '{"error":{"message":"Incorrect API key","type":"invalid_request_error","code":"invalid_api_key"}}', NotPermitted),
        (403, '{"error":{"message":"x","type":"permission_error"}}', NotPermitted),
        (429, '{"error":{"message":"x","type":"requests","code":"rate_limit_exceeded"}}', Busy),
        (422, '{"detail":"x"}', BadRequest),
        (500, '"nothing that is JSON"', EngineRefused),
        (400, '{"error":"only a text"}', BadRequest),
        (502, "[]", EngineRefused),
        (500, '{"error":{}}', EngineRefused),
        (400, '{"error":{"message":"too long","type":"exceed_context_size_error"}}', BadRequest),
        (400, '{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}', BadRequest),
    ],
)
def test_errors(status: int, body: str, error: type[ZhibeiError]) -> None:
    found = error_of(json.loads(body), status)
    assert type(found) is error
    assert len(str(found)) < 600


def test_a_prompt_that_is_too_long_says_by_how_much() -> None:
    body = '{"error":{"code":400,"message":"…","type":"exceed_context_size_error","n_prompt_tokens":3031,"n_ctx":1024}}'
    found = error_of(json.loads(body), 400)
    assert isinstance(found, ContextTooLong)
    assert (found.num_prompt_tokens, found.ctx_size) == (3031, 1024)


def test_a_long_complaint_is_cut() -> None:
    assert len(str(error_of({"error": {"message": "x" * 10_000}}, 500))) < 600


# Vectors


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    body = {"data": [{"index": 1, "embedding": [3.0]}, {"index": 0, "embedding": [1.0, 2.0]}]}
    assert vectors(body, 2) == ((1.0, 2.0), (3.0,))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": None},
        {"data": []},
        {"data": [{"embedding": [1.0]}] * 2},
        {"data": [{"embedding": "AAAA"}]},
        {"data": ["x"]},
        {"data": [{}]},
    ],
)
def test_vectors_that_do_not_match_the_inputs(body: dict[str, Any]) -> None:
    with pytest.raises(EngineRefused):
        vectors(body, 1)
