"""What of a JSON schema cannot be enforced is told, and what tools may say is wider than what an answer may be held to."""

from __future__ import annotations

import pytest

from zhibei.chat import ResponseFormat
from zhibei.errors import BadRequest
from zhibei.server.openai import schema, translate
from zhibei.server.reported import unenforced_conditions

MESSAGES = [{"role": "user", "content": "hi"}]
ODD = {"type": "object", "properties": {"n": {"type": "number", "minimum": 3}}, "required": ["n"]}


def test_a_condition_no_engine_keeps_is_named() -> None:
    (path,) = unenforced_conditions(ResponseFormat("json_schema", ODD))
    assert path.endswith("minimum") and path.isascii()
    assert unenforced_conditions(ResponseFormat()) == ()


def test_tools_may_have_patterns_that_answers_may_not() -> None:
    loose = {"type": "object", "properties": {"id": {"type": "string", "pattern": r"^\d+$"}}}
    tool = {"type": "function", "function": {"name": "get", "parameters": loose}}
    request = translate.chat_request(schema.ChatBody.model_validate({"model": "m", "messages": MESSAGES, "tools": [tool]}))
    assert request.tools[0].parameters == loose
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": loose}}
    with pytest.raises(BadRequest) as caught:
        translate.chat_request(schema.ChatBody.model_validate({"model": "m", "messages": MESSAGES, "response_format": wanted}))
    assert caught.value.param is not None and caught.value.param.startswith("response_format")
