"""Events to OpenAI's replies, to the letter."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest

from zhibei.chat import Embeddings, TokenLogprob
from zhibei.events import Finished, GenerationEvent, ReasoningDelta, TextDelta, Timings, ToolCallDelta, Usage
from zhibei.server.openai import replies
from zhibei.server.openai.replies import ChatChunks, CompletionChunks, Head, Whole

HEAD = Head("chatcmpl-1", 1700000000, "m:latest")
COMMON = {"id": "chatcmpl-1", "created": 1700000000, "model": "m:latest", "system_fingerprint": replies.FINGERPRINT}
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2}}
END = Finished(("stop",), Usage(5, 3, 2))
TIMED = Finished(("stop",), Usage(5, 3, 2), Timings(3, 0.5, 3, 0.25, 2))
TIMINGS = {
    "cache_n": 2,
    "prompt_n": 3,
    "prompt_ms": 500.0,
    "prompt_per_second": 6.0,
    "predicted_n": 3,
    "predicted_ms": 250.0,
    "predicted_per_second": 12.0,
}
LOGPROB = TokenLogprob("é", -0.5, "é".encode(), 7, (TokenLogprob("é", -0.5, "é".encode(), 7), TokenLogprob("e", -1.0, b"e", 8)))


def chunks(data: bytes) -> list[dict[str, Any]]:
    assert data.endswith(b"\n\n")
    events = data[:-2].split(b"\n\n")
    assert all(event.startswith(b"data: ") for event in events)
    return [orjson.loads(event[6:]) for event in events]


def streamed(encoder: Any, *events: GenerationEvent) -> list[dict[str, Any]]:
    return chunks(b"".join(map(encoder.event, events)))


async def stream_of(*events: GenerationEvent) -> AsyncGenerator[GenerationEvent, None]:
    for event in events:
        yield event


async def whole_chat(*events: GenerationEvent, head: Head = HEAD) -> Any:
    return orjson.loads(await Whole(head).chat(stream_of(*events)))


async def whole_completion(*events: GenerationEvent, head: Head = HEAD) -> Any:
    return orjson.loads(await Whole(head).completion(stream_of(*events)))


def chat_chunk(delta: Any, reason: str | None = None, *, index: int = 0, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return {**COMMON, "object": "chat.completion.chunk", "choices": [choice]}


def text_chunk(text: str, reason: str | None = None, *, index: int = 0, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
    return {**COMMON, "object": "text_completion", "choices": [choice]}


ROLE = {"role": "assistant", "content": "", "refusal": None}


def test_a_streamed_chat() -> None:
    found = streamed(ChatChunks(HEAD), TextDelta('He said "hi"\n'), TextDelta("你好 🙂"), END)
    assert found == [
        chat_chunk(ROLE),
        chat_chunk({"content": 'He said "hi"\n'}),
        chat_chunk({"content": "你好 🙂"}),
        chat_chunk({}, "stop"),
    ]


def test_usage_comes_last_and_is_null_before() -> None:
    encoder = ChatChunks(Head("chatcmpl-1", 1700000000, "m:latest", include_usage=True))
    found = streamed(encoder, TextDelta("a"), TextDelta("b"), TIMED)
    assert [chunk["usage"] for chunk in found] == [None, None, None, None, USAGE]
    assert found[-1] == {**COMMON, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
    assert [chunk.get("timings") for chunk in found] == [None, None, None, TIMINGS, None]


def test_timings_are_in_the_last_chunk_of_a_choice() -> None:
    assert streamed(ChatChunks(HEAD), TIMED)[-1]["timings"] == TIMINGS
    assert streamed(CompletionChunks(HEAD), TIMED)[-1]["timings"] == TIMINGS


def test_a_streamed_answer_without_text_still_names_its_role() -> None:
    assert streamed(ChatChunks(HEAD), END) == [chat_chunk(ROLE), chat_chunk({}, "stop")]


def test_streamed_choices_are_told_apart() -> None:
    encoder = ChatChunks(Head("chatcmpl-1", 1700000000, "m:latest", num_choices=2))
    found = streamed(
        encoder, TextDelta("a", 1), TextDelta("b", 0), TextDelta("c", 1), Finished(("stop", "length"), Usage(5, 3, 2))
    )
    assert found == [
        chat_chunk(ROLE, index=1),
        chat_chunk({"content": "a"}, index=1),
        chat_chunk(ROLE),
        chat_chunk({"content": "b"}),
        chat_chunk({"content": "c"}, index=1),
        chat_chunk({}, "stop"),
        chat_chunk({}, "length", index=1),
    ]


def test_streamed_reasoning_and_tool_calls() -> None:
    events = (
        ReasoningDelta("hm"),
        ToolCallDelta(0, "", "call_1", "weather"),
        ToolCallDelta(0, '{"city":'),
        ToolCallDelta(1, "{}", "call_2", "time"),
        Finished(("tool_calls",), Usage(5, 3, 2)),
    )
    assert [chunk["choices"][0]["delta"] for chunk in streamed(ChatChunks(HEAD), *events)] == [
        ROLE,
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}}]},
        {},
    ]


def test_streamed_logprobs() -> None:
    top = [
        {"token": "é", "logprob": -0.5, "bytes": [195, 169], "id": 7},
        {"token": "e", "logprob": -1.0, "bytes": [101], "id": 8},
    ]
    content = [{"token": "é", "logprob": -0.5, "bytes": [195, 169], "id": 7, "top_logprobs": top}]
    wanted = chat_chunk({"content": "é"}, logprobs={"content": content, "refusal": None})
    assert streamed(ChatChunks(HEAD), TextDelta("é", 0, (LOGPROB,)))[1] == wanted


def test_marks() -> None:
    for encoder in (ChatChunks(HEAD), CompletionChunks(HEAD)):
        assert encoder.end() == b"data: [DONE]\n\n"
        assert encoder.failure(b'{"error":{}}') == b'data: {"error":{}}\n\n'
        assert encoder.idle().startswith(b":") and encoder.idle().endswith(b"\n\n")
        assert encoder.media_type == b"text/event-stream; charset=utf-8"


async def test_a_whole_chat() -> None:
    assert await whole_chat(TextDelta("a "), TextDelta("b"), TIMED) == {
        **COMMON,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "a b", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
        "timings": TIMINGS,
    }


async def test_a_whole_chat_with_reasoning_and_tool_calls() -> None:
    found = await whole_chat(
        ReasoningDelta("h"),
        ReasoningDelta("m"),
        ToolCallDelta(1, "{}", "call_2", "time"),
        ToolCallDelta(0, "{", "call_1", "weather"),
        ToolCallDelta(0, "}"),
        Finished(("tool_calls",), Usage(5, 3, 2)),
    )
    choice = found["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
    }


async def test_an_empty_answer_is_text_not_null() -> None:
    assert (await whole_chat(END))["choices"][0]["message"]["content"] == ""


async def test_whole_choices_and_logprobs() -> None:
    head = Head("chatcmpl-1", 1700000000, "m:latest", num_choices=2)
    events = (TextDelta("a", 1, (LOGPROB,)), TextDelta("b", 0), Finished(("stop", "length"), Usage(5, 3, 2)))
    choices = (await whole_chat(*events, head=head))["choices"]
    assert [(each["index"], each["message"]["content"], each["finish_reason"]) for each in choices] == [
        (0, "b", "stop"),
        (1, "a", "length"),
    ]
    assert choices[0]["logprobs"] is None and choices[1]["logprobs"]["content"][0]["token"] == "é"


def test_a_streamed_completion() -> None:
    found = streamed(CompletionChunks(HEAD), TextDelta("a"), ReasoningDelta("not of a completion"), TextDelta("b"), END)
    assert found == [text_chunk("a"), text_chunk("b"), text_chunk("", "stop")]


def test_a_streamed_completions_logprobs_count_on() -> None:
    found = streamed(CompletionChunks(HEAD), TextDelta("é", 0, (LOGPROB,)), TextDelta("é", 0, (LOGPROB,)))
    assert found[1] == text_chunk(
        "é", logprobs={"tokens": ["é"], "token_logprobs": [-0.5], "top_logprobs": [{"é": -0.5, "e": -1.0}], "text_offset": [1]}
    )


async def test_a_whole_completion() -> None:
    found = await whole_completion(TextDelta("a", 0, (LOGPROB,)), TextDelta("é", 0, (LOGPROB,)), END)
    assert found["object"] == "text_completion"
    assert found["usage"] == USAGE
    assert found["choices"] == [
        {
            "index": 0,
            "text": "aé",
            "logprobs": {
                "tokens": ["é", "é"],
                "token_logprobs": [-0.5, -0.5],
                "top_logprobs": [{"é": -0.5, "e": -1.0}] * 2,
                "text_offset": [0, 1],
            },
            "finish_reason": "stop",
        }
    ]


async def test_zhibei_itself_gets_a_completions_logprobs_in_full() -> None:
    head = Head("cmpl-1", 0, "m", own=True)
    found = await whole_completion(TextDelta("é", 0, (LOGPROB,)), END, head=head)
    assert found["choices"][0]["logprobs"]["content"][0]["bytes"] == [195, 169]


async def test_an_engine_that_measures_nothing_says_nothing() -> None:
    untimed = Finished(("stop",), Usage(5, 3, 2), Timings(3, 0.0, 3, 0.0))
    assert (await whole_chat(untimed))["timings"]["predicted_per_second"] is None
    assert "timings" not in await whole_chat(END)


@pytest.mark.parametrize("as_base64", [False, True])
def test_embeddings(as_base64: bool) -> None:
    vectors = ((0.5, -1.0), (2.0, 0.25))
    found = orjson.loads(replies.embeddings_body(Embeddings(vectors, 9), "m", as_base64=as_base64))
    got = [item.pop("embedding") for item in found["data"]]
    if as_base64:
        got = [list(struct.unpack("<2f", base64.b64decode(item))) for item in got]
    assert got == [list(vector) for vector in vectors]
    assert found == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0}, {"object": "embedding", "index": 1}],
        "model": "m",
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


def test_identifiers_have_their_prefix_and_differ() -> None:
    made = {replies.new_id("chatcmpl-") for _ in range(100)}
    assert len(made) == 100 and all(each.startswith("chatcmpl-") and len(each) == 37 for each in made)
