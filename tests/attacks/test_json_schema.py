"""JSON schemas that make an engine hang, fall or forget them (H-07, H-09 of the security checklist): refused, at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zhibei.errors import BadRequest, Unsupported
from zhibei.text.json_schema import MAX_SIZE_BYTES, check_schema, unenforced

Schema = dict[str, Any]
# An engine's own reader of schemas takes minutes for some of them.
pytestmark = pytest.mark.timeout(60)


def nested(depth: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def listed(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def doubled(depth: int) -> Schema:
    """Each level is written out twice by llama.cpp: once as object, once as string."""
    schema: Schema = {"type": "object"}
    for _ in range(depth):
        schema = {"type": ["object", "string"], "allOf": [schema]}
    return schema


def branching(depth: int) -> Schema:
    """Each level names the next one twice, in allOf, which is not kept as a rule of its own."""
    definitions: Schema = {f"n{depth}": {"type": "object"}}
    for level in range(depth):
        below = {"allOf": [{"$ref": f"#/$defs/n{level + 1}"}]}
        definitions[f"n{level}"] = {"type": "object", "properties": {"a": below, "b": below}}
    return {"$ref": "#/$defs/n0", "$defs": definitions}


def circle() -> Schema:
    """A Python dict that contains itself, as no JSON can."""
    schema: Schema = {"type": "object"}
    schema["properties"] = {"a": schema}
    return schema


def chain(length: int) -> Schema:
    definitions = {f"n{number}": {"$ref": f"#/$defs/n{(number + 1) % length}"} for number in range(length)}
    return {"$ref": "#/$defs/n0", "$defs": definitions}


ALL_OF_CIRCLE: Schema = {
    "$ref": "#/$defs/N",
    "$defs": {"N": {"type": "object", "properties": {"next": {"allOf": [{"$ref": "#/$defs/N"}]}}}},
}

HARMFUL: dict[str, object] = {
    "not an object": [],
    "a text": "{}",
    "null": None,
    "depth 65": nested(33),
    "depth 10,000": nested(10_000),
    "depth 100,000": {"default": listed(100_000)},
    "contains itself": circle(),
    "10^5 enum values": {"enum": list(range(100_000))},
    "1001 enum values": {"enum": list(range(1001))},
    "2001 enum values in all": {"anyOf": [{"enum": list(range(1000))}, {"enum": list(range(1000))}, {"enum": [1]}]},
    "64 KiB": {"description": "x" * MAX_SIZE_BYTES},
    "64 KiB of names": {"properties": {f"property{number}": {} for number in range(5000)}},
    "10^6 members": {"default": [None] * 1_000_000},
    "257 alternatives": {"anyOf": [{"const": number} for number in range(257)]},
    "257 optional properties": {"type": "object", "properties": {f"p{number}": {} for number in range(257)}},
    "minItems 10^9": {"type": "array", "minItems": 10**9},
    "maxItems 2^32": {"type": "array", "maxItems": 2**32},
    "minLength 2001": {"type": "string", "minLength": 2001},
    "lengths add up": {"type": "object", "properties": {f"p{n}": {"type": "string", "minLength": 2000} for n in range(101)}},
    "minLength over maxLength": {"type": "string", "minLength": 5, "maxLength": 3},
    "minItems over maxItems": {"type": "array", "minItems": 5, "maxItems": 3},
    "reference to itself": {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
    "chain of references": chain(500),
    "alternative is itself": {"$ref": "#/$defs/A", "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}}},
    "allOf is itself": {"$ref": "#/$defs/A", "$defs": {"A": {"allOf": [{"$ref": "#/$defs/A"}]}}},
    "allOf of itself further in": ALL_OF_CIRCLE,
    "2^16 copies by type": doubled(16),
    "2^28 copies by type": doubled(28),
    "2^40 copies by reference": branching(40),
    "minimum 10^16": {"type": "integer", "minimum": 10**16},
    "maximum -10^16": {"type": "integer", "maximum": -(10**16)},
    "maximum -5 alone": {"type": "integer", "maximum": -5},
    "minimum over maximum": {"type": "integer", "minimum": 5, "maximum": 3},
    "nothing between bounds": {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 6},
    "minimum 1e308": {"type": "integer", "minimum": 1e308},
    "number of 5,000 digits": {"const": 10**5000},
    "infinite number": {"const": float("inf")},
    "not a number": {"const": float("nan")},
    "surrogate": {"const": "\ud800"},
    "surrogate in a name": {"properties": {"\udfff": {}}},
    "name that is no text": {"properties": {1: {}}},
    "value that is no JSON": {"const": object()},
    "set": {"enum": {1, 2}},
}

BAD_PATTERNS = [
    "((",
    "^(($",
    "^(a$",
    "^a)$",
    "^[a$",
    "^[]$",
    "^[^]$",
    "^[]a]$",
    "^[z-a]$",
    "^*$",
    "^|*$",
    "^a**$",
    "^a{3,1}$",
    "^a{2001}$",
    "^a{0,2001}$",
    "^a\\$",
    "^(a?){500}$",
    "^(a*)*$",
    "^(a|){2,}$",
    "^((a{0,40}){0,40}){0,40}$",
    "^(a{100}){100}$",
    "^" + "a?" * 33 + "$",
    "^" + "(a{1,2000}b)" * 4 + "$",
    "^" + "(" * 33 + "a" + ")" * 33 + "$",
    "^" + "(" * 2000 + "$",
    "^" + "a" * 2048 + "$",
    '^"$',
    "^a\\\\b$",
    "^a\\n$",
    "^a\n$",
    "^\\x22$",
    "^中+$",
    "^ab\\.+$",
    "^\\ud800$",
]

IGNORED_PATTERNS = [
    "a",
    "[0-9]{3}",
    "^a",
    "a$",
    "^\\d+$",
    "^\\w$",
    "^[\\s]$",
    "^\\/$",
    "^\\bword$",
    "^(?=a)$",
    "^(?!a)b$",
    "^(?<name>a)$",
    "^(?i)a$",
    "^a^$",
    "^(a|b$)$",
    "^a{,3}$",
    "^a{1, 3}$",
    "^a{x}$",
    "^{$",
    "^]$",
    "^a}$",
    "^a+?$",
    "^.*$",
    "^[^a]$",
    "^[ -~]$",
    "^[[]$",
    "^[a&&b]$",
    "^\\p{L}$",
    "^\\u12$",
    "^\\U00000041$",
    "^\\xZZ$",
]


@pytest.mark.parametrize("name", HARMFUL)
@pytest.mark.parametrize("use", ["chat", "tool", "completion"])
def test_harmful_schema(name: str, use: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        check_schema(HARMFUL[name], param="response_format", use=use)
    assert caught.value.param == "response_format"
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("pattern", BAD_PATTERNS)
def test_bad_pattern(pattern: str) -> None:
    """H-07: never an answer that is not constrained."""
    with pytest.raises(BadRequest) as caught:
        check_schema({"type": "string", "pattern": pattern}, param="x")
    assert "#/pattern" in str(caught.value)


@pytest.mark.parametrize("pattern", IGNORED_PATTERNS)
def test_pattern_that_engines_ignore(pattern: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}
    for use in ("chat", "completion"):
        with pytest.raises((BadRequest, Unsupported)) as caught:
            check_schema(schema, param="x", use=use)  # type: ignore[arg-type]
        assert "#/properties/a/pattern" in str(caught.value)


@pytest.mark.parametrize("pattern", ["^\\d+$", "a", "^.*$", "^(?=a)$", "^a+?$", "^[\\w.-]+@[\\w.-]+$", "(("])
def test_tools_may_have_patterns_that_engines_ignore(pattern: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}
    check_schema(schema, param="tools", use="tool")
    assert unenforced(schema) == ("#/properties/a/pattern",)


@pytest.mark.parametrize("pattern", ["^a{3,1}$", "^(a?){500}$", "^[z-a]$", '^"$', "^中+$", "^a**$"])
def test_tools_may_not_have_patterns_that_do_harm(pattern: str) -> None:
    with pytest.raises(BadRequest):
        check_schema({"properties": {"a": {"type": "string", "pattern": pattern}}}, param="tools", use="tool")


@pytest.mark.parametrize(
    "ref",
    [
        "http://example.com/a.json",
        "file:///etc/passwd",
        "other.json#/a",
        "#",
        "",
        "#anchor",
        "#/",
        "#/$defs/no",
        "#/$defs/A/x/y",
        1,
        None,
    ],
)
def test_reference_that_leads_elsewhere(ref: object) -> None:
    with pytest.raises(BadRequest, match=r"\$ref"):
        check_schema({"properties": {"a": {"$ref": ref}}, "$defs": {"A": {"type": "string"}}}, param="x")


def test_references_that_the_engine_confuses() -> None:
    """llama.cpp turns every run of other characters into one "-", and gives 人 the rule of 地."""
    for first, second in (("地址", "人"), ("a b", "a-b"), ("x_y", "x.y")):
        definitions = {first: {"type": "object"}, second: {"type": "object"}}
        parts = {"a": {"$ref": f"#/$defs/{first}"}, "b": {"$ref": f"#/$defs/{second}"}}
        with pytest.raises(BadRequest, match="two references differ only"):
            check_schema({"properties": parts, "$defs": definitions}, param="x")
    check_schema({"properties": {"a": {"$ref": "#/$defs/人"}, "b": {"$ref": "#/$defs/人"}}, "$defs": {"人": {}}}, param="x")


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from([0, 1, -1, 5, 2000, 2001, 2**31, 2**63, 10**20, 1.5, float("nan"), float("inf")]),
        st.sampled_from(["", "string", "object", "array", "#/$defs/A", "#/properties/a", "^a$", "((", "^\\d$", "\ud800", "date"]),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                """$ref allOf anyOf oneOf not if type enum const multipleOf maximum exclusiveMaximum minimum maxLength
                minLength pattern items prefixItems maxItems minItems uniqueItems required properties a b
                additionalProperties $defs A format $schema""".split()
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=40,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.one_of(values, st.fixed_dictionaries({"properties": values, "$defs": values, "$ref": values})),
    st.sampled_from(["chat", "tool"]),
)
def test_anything_is_accepted_or_refused(schema: object, use: Any) -> None:
    try:
        check_schema(schema, param="x", use=use)
    except BadRequest as error:
        assert str(error) and error.param == "x"
    else:
        assert isinstance(schema, dict)
        assert all(path.startswith("#") for path in unenforced(schema))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet='ab0中.\\()[]{}*+?|^$-,:=<!dxu41"\n', max_size=24))
def test_any_pattern_is_accepted_or_refused(body: str) -> None:
    try:
        check_schema({"type": "string", "pattern": f"^{body}$"}, param="x")
    except BadRequest as error:
        assert "#/pattern" in str(error)
