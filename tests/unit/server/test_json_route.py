from __future__ import annotations

import pytest

from zhibei.errors import BadRequest
from zhibei.server.json_route import param_of, parse_json


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, "é", null, true]}', '"\\ud83d\\ude00"', "{}", "[" * 200 + "]" * 200])
def test_json_is_read(text: str) -> None:
    parse_json(text.encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"\xff\xfe{}",
        b'"\xc3"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"9" * 30,
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b"[" * 300 + b"]" * 300,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'"\x00"',
        "{}".encode("utf-16"),
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_not_json_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(BadRequest, match="JSON"):
        parse_json(data)


@pytest.mark.parametrize(
    ("location", "param"),
    [
        (("body",), None),
        (("body", "n"), "n"),
        (("body", "messages", 0, "content", "str"), "messages[0].content"),
        (("body", "messages", 0, "content", "list[ContentPart]", 1, "type"), "messages[0].content[1].type"),
        (("body", "tool_choice", "NamedTool", "function", "name"), "tool_choice.function.name"),
    ],
)
def test_a_place_in_the_body_is_named_as_its_writer_knows_it(location: tuple[object, ...], param: str | None) -> None:
    assert param_of(location) == param


def test_a_body_of_countless_small_values_is_not_read() -> None:
    for data in (b"[" + b"[]," * 2_000_000 + b"1]", b"[" + b"1," * 1_000_001 + b"1]", b"{" * 1_000_001):
        with pytest.raises(BadRequest, match="too many values"):
            parse_json(data)
    parse_json(b'"' + b"x" * (16 << 20) + b'"')
    parse_json(b"[" + b"1," * 500_000 + b"1]")
