"""A message's events where an engine's answer is odd."""

from __future__ import annotations

import pytest

from zhibei.errors import EngineRefused
from zhibei.events import Finished, FinishReason, GenerationEvent, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from zhibei.server.anthropic.replies import Head, MessageEvents


def made(*events: GenerationEvent, reason: FinishReason = "stop", head: Head = Head("m", 10)) -> MessageEvents:
    encoder = MessageEvents(head)
    for event in (*events, Finished((reason,), Usage(1, 10))):
        encoder.event(event)
    return encoder


def test_an_answer_of_nothing_has_no_block() -> None:
    final = made().final
    assert final is not None and final["content"] == [] and final["stop_reason"] == "end_turn"


def test_a_call_that_was_cut_has_no_arguments() -> None:
    final = made(ToolCallDelta(0, '{"city": "Be', "a", "weather"), reason="length").final
    assert final is not None and final["content"][0]["input"] == {} and final["stop_reason"] == "max_tokens"


def test_a_call_without_arguments_is_an_empty_object() -> None:
    final = made(ToolCallDelta(0, "", "a", "now"), reason="tool_calls").final
    assert final is not None and final["content"][0]["input"] == {} and final["stop_reason"] == "tool_use"


def test_text_around_calls_keeps_its_place() -> None:
    final = made(TextDelta("a"), ToolCallDelta(0, "[1]", "a", "f"), TextDelta("b"), ToolCallDelta(1, "{}", "b", "g")).final
    assert final is not None
    assert [block["type"] for block in final["content"]] == ["text", "tool_use", "text", "tool_use"]
    assert final["stop_reason"] == "tool_use" and final["content"][1]["input"] == {}


def test_a_call_that_goes_on_after_its_end_cannot_be_said() -> None:
    with pytest.raises(EngineRefused):
        made(ToolCallDelta(0, "{", "a", "f"), ToolCallDelta(1, "{", "b", "f"), ToolCallDelta(0, "}"))


def test_thoughts_that_nobody_wants_are_only_counted() -> None:
    final = made(ReasoningDelta("hm"), TextDelta("yes")).final
    assert final is not None and [block["type"] for block in final["content"]] == ["text"]
    assert final["usage"]["output_tokens_details"] == {"thinking_tokens": 1}
