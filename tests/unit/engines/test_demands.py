"""A demand that cannot be met is an error that names the parameter, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from zhibei.chat import ChatRequest, CompletionRequest, ImagePart, Message, ResponseFormat, TextPart, Tool, ToolChoice
from zhibei.engines import demands
from zhibei.errors import BadRequest, Unsupported
from zhibei.plans import Ability

ALL: frozenset[Ability] = frozenset(
    ("chat", "complete", "infill", "embed", "rerank", "tokenize", "tools", "vision", "reasoning", "logprobs", "grammar")
)
HELLO = (Message.of("user", "Hello"),)
IMAGE = (Message("user", (TextPart("Look:"), ImagePart(b"", "image/png"))),)
TOOLS = (Tool("clock"), Tool("weather"))
JSON = ResponseFormat("json_object")


def chat(**changes: Any) -> ChatRequest:
    return ChatRequest(**{"messages": HELLO, **changes})


@pytest.mark.parametrize(
    ("request_", "ability", "param"),
    [
        (chat(), "chat", "messages"),
        (chat(tools=TOOLS), "tools", "tools"),
        (chat(tools=TOOLS, tool_choice=ToolChoice("required", "clock")), "tools", "tools"),
        (chat(response_format=JSON), "grammar", "response_format"),
        (chat(response_format=ResponseFormat("json_schema", {})), "grammar", "response_format"),
        (chat(top_logprobs=0), "logprobs", "logprobs"),
        (chat(messages=IMAGE), "vision", "messages"),
    ],
)
def test_chats(request_: ChatRequest, ability: Ability, param: str) -> None:
    demands.check_chat(request_, ALL, 1)
    with pytest.raises(Unsupported) as caught:
        demands.check_chat(request_, ALL - {ability}, 1)
    assert caught.value.param == param and str(caught.value)


@pytest.mark.parametrize(
    ("request_", "ability", "param"),
    [
        (CompletionRequest("x"), "complete", "prompt"),
        (CompletionRequest("x", response_format=JSON), "grammar", "response_format"),
        (CompletionRequest("x", top_logprobs=1), "logprobs", "logprobs"),
        (CompletionRequest("def f(", suffix=""), "infill", "suffix"),
    ],
)
def test_completions(request_: CompletionRequest, ability: Ability, param: str) -> None:
    demands.check_completion(request_, ALL, 1)
    with pytest.raises(Unsupported) as caught:
        demands.check_completion(request_, ALL - {ability}, 1)
    assert caught.value.param == param and str(caught.value)


def test_what_is_not_asked_for_is_not_needed() -> None:
    demands.check_chat(chat(), frozenset(("chat",)), 1)
    demands.check_chat(chat(tools=TOOLS, tool_choice=ToolChoice("none")), frozenset(("chat",)), 1)
    demands.check_completion(CompletionRequest("x"), frozenset(("complete",)), 1)


@pytest.mark.parametrize(
    "request_",
    [
        chat(tools=TOOLS, tool_choice=ToolChoice("required", "map")),
        chat(tool_choice=ToolChoice("required", "clock")),
        chat(tool_choice=ToolChoice("required")),
    ],
)
def test_a_tool_that_is_not_there_cannot_be_required(request_: ChatRequest) -> None:
    with pytest.raises(BadRequest) as caught:
        demands.check_chat(request_, ALL, 1)
    assert caught.value.param == "tool_choice" and str(caught.value)


def test_more_answers_than_slots() -> None:
    demands.check_chat(chat(num_choices=2), ALL, 2)
    demands.check_completion(CompletionRequest("x", num_choices=2), ALL, 2)
    for check, request in (
        (demands.check_chat, chat(num_choices=3)),
        (demands.check_completion, CompletionRequest("x", num_choices=3)),
    ):
        with pytest.raises(Unsupported) as caught:
            check(request, ALL, 2)  # type: ignore[operator]
        assert caught.value.param == "n" and "3" in str(caught.value)


def test_need() -> None:
    demands.need(ALL, "embed")
    with pytest.raises(Unsupported, match="rerank"):
        demands.need(ALL - {"rerank"}, "rerank")
