"""What is kept of responses: for whom, for how long, and how much."""

from __future__ import annotations

from typing import Any

from zhibei.server.openai.responses.kept import KeptResponses
from zhibei.server.openai.responses.schema import Item


def body(number: int, text: str = "x") -> dict[str, Any]:
    part = {"type": "output_text", "text": text}
    return {
        "id": f"resp_{number}",
        "output": [{"type": "message", "id": f"msg_{number}", "role": "assistant", "content": [part]}],
    }


def given(text: str = "hi") -> tuple[Item, ...]:
    return (Item.model_validate({"type": "message", "id": "msg_in", "role": "user", "content": text}),)


def test_a_response_belongs_to_its_caller() -> None:
    kept = KeptResponses()
    kept.keep("ann", body(1), given())
    found = kept.find("ann", "resp_1")
    assert found is not None and [item.id for item in found.items] == ["msg_in", "msg_1"]
    assert kept.find("bob", "resp_1") is None and not kept.drop("bob", "resp_1") and not kept.items_of("bob")
    assert set(kept.items_of("ann")) == {"msg_in", "msg_1"}
    assert kept.drop("ann", "resp_1") and kept.find("ann", "resp_1") is None and not kept.drop("ann", "resp_1")


def test_it_is_kept_for_a_while() -> None:
    now = [0.0]
    kept = KeptResponses(ttl_s=10, clock=lambda: now[0])
    kept.keep("", body(1), given())
    now[0] = 9.9
    kept.keep("", body(2), given())
    assert kept.find("", "resp_1") is not None
    now[0] = 10.0
    assert kept.find("", "resp_1") is None and kept.find("", "resp_2") is not None


def test_the_oldest_give_way_to_number_and_size() -> None:
    kept = KeptResponses(max_responses=2)
    for number in range(3):
        kept.keep("", body(number), given())
    assert [kept.find("", f"resp_{number}") is not None for number in range(3)] == [False, True, True]
    small = KeptResponses(max_bytes=3000)
    for number in range(3):
        small.keep("", body(number, "y" * 1000), given())
    assert [small.find("", f"resp_{number}") is not None for number in range(3)] == [False, True, True]
    small.keep("", body(9), given("z" * 4000))
    assert small.find("", "resp_9") is None and small.find("", "resp_2") is not None
    assert small.drop("", "resp_1") and small.drop("", "resp_2")
    small.keep("", body(4, "y" * 2000), given())
    assert small.find("", "resp_4") is not None
