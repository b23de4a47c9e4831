"""Items to messages: which belong to one turn, and what is thought in it."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from zhibei.chat import Message, TextPart, ToolCall
from zhibei.errors import BadRequest
from zhibei.server.openai.responses import translate
from zhibei.server.openai.responses.schema import ResponseBody
from zhibei.server.sealing import sealed, unsealed


def messages(*items: dict[str, Any], **fields: Any) -> tuple[Message, ...]:
    body = ResponseBody.model_validate({"model": "m", "input": list(items), **fields})
    numbers = count()
    found = translate.input_items(body, new_id=lambda prefix: f"{prefix}{next(numbers)}", find=lambda name: None)
    return translate.chat_request(body, found, {}).messages


def call(number: int) -> dict[str, Any]:
    return {"type": "function_call", "name": "f", "arguments": "{}", "call_id": f"c{number}"}


def output(number: int) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": "done"}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text, "annotations": []}]}


USER = {"role": "user", "content": "hi"}


def test_a_turn_is_one_message() -> None:
    found = messages(USER, thought("hm"), said("I look."), call(1), call(2), output(1), output(2), thought("so"), said("Done."))
    assert [message.role for message in found] == ["user", "assistant", "tool", "tool", "assistant"]
    calls = (ToolCall("c1", "f", "{}"), ToolCall("c2", "f", "{}"))
    assert found[1] == Message("assistant", (TextPart("I look."),), reasoning="hm", tool_calls=calls)
    assert found[4] == Message("assistant", (TextPart("Done."),), reasoning="so")


def test_thoughts_without_an_answer_are_left_out() -> None:
    (turn,) = messages(USER, thought("hm"), {"role": "user", "content": "again"})
    assert (turn.role, turn.text, turn.reasoning) == ("user", "hi\n\nagain", None)


def test_a_new_thought_or_text_after_calls_begins_a_turn() -> None:
    found = messages(USER, call(1), said("and"), thought("hm"), call(2))
    assert [(message.text, len(message.tool_calls), message.reasoning) for message in found[1:]] == [
        ("", 1, None),
        ("and", 0, None),
        ("", 1, "hm"),
    ]


def test_the_systems_first_messages_are_one() -> None:
    developer = {"role": "developer", "content": [{"type": "input_text", "text": "two"}]}
    found = messages(developer, USER, developer, instructions="one")
    assert [(message.role, message.text) for message in found] == [("system", "one\n\ntwo"), ("user", "hi\n\ntwo")]


def test_thoughts_come_back_in_full_sealed_or_summed_up() -> None:
    forms: list[dict[str, Any]] = [
        thought("all"),
        {"type": "reasoning", "summary": [], "encrypted_content": sealed("all")},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "all"}], "encrypted_content": "somebody else's"},
    ]
    for form in forms:
        assert messages(USER, form, said("yes"))[1].reasoning == "all"
    assert unsealed(sealed("ü 你")) == "ü 你" and unsealed("AAAA") is None and unsealed("?") is None


@pytest.mark.parametrize(
    "item", [{"role": "assistant", "content": [{"type": "input_image", "image_url": "data:x"}]}, {"id": "x"}]
)
def test_what_makes_no_sense_is_refused(item: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        messages(USER, item)
