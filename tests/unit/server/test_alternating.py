"""Conversations for templates that take turns in strict order only."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from zhibei.chat import ImagePart, Message, Role, TextPart, ToolCall
from zhibei.server.alternating import alternating

IMAGE = ImagePart(b"x", "image/png")
ROLES: list[Role] = ["system", "user", "assistant", "tool"]


def told(*messages: tuple[Role, str]) -> list[tuple[Role, str]]:
    return [(each.role, each.text) for each in alternating(Message.of(role, text) for role, text in messages)]


def test_what_begins_it_is_one_and_what_the_system_says_later_the_user_says() -> None:
    found = told(
        ("system", "a"), ("system", "b"), ("user", "c"), ("system", "d"), ("user", "e"), ("assistant", "f"), ("system", "g")
    )
    assert found == [("system", "a\n\nb"), ("user", "c\n\nd\n\ne"), ("assistant", "f"), ("user", "g")]


def test_calls_and_what_tools_gave_back_stay_as_they_are() -> None:
    calls = tuple(Message("assistant", tool_calls=(ToolCall(str(number), "f", "{}"),), reasoning="hm") for number in range(2))
    results = tuple(Message("tool", (TextPart("r"),), tool_call_id=str(number)) for number in range(2))
    whole = (Message.of("user", "a"), *calls, *results)
    assert alternating(whole) == whole


def test_images_stand_where_they_stood() -> None:
    (found,) = alternating(
        [Message("user", (TextPart("a"), IMAGE)), Message("user", (IMAGE, TextPart("b"))), Message.of("user", "c")]
    )
    assert found.parts == (TextPart("a"), IMAGE, IMAGE, TextPart("b"), TextPart("\n\n"), TextPart("c"))


@given(st.lists(st.tuples(st.sampled_from(ROLES), st.text("ab", min_size=1, max_size=3)), max_size=12))
def test_the_system_is_first_or_silent_and_nothing_is_lost(messages: list[tuple[Role, str]]) -> None:
    found = told(*messages)
    assert "".join(text for _, text in messages) == "".join(text.replace("\n\n", "") for _, text in found)
    assert not any(role == "system" for role, _ in found[1:])
    assert not any(one[0] == next_one[0] == "user" for one, next_one in pairwise(found))
    assert told(*found) == found
