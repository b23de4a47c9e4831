"""Messages and tools of a template or token question to a chat request. Pure; only text can be counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from zhibei.chat import ChatRequest, Message, TextPart, Tool, ToolCall
from zhibei.errors import BadRequest, Unsupported
from zhibei.server.llama_server.schema import MessageBody


def chat_request(messages: Sequence[MessageBody], tools: Sequence[dict[str, Any]] = ()) -> ChatRequest:
    """The conversation.

    Raises:
        BadRequest: a message or tool makes no sense.
        Unsupported: it is no text.
    """
    return ChatRequest(
        messages=tuple(_message(message, f"messages[{number}]") for number, message in enumerate(messages)),
        tools=tuple(_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools)),
    )


def _message(body: MessageBody, param: str) -> Message:
    content = body.content
    if content is None and not (body.role == "assistant" and (body.tool_calls or body.reasoning_content)):
        raise BadRequest("{param} needs content.", param=f"{param}.content")
    if body.tool_calls and body.role != "assistant":
        raise BadRequest("Only the assistant makes tool calls.", param=f"{param}.tool_calls")
    pieces = [content] if isinstance(content, str) else [_text(part, f"{param}.content") for part in content or ()]
    return Message(
        role="system" if body.role == "developer" else body.role,
        parts=tuple(TextPart(piece) for piece in pieces),
        name=body.name,
        reasoning=body.reasoning_content,
        tool_calls=tuple(_call(call, f"{param}.tool_calls") for call in body.tool_calls or ()),
        tool_call_id=body.tool_call_id,
    )


def _text(part: dict[str, Any], param: str) -> str:
    if part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise Unsupported("Only parts of text can be used here.", param=param)


def _call(call: dict[str, Any], param: str) -> ToolCall:
    function = call.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise BadRequest("A tool call needs a function with a name.", param=param)
    arguments = function.get("arguments")
    return ToolCall(str(call.get("id") or ""), name, arguments if isinstance(arguments, str) else json.dumps(arguments or {}))


def _tool(tool: dict[str, Any], param: str) -> Tool:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise BadRequest("A tool needs a function with a name.", param=param)
    description, parameters = function.get("description"), function.get("parameters")
    return Tool(
        name,
        description if isinstance(description, str) else None,
        parameters if isinstance(parameters, dict) else None,
    )
