"""Which JSON schemas an engine can be held to. Pure: a schema goes in, a refusal comes out.

llama.cpp constrains a chat by a grammar that it derives from the schema (common/json-schema.cpp and
json-schema-to-grammar.cpp), and raw text by llguidance. Both answer some schemas with text that is not constrained at
all; some make them hang or fall. So a schema is read here in the order in which llama.cpp reads it, and refused where the
constraint would be lost. Nothing here recurses, whatever comes in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn

from zhibei.errors import BadRequest, Unsupported
from zhibei.text.json_limits import find_excess
from zhibei.text.json_pattern import check_pattern
from zhibei.text.schema_graph import SchemaNode, find_cycle, innermost_first

MAX_DEPTH = 64
MAX_SIZE_BYTES = 64 * 1024
MAX_ENUM_VALUES = 1000
MAX_TOTAL_ENUM_VALUES = 2000
MAX_ALTERNATIVES = 256
MAX_OPTIONAL_PROPERTIES = 256
MAX_NAME_LENGTH = 500
MAX_LENGTH = 2000
MAX_ITEMS = 1999
MAX_TOTAL_REPETITIONS = 200_000
MAX_BOUND = 10**15
MAX_BOUND_OF_TWO = 2**53
MAX_VISITS = 10_000

Use = Literal["chat", "tool", "completion"]

_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_FORMATS = re.compile(r"date|time|date-time|uuid[1-5]?")
_LLGUIDANCE_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "unknown")
_DIALECTS = re.compile(r"https?://json-schema\.org/(?:draft-0[467]/schema|draft/20(?:19-09|20-12)/schema)#?")
_ASSERTIONS = frozenset(
    """$ref $dynamicRef $recursiveRef allOf anyOf oneOf not if then else type enum const
    multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern
    items additionalItems prefixItems unevaluatedItems maxItems minItems uniqueItems contains maxContains minContains
    maxProperties minProperties required properties patternProperties additionalProperties unevaluatedProperties
    propertyNames dependentRequired dependentSchemas dependencies""".split()
)
_NO_EFFECT: Mapping[str, object] = {
    "uniqueItems": False,
    "unevaluatedItems": True,
    "unevaluatedProperties": True,
    "additionalItems": True,
    "additionalProperties": True,
    "minProperties": 0,
    "minItems": 0,
    "minLength": 0,
}
_SHAPE = frozenset(("$ref", "anyOf", "oneOf", "allOf", "enum", "const"))
_RULE_NAME = re.compile(r"[^a-zA-Z0-9-]+")


def check_schema(schema: object, *, param: str, use: Use = "chat") -> None:
    """Refuse a schema that an engine cannot be held to, or that would harm it.

    Args:
        schema: as parsed from JSON.
        param: the request's field, for the error.
        use: "chat" for an answer's format; "tool" for the arguments of a tool, where a pattern that no engine keeps is
            let through, as tool servers write them; "completion" for raw text, where nothing may be left over.

    Raises:
        BadRequest: wrong, too large or contradictory.
        Unsupported: right, but no engine would keep to it.
    """
    _Checker(param, use).check(schema)


def unenforced(schema: object, *, param: str = "schema") -> tuple[str, ...]:
    """Paths of the conditions that an answer to a chat may break although the schema was accepted.

    Raises:
        BadRequest: as ``check_schema`` for a tool.
    """
    checker = _Checker(param, "tool")
    checker.check(schema)
    return tuple(dict.fromkeys(checker.ignored))


class _Checker:
    def __init__(self, param: str, use: Use) -> None:
        self._param = param
        self._use = use
        self._targets: dict[str, SchemaNode] = {}
        self._rule_names: dict[str, str] = {}
        self._num_repetitions = 0
        self._num_enum_values = 0
        self.ignored: list[str] = []

    def check(self, schema: object) -> None:
        if not isinstance(schema, Mapping):
            self._refuse("it is not an object", "#", 'A schema is a JSON object, like {"type": "object"}.')
        excess = find_excess(schema, max_depth=MAX_DEPTH, max_size_bytes=MAX_SIZE_BYTES)
        if excess is not None:
            self._refuse(excess, "#")
        root = SchemaNode(schema, "#")
        waiting = [root]
        nodes = []
        while waiting:
            node = waiting.pop()
            nodes.append(node)
            waiting += self._read(node, schema)
        self._check_recursion(nodes)
        self._check_all_of(nodes)
        self._check_work(nodes)
        if self._use == "completion":
            self._check_nothing_is_lost(nodes)

    def _refuse(self, problem: str, path: str, hint: str | None = None, *, kind: type[BadRequest] = BadRequest) -> NoReturn:
        raise kind(
            "The JSON schema cannot be used: {problem} (at {path}).",
            hint=None if hint is None else "{advice}",
            param=self._param,
            problem=problem,
            path="".join(char if char.isprintable() else "?" for char in path[:200]),
            advice=hint,
        )

    # Reading, in the order of common_chat_schema_builder::build_node

    def _read(self, node: SchemaNode, root: Mapping[str, Any]) -> list[SchemaNode]:
        """Check one schema by itself; its parts, alternatives and the target of its reference are still to be read."""
        schema = node.schema
        if "$ref" in schema:
            return self._read_ref(node, root)
        for key in ("oneOf", "anyOf"):
            if key in schema:
                node.kind = "any_of"
                self._note_ignored(node, {key})
                node.alternatives = self._alternatives(node, key)
                return node.alternatives
        self._check_const(node)
        names = self._type_names(node)
        enforced = {"type"}
        for name in names or (None,):
            enforced |= self._read_typed(node, name)
        self._note_ignored(node, enforced)
        node.kind = "any_of" if len(names) > 1 else node.kind
        return node.parts + node.alternatives

    def _read_ref(self, node: SchemaNode, root: Mapping[str, Any]) -> list[SchemaNode]:
        node.kind = "ref"
        path, ref = f"{node.path}/$ref", node.schema["$ref"]
        self._note_ignored(node, {"$ref"})
        if not isinstance(ref, str):
            self._refuse("$ref is not a text", path)
        if not ref.startswith("#/"):
            hint = "Only references into the same schema are followed, like #/$defs/name."
            self._refuse("$ref leads out of the schema, or to the whole of it", path, hint)
        node.ref = ref
        if ref in self._targets:
            return []
        target: Any = root
        for step in ref[2:].split("/"):
            if isinstance(target, Mapping) and step in target:
                target = target[step]
            elif isinstance(target, (list, tuple)) and re.fullmatch("[0-9]{1,6}", step) and int(step) < len(target):
                target = target[int(step)]
            else:
                self._refuse("$ref leads nowhere", path, "Names with / ~ or % in them cannot be reached.")
        self._check_rule_name(ref, path)
        self._targets[ref] = self._node(target, ref)
        return [self._targets[ref]]

    def _check_rule_name(self, ref: str, path: str) -> None:
        """llama.cpp keeps Latin letters, digits and - of a reference; two that become equal get one rule."""
        name = _RULE_NAME.sub("-", ref)
        if self._rule_names.setdefault(name, ref) != ref:
            hint = "Give the definitions names that differ in their letters A to Z and digits."
            self._refuse("two references differ only in characters that the engine does not see", path, hint)

    def _node(self, schema: object, path: str) -> SchemaNode:
        if isinstance(schema, bool):
            hint = "Write {} for anything; leave out what may not be there."
            self._refuse("true and false are not supported as schemas", path, hint)
        if not isinstance(schema, Mapping):
            self._refuse("a schema is not an object", path)
        return SchemaNode(schema, path)

    def _alternatives(self, node: SchemaNode, key: str) -> list[SchemaNode]:
        path, values = f"{node.path}/{key}", node.schema[key]
        if not isinstance(values, (list, tuple)) or not values:
            self._refuse(f"{key} is not a list of schemas", path)
        if len(values) > MAX_ALTERNATIVES:
            self._refuse(f"{key} has more than {MAX_ALTERNATIVES} alternatives", path)
        return [self._node(value, f"{path}/{number}") for number, value in enumerate(values)]

    def _type_names(self, node: SchemaNode) -> tuple[str, ...]:
        """The types that are allowed; () if there is no ``type``."""
        path, value = f"{node.path}/type", node.schema.get("type")
        if value is None and "type" not in node.schema:
            return ()
        names = value if isinstance(value, (list, tuple)) else [value]
        if not names or any(name not in _TYPES for name in names if isinstance(name, str)):
            self._refuse("a type is not known", path, f"The types are {', '.join(_TYPES)}.")
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            self._refuse("type is not a text, or a list of different texts", path)
        return tuple(names)

    def _check_const(self, node: SchemaNode) -> None:
        schema = node.schema
        if "enum" in schema and "const" not in schema:
            values = schema["enum"]
            if not isinstance(values, (list, tuple)) or not values:
                self._refuse("enum is not a list of values", f"{node.path}/enum")
            self._num_enum_values += len(values)
            if len(values) > MAX_ENUM_VALUES or self._num_enum_values > MAX_TOTAL_ENUM_VALUES:
                problem = f"enum has more than {MAX_ENUM_VALUES} values, or all have more than {MAX_TOTAL_ENUM_VALUES}"
                self._refuse(problem, f"{node.path}/enum")
        names = self._type_names(node)
        fixed = [schema["const"]] if "const" in schema else schema.get("enum", ())
        if names and fixed and not any(_is_of_type(value, name) for value in fixed for name in names):
            self._refuse("no value is both of the type and among those allowed", node.path)

    def _read_typed(self, node: SchemaNode, name: str | None) -> set[str]:
        """One type of a schema (None: no type is given). Returns the conditions that the engine keeps."""
        schema = node.schema
        for fixed in ("const", "enum"):
            if fixed in schema:
                node.kind = fixed
                return {fixed}
        has_properties = "properties" in schema or schema.get("additionalProperties", True) is not True
        if "allOf" in schema and (name == "string" or (name in (None, "object") and not has_properties)):
            return self._read_all_of(node)
        if name == "object" or (name is None and has_properties):
            return self._read_object(node)
        if name == "array" or (name is None and ("items" in schema or "prefixItems" in schema)):
            return self._read_array(node)
        if name == "string" or (name is None and self._speaks_of_strings(schema)):
            return self._read_string(node)
        if name == "integer":
            return self._read_integer(node)
        node.kind = name or "any"
        return set()

    @staticmethod
    def _speaks_of_strings(schema: Mapping[str, Any]) -> bool:
        if any(key in schema for key in ("pattern", "minLength", "maxLength")):
            return True
        return isinstance(schema.get("format"), str) and _FORMATS.fullmatch(schema["format"]) is not None

    def _read_all_of(self, node: SchemaNode) -> set[str]:
        if node.kind == "all_of":  # once for "object" and once for "string": everything below is written out twice
            node.times += 1
            return {"allOf"}
        node.kind = "all_of"
        node.alternatives = self._alternatives(node, "allOf")
        return {"allOf"}

    def _read_object(self, node: SchemaNode) -> set[str]:
        node.kind = "object"
        schema, path = node.schema, node.path
        properties = schema.get("properties", {})
        if not isinstance(properties, Mapping):
            self._refuse("properties is not an object", f"{path}/properties")
        required = schema.get("required", ())
        if not isinstance(required, (list, tuple)) or not all(isinstance(name, str) for name in required):
            self._refuse("required is not a list of names", f"{path}/required")
        if len(set(properties) - set(required)) > MAX_OPTIONAL_PROPERTIES:
            self._refuse(f"an object has more than {MAX_OPTIONAL_PROPERTIES} optional properties", f"{path}/properties")
        node.parts += [self._node(value, f"{path}/properties/{name}") for name, value in properties.items()]
        others = schema.get("additionalProperties", "properties" not in schema)
        if not isinstance(others, bool):
            node.parts.append(self._node(others, f"{path}/additionalProperties"))
        self._check_required(path, set(required) - set(properties), is_open=others is not False)
        if others is not False and any(char in name for name in properties for char in ']^\\"'):
            hint = 'Leave out additionalProperties, or rename the properties with ] ^ \\ or " in them.'
            self._refuse("such names of properties cannot be kept apart from others", f"{path}/properties", hint)
        if others is not False and any(len(name) > MAX_NAME_LENGTH for name in properties):
            self._refuse("the name of a property is too long", f"{path}/properties")
        return {"properties", "additionalProperties"} | ({"required"} if set(required) <= set(properties) else set())

    def _check_required(self, path: str, missing: set[str], *, is_open: bool) -> None:
        if missing and not is_open and self._use != "tool":
            hint = "List it in properties, or take it out of required."
            self._refuse(f"{min(missing)[:50]!r} is required but not among the properties", f"{path}/required", hint)

    def _read_array(self, node: SchemaNode) -> set[str]:
        node.kind = "array"
        schema, path = node.schema, node.path
        low, high = self._counts(node, "Items", MAX_ITEMS)
        key = "items" if "items" in schema else "prefixItems"
        items = schema.get(key, {})
        if not isinstance(items, (list, tuple)):
            node.parts.append(self._node(items, f"{path}/{key}"))
            return {key, "minItems", "maxItems"}
        if low > len(items) or (high is not None and high < len(items)):
            self._refuse("the number of items is fixed by the list of their schemas", path)
        node.parts += [self._node(item, f"{path}/{key}/{number}") for number, item in enumerate(items)]
        return {key, "minItems", "maxItems"}

    def _counts(self, node: SchemaNode, what: str, limit: int) -> tuple[int, int | None]:
        """``minX`` and ``maxX``, checked against each other and the limit."""
        low, high = self._count(node, f"min{what}", limit), self._count(node, f"max{what}", limit)
        if low is not None and high is not None and low > high:
            self._refuse(f"min{what} is larger than max{what}", node.path)
        self._num_repetitions += max(low or 0, high or 0)
        if self._num_repetitions > MAX_TOTAL_REPETITIONS:
            self._refuse(f"its lengths add up to more than {MAX_TOTAL_REPETITIONS}", node.path)
        return low or 0, high

    def _count(self, node: SchemaNode, key: str, limit: int) -> int | None:
        value = node.schema.get(key)
        if value is None and key not in node.schema:
            return None
        path = f"{node.path}/{key}"
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self._refuse(f"{key} is not a whole number from 0 up", path)
        if value <= limit:
            return value
        if self._use != "tool" or key.startswith("min"):
            self._refuse(f"{key} is larger than {limit}", path, "Leave it out if no limit is needed.")
        if limit + 2 < value < 2**31:  # llama.cpp takes it for "no limit"; just above its limit it fails
            self.ignored.append(path)
            return None
        self._refuse(f"{key} is larger than {limit}", path, "Leave it out if no limit is needed.")

    def _read_string(self, node: SchemaNode) -> set[str]:
        node.kind = "string"
        schema, path = node.schema, node.path
        self._counts(node, "Length", MAX_LENGTH)
        if not isinstance(schema.get("format", ""), str):
            self._refuse("format is not a text", f"{path}/format")
        pattern = schema.get("pattern", "")
        if not isinstance(pattern, str):
            self._refuse("pattern is not a text", f"{path}/pattern")
        if pattern:
            problem = check_pattern(pattern)
            if problem is None:
                return {"pattern"}
            if not problem.ignored or self._use != "tool":
                kind = Unsupported if problem.ignored else BadRequest
                self._refuse(problem.problem, f"{path}/pattern", problem.hint, kind=kind)
            return set()
        return set() if _FORMATS.fullmatch(schema.get("format", "")) else {"minLength", "maxLength"}

    def _read_integer(self, node: SchemaNode) -> set[str]:
        node.kind = "integer"
        low, high = self._bound(node, "minimum", "exclusiveMinimum", 1), self._bound(node, "maximum", "exclusiveMaximum", -1)
        bounds = [bound for bound in (low, high) if bound is not None]
        hint = "Give both a minimum and a maximum, or leave it out if no limit is needed."
        if any(abs(bound) > (MAX_BOUND_OF_TWO if len(bounds) == 2 else MAX_BOUND) for bound in bounds):
            self._refuse("a bound lies beyond 10^15, or 2^53 where both are given", node.path, hint)
        if low is not None and high is not None and low > high:
            self._refuse("no whole number lies between the bounds", node.path)
        if low is None and high is not None and high < 0:  # llama.cpp would write numbers like -012
            self._refuse("a negative maximum needs a minimum", node.path, hint)
        if high is None and low is not None and "0" in str(low)[1:-1]:  # for 1050, llama.cpp lets 150 pass
            return {"maximum", "exclusiveMaximum"}
        return {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}

    def _bound(self, node: SchemaNode, plain: str, exclusive: str, direction: int) -> int | None:
        """The smallest (direction 1) or largest (-1) whole number that is allowed; None if any."""
        keys = [key for key in (plain, exclusive) if key in node.schema]
        if not keys:
            return None
        path = f"{node.path}/{keys[-1]}"
        bounds = [self._inwards(node, key, direction, is_exclusive=key == exclusive) for key in keys]
        if (bounds[-1] - bounds[0]) * direction > 0:  # beside minimum, llama.cpp does not look at exclusiveMinimum
            if self._use != "tool":
                self._refuse(f"{plain} and {exclusive} are both given", path, "Keep the one that is narrower.")
            self.ignored.append(path)
        return bounds[0]

    def _inwards(self, node: SchemaNode, key: str, direction: int, *, is_exclusive: bool) -> int:
        """The nearest whole number that a bound allows."""
        value = node.schema[key]
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self._refuse(f"{key} is not a number", f"{node.path}/{key}")
        nearest = math.ceil(value * direction) * direction
        return nearest + direction if is_exclusive and nearest == value else nearest

    def _note_ignored(self, node: SchemaNode, enforced: set[str]) -> None:
        """Remember what the engine will not look at; refuse where the shape of the answer would be lost with it."""
        for key in node.schema:
            if key not in _ASSERTIONS or key in enforced or _has_no_effect(node.schema, key):
                continue
            path = f"{node.path}/{key}"
            self.ignored.append(path)
            in_place = node.kind in ("ref", "any_of", "all_of") and key != "type"
            if self._use != "tool" and (key in _SHAPE or in_place):
                problem = "this condition is lost beside $ref, anyOf, oneOf, allOf, enum or const"
                self._refuse(problem, path, "Move it into each alternative, or leave it out.", kind=Unsupported)

    # What becomes of it as a whole

    def _check_recursion(self, nodes: Sequence[SchemaNode]) -> None:
        """A schema that is its own alternative has no beginning; one that is spelled out inside itself has no end."""
        if (node := find_cycle(nodes, self._in_place)) is not None:
            self._refuse("a reference leads back to itself", node.path, "Put an object or an array in between.")
        if (node := find_cycle(nodes, self._spelled_out)) is not None:
            hint = "Refer to it by $ref directly, without allOf."
            self._refuse("allOf cannot be part of a schema that contains itself", node.path, hint)

    def _in_place(self, node: SchemaNode) -> Iterator[SchemaNode]:
        yield from node.alternatives
        if node.ref is not None:
            yield self._targets[node.ref]

    def _spelled_out(self, node: SchemaNode) -> Iterator[SchemaNode]:
        """What llama.cpp writes out again at each place: all but references, which get a rule of their own."""
        yield from node.parts
        if node.kind != "all_of":
            yield from node.alternatives
            return
        for component in node.alternatives:
            yield self._followed(component)

    def _followed(self, node: SchemaNode) -> SchemaNode:
        """Where a chain of references ends. There is no cycle: that was checked before."""
        while node.ref is not None:
            node = self._targets[node.ref]
        return node

    def _check_all_of(self, nodes: Sequence[SchemaNode]) -> None:
        """llama.cpp joins the properties of objects, or intersects enums; it drops everything else."""
        for node in nodes:
            if node.kind != "all_of":
                continue
            path = f"{node.path}/allOf"
            components = list(self._spelled_out(node))
            kinds = {component.kind for component in components}
            if kinds == {"enum"}:
                if not set.intersection(*({repr(value) for value in part.schema["enum"]} for part in components)):
                    self._refuse("no value is in all enums of allOf", path)
            elif kinds == {"object"}:
                names = [name for part in components for name in part.schema.get("properties", ())]
                if len(set(names)) != len(names):
                    self._refuse("a property is described twice in allOf", path, "Write the conditions into one schema.")
                closed = [part for part in components if part.schema.get("additionalProperties", True) is not True]
                if closed and len(components) > 1 and self._use != "tool":
                    hint = "Leave out additionalProperties there: such an object forbids what the others describe."
                    self._refuse("an object in allOf is closed", path, hint)
            else:
                self._refuse("allOf may only join objects, or only enums", path, "Write the conditions into one schema.")

    def _check_work(self, nodes: Sequence[SchemaNode]) -> None:
        """How many schemas llama.cpp writes out, counted from the innermost outwards."""
        counts: dict[int, int] = {}
        for node in innermost_first(nodes, self._spelled_out):
            below = sum(counts[id(inner)] for inner in self._spelled_out(node))
            counts[id(node)] = min(1 + node.times * below, MAX_VISITS + 1)
        roots = [nodes[0], *self._targets.values()]
        if sum(counts[id(node)] for node in roots) > MAX_VISITS:
            self._refuse(f"written out it has more than {MAX_VISITS} parts", "#", "Use $ref in place of allOf.")

    def _check_nothing_is_lost(self, nodes: Sequence[SchemaNode]) -> None:
        """llguidance drops the whole schema where it does not know a part of it."""
        for path in self.ignored:
            self._refuse("this condition cannot be kept in raw text", path, kind=Unsupported)
        dialect = nodes[0].schema.get("$schema", "http://json-schema.org/draft-07/schema")
        if not isinstance(dialect, str) or not _DIALECTS.fullmatch(dialect):
            self._refuse("the version of JSON schema is not known", "#/$schema", "Leave out $schema.", kind=Unsupported)
        for node in nodes:
            if node.ref is not None and not re.fullmatch(r"#/[A-Za-z0-9._~$/-]+", node.ref):
                hint = "Name definitions with the letters A to Z, digits and _ only."
                self._refuse("such a reference cannot be followed in raw text", f"{node.path}/$ref", hint, kind=Unsupported)
            if "oneOf" in node.schema:
                hint = "Write anyOf."
                self._refuse("oneOf cannot be kept in raw text", f"{node.path}/oneOf", hint, kind=Unsupported)
            if "format" in node.schema and node.schema["format"] not in _LLGUIDANCE_FORMATS:
                self._refuse("this format is not known for raw text", f"{node.path}/format", kind=Unsupported)


def _is_of_type(value: object, name: str) -> bool:
    if name == "null":
        return value is None
    if name == "boolean" or isinstance(value, bool):
        return name == "boolean" and isinstance(value, bool)
    if name == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    kinds = {"number": (int, float), "string": (str,), "array": (list, tuple), "object": (Mapping,)}
    return isinstance(value, kinds[name])


def _has_no_effect(schema: Mapping[str, Any], key: str) -> bool:
    return key in _NO_EFFECT and type(schema[key]) is type(_NO_EFFECT[key]) and schema[key] == _NO_EFFECT[key]
