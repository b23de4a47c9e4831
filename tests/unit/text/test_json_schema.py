"""Which schemas pass, what is said of those that do not, and what is reported as not enforced."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from zhibei.errors import BadRequest, Unsupported
from zhibei.text.json_limits import find_excess
from zhibei.text.json_pattern import check_pattern
from zhibei.text.json_schema import check_schema, unenforced

Schema = dict[str, Any]


def deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


LINKED_LIST: Schema = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
}

GOOD: dict[str, Schema] = {
    "empty": {},
    "any object": {"type": "object"},
    "person": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Person",
        "description": "someone",
        "type": "object",
        "properties": {
            "姓名": {"type": "string", "minLength": 1, "maxLength": 2000, "description": "full name"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150, "default": 18},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1999},
            "born": {"type": "string", "format": "date"},
            "kind": {"enum": ["a", "b", None, 3]},
            "version": {"const": 1},
            "married": {"type": ["boolean", "null"]},
            "score": {"type": "number"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"},
        },
        "required": ["姓名", "age"],
        "additionalProperties": False,
    },
    "linked list": LINKED_LIST,
    "tree": {"type": "array", "items": {"$ref": "#/$defs/T"}, "$defs": {"T": {"type": "array", "items": {"$ref": "#/$defs/T"}}}},
    "reference into properties": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"$ref": "#/properties/a"}}},
    "reference into a list": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/anyOf/0"}}]},
    "optional by pydantic": {
        "type": "object",
        "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}},
    },
    "allOf by pydantic 1": {
        "type": "object",
        "properties": {"a": {"title": "A", "allOf": [{"$ref": "#/definitions/E"}]}},
        "definitions": {"E": {"enum": ["x", "y"]}},
    },
    "joined objects": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "string"}}},
        ]
    },
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "open object": {"type": "object", "properties": {"first-name": {}}, "additionalProperties": True},
    "JavaScript's integers": {"type": "integer", "minimum": -(2**53 - 1), "maximum": 2**53 - 1},
    "list of types": {"type": ["string", "integer"], "minLength": 2, "minimum": 3},
    "depth 64": {"default": deep(63)},
    "1000 enum values": {"enum": list(range(1000))},
    "256 alternatives": {"anyOf": [{"const": number} for number in range(256)]},
    "annotations": {
        "type": "string",
        "examples": ["a"],
        "deprecated": True,
        "readOnly": True,
        "x-mine": {"any": ["thing"]},
        "$comment": "c",
    },
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("use", ["chat", "tool", "completion"])
def test_good_schema(name: str, use: Any) -> None:
    before = copy.deepcopy(GOOD[name])
    check_schema(GOOD[name], param="x", use=use)
    assert GOOD[name] == before
    assert unenforced(GOOD[name]) == ()


@pytest.mark.parametrize(
    "pattern",
    [
        "^$",
        "^abc$",
        "^[a-z]+$",
        "^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
        "^(?:[a-z0-9]+(?:-[a-z0-9]+)*)$",
        "^(a|b)?c{2,}$",
        "^a|b$",
        "^(a|)$",
        "^\\+?[0-9]+(\\.[0-9]+)?$",
        '^[^"\\\\\\x00-\\x1f]*$',
        "^中文[一-龥]{2}$",
        "^[é]+$",
        "^(?:é)+$",
        "^\\u4e2d\\x41\\-\\$\\^\\[\\]$",
        "^[a\\-z\\]\\[+-]$",
        "^[-a]$",
        "^ab{2}$",
        "^[a-z]\\.{3}$",
        "^(a{1,40}){1,40}$",
        "^" + "a?" * 32 + "$",
        "^" + "(" * 32 + "a" + ")" * 32 + "$",
        "^" + "[a-z]{1,2000}" * 3 + "$",
        "^/path:to,x;y@z#1<2>&%!'~`=_ $",
    ],
)
def test_good_pattern(pattern: str) -> None:
    assert check_pattern(pattern) is None
    check_schema({"type": "string", "pattern": pattern}, param="x", use="completion")


@pytest.mark.parametrize(
    ("schema", "problem", "path"),
    [
        ({"type": "strin"}, "a type is not known", "#/type"),
        ({"type": []}, "a type is not known", "#/type"),
        ({"type": ["string", "string"]}, "different texts", "#/type"),
        ({"type": None}, "not a text", "#/type"),
        ({"type": ["string", {"type": "null"}]}, "not a text", "#/type"),
        ({"properties": {"a": True}}, "true and false", "#/properties/a"),
        ({"type": "array", "items": False}, "true and false", "#/items"),
        ({"properties": {"a": {"items": {"type": "x"}}}}, "a type is not known", "#/properties/a/items/type"),
        ({"type": "object", "properties": []}, "properties is not an object", "#/properties"),
        ({"type": "object", "additionalProperties": 1}, "a schema is not an object", "#/additionalProperties"),
        ({"type": "object", "properties": {"a": {}}, "required": "a"}, "required is not a list", "#/required"),
        ({"type": "object", "properties": {"a": {}}, "required": [1]}, "required is not a list", "#/required"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "'b' is required but", "#/required"),
        ({"anyOf": []}, "anyOf is not a list", "#/anyOf"),
        ({"oneOf": {}}, "oneOf is not a list", "#/oneOf"),
        ({"anyOf": [{}, 1]}, "a schema is not an object", "#/anyOf/1"),
        ({"enum": []}, "enum is not a list", "#/enum"),
        ({"enum": "a"}, "enum is not a list", "#/enum"),
        ({"type": "string", "const": 1}, "no value is both", "#"),
        ({"type": "integer", "enum": ["a", 1.5, True]}, "no value is both", "#"),
        ({"type": ["object", "null"], "enum": ["a"]}, "no value is both", "#"),
        ({"type": "string", "minLength": -1}, "minLength is not a whole number", "#/minLength"),
        ({"type": "string", "maxLength": True}, "maxLength is not a whole number", "#/maxLength"),
        ({"type": "array", "minItems": 1.0}, "minItems is not a whole number", "#/minItems"),
        ({"type": "array", "maxItems": "3"}, "maxItems is not a whole number", "#/maxItems"),
        ({"type": "array", "items": [{}], "minItems": 2}, "number of items is fixed", "#"),
        ({"type": "string", "pattern": 1}, "pattern is not a text", "#/pattern"),
        ({"type": "string", "format": 1}, "format is not a text", "#/format"),
        ({"type": "integer", "minimum": "1"}, "minimum is not a number", "#/minimum"),
        ({"type": "integer", "exclusiveMinimum": True}, "exclusiveMinimum is not a number", "#/exclusiveMinimum"),
        ({"type": "integer", "maximum": 2, "exclusiveMaximum": 2}, "both given", "#/exclusiveMaximum"),
        ({"type": "integer", "minimum": -5, "exclusiveMinimum": 0}, "both given", "#/exclusiveMinimum"),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, "exclusiveMinimum is not a number", "#/exclusiveMinimum"),
        ({"allOf": [{"type": "string"}]}, "allOf may only join", "#/allOf"),
        ({"allOf": [{"enum": ["a"]}, {"enum": ["b"]}]}, "no value is in all enums", "#/allOf"),
        ({"allOf": [{"properties": {"a": {}}}, {"properties": {"a": {}}}]}, "described twice", "#/allOf"),
        ({"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {}}]}, "is closed", "#/allOf"),
        ({"properties": {"a]": {}}, "additionalProperties": {}}, "cannot be kept apart", "#/properties"),
    ],
)
def test_wrong_schema(schema: Schema, problem: str, path: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_schema(schema, param="format.schema")
    assert problem in str(caught.value)
    assert str(caught.value).endswith(f"(at {path}).")
    assert caught.value.param == "format.schema"
    assert not isinstance(caught.value, Unsupported)


def test_a_bound_given_twice_is_kept_where_the_first_is_narrower_and_told_of_for_tools() -> None:
    for narrower in ({"minimum": 1, "exclusiveMinimum": 0}, {"maximum": 1, "exclusiveMaximum": 2}):
        check_schema({"type": "integer", **narrower}, param="format.schema")
        assert unenforced({"type": "integer", **narrower}) == ()
    # As libraries write "a positive whole number".
    positive = {"type": "integer", "minimum": -(2**53) + 1, "exclusiveMinimum": 0, "maximum": 2**53 - 1}
    check_schema(positive, param="tools", use="tool")
    assert unenforced(positive) == ("#/exclusiveMinimum",)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"$ref": "#/$defs/A", "properties": {"a": {}}, "$defs": {"A": {"type": "object"}}}, "#/properties"),
        ({"anyOf": [{"required": ["a"]}], "type": "object", "properties": {"a": {}}}, "#/properties"),
        ({"oneOf": [{"type": "string"}], "anyOf": [{"type": "string"}]}, "#/anyOf"),
        ({"type": "object", "properties": {"a": {}}, "allOf": [{"properties": {"b": {}}}]}, "#/allOf"),
        ({"const": 1, "enum": [1, 2]}, "#/enum"),
    ],
)
def test_shape_that_would_be_lost(schema: Schema, path: str) -> None:
    with pytest.raises(Unsupported) as caught:
        check_schema(schema, param="x")
    assert str(caught.value).endswith(f"(at {path}).")
    check_schema(schema, param="x", use="tool")
    assert path in unenforced(schema)


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ({"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.5}, ("#/minimum", "#/maximum", "#/multipleOf")),
        ({"type": "integer", "multipleOf": 5}, ("#/multipleOf",)),
        ({"type": "integer", "minimum": 1050}, ("#/minimum",)),
        ({"type": "integer", "minimum": 99}, ()),
        ({"type": "array", "items": {}, "uniqueItems": True}, ("#/uniqueItems",)),
        ({"type": "array", "items": {}, "uniqueItems": False, "minItems": 0}, ()),
        ({"type": "object", "properties": {}, "additionalProperties": True, "minProperties": 1}, ("#/minProperties",)),
        ({"type": "object", "required": ["a"]}, ("#/required",)),
        ({"properties": {"a": {"not": {}}}}, ("#/properties/a/not",)),
        ({"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "number", "minimum": 1}}}, ("#/$defs/A/minimum",)),
        ({"type": "string", "pattern": "^a$", "minLength": 1}, ("#/minLength",)),
        ({"type": "string", "format": "date", "minLength": 1}, ("#/minLength",)),
        ({"type": "string", "format": "email"}, ()),
        ({"type": "string", "maxLength": 5000}, ("#/maxLength",)),
        ({"type": "array", "maxItems": 2**31 - 1}, ("#/maxItems",)),
        ({"if": {}, "then": {}, "else": {}}, ("#/if", "#/then", "#/else")),
        ({"patternProperties": {"^a$": {}}, "propertyNames": {}}, ("#/patternProperties", "#/propertyNames")),
    ],
)
def test_unenforced(schema: Schema, paths: tuple[str, ...]) -> None:
    assert unenforced(schema) == paths


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {}, "uniqueItems": True},
        {"type": "number", "minimum": 1},
        {"oneOf": [{"type": "string"}, {"type": "null"}]},
        {"type": "string", "format": "uri"},
        {"$schema": "http://example.com/own"},
        {"$ref": "#/$defs/人", "$defs": {"人": {"type": "string"}}},
    ],
)
def test_raw_text_is_held_to_all_of_a_schema_or_none(schema: Schema) -> None:
    """llguidance, which constrains raw text, drops a schema whole if it does not know a part of it."""
    check_schema(schema, param="x")
    with pytest.raises(Unsupported):
        check_schema(schema, param="x", use="completion")


def test_path_is_short_and_printable() -> None:
    with pytest.raises(BadRequest) as caught:
        check_schema({"properties": {"\x1b[2J{x}" + "y" * 400: {"type": "z"}}}, param="x")
    assert "\x1b" not in str(caught.value) and "{x}" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_hint() -> None:
    with pytest.raises(Unsupported) as caught:
        check_schema({"type": "string", "pattern": "^\\d{3}$"}, param="x")
    assert caught.value.hint_text == "Write [0-9]."
    with pytest.raises(Unsupported) as caught:
        check_schema({"type": "string", "pattern": "^a{x}$"}, param="x")
    assert caught.value.hint_text == "Write \\{ for the character itself."


def test_excess() -> None:
    assert find_excess([1, "a", None, {"b": [2.5, True]}], max_depth=3, max_size_bytes=100) is None
    assert find_excess([[[[]]]], max_depth=3, max_size_bytes=100) == "it is nested more than 3 deep"
    assert find_excess(["x" * 3000], max_depth=3, max_size_bytes=2048) == "it is larger than 2 KiB"
    for value in (object(), float("inf"), 2**64, "\ud800", {1: 2}, b""):
        assert "not JSON" in str(find_excess([value], max_depth=3, max_size_bytes=100))
