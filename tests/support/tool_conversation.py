"""A conversation that a very small model continues with a tool call: it has seen four already."""

from __future__ import annotations

import json
from pathlib import Path

from zhibei.chat import Message, Tool, ToolCall

TEMPLATE = (Path(__file__).parent / "tools_template.jinja").read_text(encoding="utf-8")
WEATHER = Tool(
    "get_weather", "Weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)


def conversation(last: str = "Paris") -> tuple[Message, ...]:
    """Four questions answered by a tool, and a fifth to be answered."""
    messages: list[Message] = []
    for number, city in enumerate(("Rome", "Oslo", "Tokyo", "Lima")):
        call = ToolCall(f"call_{number}", "get_weather", json.dumps({"city": city}))
        messages.append(Message.of("user", f"Weather in {city}?"))
        messages.append(Message("assistant", tool_calls=(call,)))
        messages.append(Message("tool", Message.of("tool", "sunny").parts, tool_call_id=call.id))
        messages.append(Message.of("assistant", "sunny"))
    return (*messages, Message.of("user", f"Weather in {last}?"))
