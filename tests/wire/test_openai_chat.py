"""Chats through the official client, against a real server with the scripted engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from support import images
from support.serving import MODEL, Serving
from zhibei.chat import ImagePart, TokenLogprob
from zhibei.engines.echo import Fail
from zhibei.errors import Busy, ContextTooLong, EngineDied, EngineRefused
from zhibei.events import Finished, ReasoningDelta, TextDelta, Timings, ToolCallDelta, Usage

END = Finished(("stop",), Usage(7, 3, 2), Timings(5, 0.01, 3, 0.1, 2))
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather somewhere.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLS = (
    ToolCallDelta(0, "", "call_a", "weather"),
    ToolCallDelta(0, '{"city": '),
    ToolCallDelta(0, '"Bern"}'),
    ToolCallDelta(1, '{"city": "Wien"}', "call_b", "weather"),
    Finished(("tool_calls",), Usage(7, 3)),
)


@pytest.fixture
def client(server: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_an_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=said("guten Tag 你好 🙂"))
    choice = answer.choices[0]
    assert (choice.message.content, choice.message.role, choice.finish_reason) == ("guten Tag 你好 🙂", "assistant", "stop")
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion"
    assert answer.usage is not None and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert choice.message.refusal is None and choice.logprobs is None and answer.system_fingerprint


def test_a_streamed_answer(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=said("a b c"), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a b c"
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1 and all(chunk.usage is None for chunk in chunks)


def test_a_streamed_answer_through_the_clients_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=said("a b c"), stream_options={"include_usage": True}) as stream:
        found = stream.get_final_completion()
    assert found.choices[0].message.content == "a b c" and found.usage is not None


async def test_from_async_code(server: Serving) -> None:
    async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=said("a b"))
        assert answer.choices[0].message.content == "a b"
        stream = await client.chat.completions.create(model=MODEL, messages=said("a b"), stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "a b"


def test_usage_and_timings(server: Serving, client: OpenAI) -> None:
    server.answers((TextDelta("x"), END), (TextDelta("x"), END))
    whole = client.chat.completions.create(model=MODEL, messages=said("x"))
    options: Any = {"include_usage": True}
    *before, last = client.chat.completions.create(model=MODEL, messages=said("x"), stream=True, stream_options=options)
    for usage in (whole.usage, last.usage):
        assert usage is not None and (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 3, 10)
        assert usage.prompt_tokens_details is not None and usage.prompt_tokens_details.cached_tokens == 2
    assert last.choices == [] and all(chunk.usage is None for chunk in before)
    assert whole.timings == before[-1].timings  # type: ignore[attr-defined]
    assert whole.timings["predicted_per_second"] == pytest.approx(30)  # type: ignore[attr-defined]


def test_sampling_and_limits_reach_the_engine(server: Serving, client: OpenAI) -> None:
    client.chat.completions.create(
        model=MODEL,
        messages=said("x"),
        temperature=0.2,
        top_p=0.9,
        seed=42,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"5": -100},
        stop=["END"],
        max_completion_tokens=50,
        extra_body={"top_k": 20, "min_p": 0.1, "repeat_penalty": 1.1},
    )
    request: Any = server.script.requests[0]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.top_k, sampling.min_p) == (0.2, 0.9, 42, 20, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repeat_penalty) == (0.5, -0.5, 1.1)
    assert sampling.logit_bias == ((5, -100.0),)
    assert (request.limits.max_tokens, request.limits.stop) == (50, ("END",))


def test_stop_and_length(client: OpenAI) -> None:
    stopped = client.chat.completions.create(model=MODEL, messages=said("one two STOP three"), stop="STOP")
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("one two ", "stop")
    cut = client.chat.completions.create(model=MODEL, messages=said("one two three"), max_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("one two ", "length")


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers(client: OpenAI, server: Serving, stream: bool) -> None:
    parallel: Any = {"load": {"parallel": 3}}
    asked: Any = {"model": MODEL, "messages": said("a b"), "n": 3, "extra_body": parallel}
    if stream:
        texts = ["", "", ""]
        for chunk in client.chat.completions.create(stream=True, **asked):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert texts == ["a b"] * 3
    else:
        answer = client.chat.completions.create(**asked)
        assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, "a b"), (1, "a b"), (2, "a b")]


def test_more_answers_than_there_are_slots_is_said(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=said("a"), n=64, extra_body={"load": {"parallel": 1}})
    assert (caught.value.param, caught.value.code) == ("n", "unsupported_parameter")


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(server: Serving, client: OpenAI, stream: bool) -> None:
    top = (TokenLogprob("é", -0.5, "é".encode(), 7), TokenLogprob("e", -1.5, b"e", 8))
    server.answers((TextDelta("é", 0, (TokenLogprob("é", -0.5, "é".encode(), 7, top),)), END))
    asked: Any = {"model": MODEL, "messages": said("x"), "logprobs": True, "top_logprobs": 2}
    if stream:
        parts = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(stream=True, **asked)]
        found = [item for part in parts if part is not None for item in part.content or ()]
    else:
        logprobs = client.chat.completions.create(**asked).choices[0].logprobs
        assert logprobs is not None
        found = logprobs.content or []
    assert [(item.token, item.logprob, item.bytes) for item in found] == [("é", -0.5, [195, 169])]
    assert [item.token for item in found[0].top_logprobs] == ["é", "e"]


def test_tool_calls(server: Serving, client: OpenAI) -> None:
    server.answers(CALLS)
    answer = client.chat.completions.create(
        model=MODEL, messages=said("?"), tools=[WEATHER], tool_choice="required", parallel_tool_calls=True
    )
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls" and message.content is None
    calls: Any = message.tool_calls
    assert [(call.id, call.type, call.function.name, call.function.arguments) for call in calls] == [
        ("call_a", "function", "weather", '{"city": "Bern"}'),
        ("call_b", "function", "weather", '{"city": "Wien"}'),
    ]
    request: Any = server.script.requests[0]
    assert (request.tools[0].name, request.tool_choice.mode, request.parallel_tool_calls) == ("weather", "required", True)


def test_streamed_tool_calls(server: Serving, client: OpenAI) -> None:
    server.answers(CALLS)
    with client.chat.completions.stream(model=MODEL, messages=said("?"), tools=[WEATHER]) as stream:
        message = stream.get_final_completion().choices[0].message
    calls: Any = message.tool_calls
    assert [call.function.arguments for call in calls] == ['{"city": "Bern"}', '{"city": "Wien"}']


def test_a_conversation_with_tools_goes_on(server: Serving, client: OpenAI) -> None:
    server.answers(CALLS)
    first = client.chat.completions.create(model=MODEL, messages=said("?"), tools=[WEATHER])
    calls: Any = first.choices[0].message.tool_calls
    messages: Any = [
        *said("?"),
        first.choices[0].message,
        *({"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls),
        *said("and now?"),
    ]
    again = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert again.choices[0].message.content == "and now?"
    request: Any = server.script.requests[1]
    assert [message.role for message in request.messages] == ["user", "assistant", "tool", "tool", "user"]
    assert request.messages[1].tool_calls[0].arguments == '{"city": "Bern"}'


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning(server: Serving, client: OpenAI, stream: bool) -> None:
    server.answers((ReasoningDelta("let me "), ReasoningDelta("think"), TextDelta("yes"), END))
    asked: Any = {"model": MODEL, "messages": said("?"), "reasoning_effort": "low"}
    if stream:
        deltas: list[Any] = [chunk.choices[0].delta for chunk in client.chat.completions.create(stream=True, **asked)]
        reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        text = "".join(delta.content or "" for delta in deltas)
    else:
        message: Any = client.chat.completions.create(**asked).choices[0].message
        reasoning, text = message.reasoning_content, message.content
    assert (reasoning, text) == ("let me think", "yes")
    request: Any = server.script.requests[0]
    assert request.reasoning_effort == "low"


def test_images_reach_the_engine(server: Serving, client: OpenAI) -> None:
    url = images.data_url(images.png())
    content: Any = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "what is it?"
    request: Any = server.script.requests[0]
    assert request.messages[0].parts[1] == ImagePart(images.png(), "image/png")


def test_the_models_loading_is_the_requests_to_say(server: Serving, client: OpenAI) -> None:
    client.chat.completions.create(
        model=MODEL, messages=said("x"), extra_body={"load": {"ctx_size": 64, "threads": 1}, "keep_alive": "forever"}
    )
    assert (server.script.started[0].ctx_size, server.script.started[0].threads) == (64, 1)
    assert server.app is not None
    residents = server.app.pool.residents()
    assert [resident.expires_at for resident in residents] == [None]


def test_keep_alive_0_unloads_at_once(server: Serving, client: OpenAI) -> None:
    client.chat.completions.create(model=MODEL, messages=said("x"), extra_body={"keep_alive": 0})
    server.until(lambda: server.script.num_closed == 1)


def test_fields_that_nobody_knows_are_reported(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=said("x"), extra_body={"n_discard": -1, "tfs": 1}
    )
    assert raw.headers["x-zhibei-ignored"] == "n_discard,tfs"
    stream = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=said("x"), stream=True, extra_body={"mystery": 1}
    )
    assert stream.headers["x-zhibei-ignored"] == "mystery"
    assert len(list(stream.parse())) > 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    ],
)
def test_what_cannot_be_is_a_400_in_openais_envelope(
    client: OpenAI, stream: bool, fields: dict[str, Any], param: str, code: str
) -> None:
    asked: Any = {"model": MODEL, "messages": said("x"), **fields}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(stream=stream, **asked)
    assert (caught.value.param, caught.value.code, caught.value.type) == (param, code, "invalid_request_error")


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_is_not_here_is_a_404(client: OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nowhere", messages=said("x"), stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ContextTooLong(500, 128), openai.BadRequestError, "context_length_exceeded"),
        (Busy("Full."), openai.InternalServerError, "busy"),
        (EngineRefused("It refused."), openai.InternalServerError, "engine_refused"),
    ],
)
def test_the_engines_errors_before_the_first_token_have_a_status(
    server: Serving, client: OpenAI, stream: bool, error: Any, kind: type[openai.APIStatusError], code: str
) -> None:
    server.answers((Fail(error),))
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=MODEL, messages=said("x"), stream=stream)
    assert caught.value.code == code


@pytest.mark.parametrize(("ctx_size", "hint"), [(64, "larger --ctx-size"), (128, "all the model was made for")])
def test_what_would_help_against_a_prompt_that_is_too_long(server: Serving, client: OpenAI, ctx_size: int, hint: str) -> None:
    server.answers((Fail(ContextTooLong(500, ctx_size)),))
    with pytest.raises(openai.BadRequestError, match=hint) as caught:
        client.chat.completions.create(model=MODEL, messages=said("x"))
    assert (
        caught.value.code == "context_length_exceeded"
        and f"500 tokens; this model was loaded with a context of {ctx_size}" in str(caught.value)
    )


def test_an_engine_that_dies_under_way_is_an_error_in_the_stream_and_the_next_request_works(
    server: Serving, client: OpenAI
) -> None:
    server.answers((TextDelta("half "), Fail(EngineDied("The engine died."))))
    texts = []
    with pytest.raises(openai.APIError, match="died"):
        for chunk in client.chat.completions.create(model=MODEL, messages=said("x"), stream=True):
            texts.append(chunk.choices[0].delta.content)
    assert texts == ["", "half "]
    assert client.chat.completions.create(model=MODEL, messages=said("again")).choices[0].message.content == "again"


def test_a_cut_stream_looks_cut_on_the_wire(server: Serving) -> None:
    server.answers((TextDelta("half "), Fail(EngineDied("The engine died."))), (TextDelta("x"), END))
    body = {"model": MODEL, "messages": said("x"), "stream": True}
    with httpx.Client(base_url=server.url) as client:
        text = client.post("/v1/chat/completions", json=body).text
        assert "[DONE]" not in text and '"finish_reason":"stop"' not in text
        assert text.endswith("\n\n") and '{"error":{"message":"The engine died."' in text.split("data: ")[-1]
        assert client.post("/v1/chat/completions", json=body).text.endswith("data: [DONE]\n\n")


def test_a_browsers_stream_is_not_kept_or_buffered(start: Callable[..., Serving]) -> None:
    server = start()
    body = {"model": MODEL, "messages": said("x"), "stream": True}
    headers = httpx.post(server.url + "/v1/chat/completions", json=body).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
