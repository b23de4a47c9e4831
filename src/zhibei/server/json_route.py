"""Request bodies: bytes to JSON, and FastAPI's complaints to errors of ours. Owns what counts as JSON here.

Stricter than the standard library's reader: no NaN, no lone surrogate, no key twice, no depth or number that would break
something further in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn

import orjson
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from zhibei.errors import BadRequest

MAX_VALUES = 1_000_000
_VALUE_MARKS = (b",", b"[", b"{")


class JsonRoute(APIRoute):
    """A route whose body is read by ``parse_json``. One that has a body takes nothing else but the request.

    FastAPI's own way from a request to its function costs as much as all that is done for a short answer.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        return super().get_route_handler() if self.body_field is None else self.answer

    async def answer(self, request: Request) -> Response:
        """Read the body, check it, and call the route's function.

        Raises:
            BadRequest: it is not what the route takes.
        """
        assert self.body_field is not None, "it has a body"
        values = {self.body_field.name: self._body(await request.body())}
        if self.dependant.request_param_name is not None:
            values[self.dependant.request_param_name] = request
        response: Response = await self.endpoint(**values)
        return response

    def _body(self, data: bytes) -> Any:
        field = self.body_field
        assert field is not None
        if not data and field.field_info.is_required():
            raise BadRequest("The request has no body.", hint="Send a JSON object.")
        if not data:
            return field.get_default()
        body, problems = field.validate(parse_json(data), {}, loc=("body",))
        if problems:
            refuse(problems)
        return body


def parse_json(data: bytes) -> Any:
    """Read JSON.

    Raises:
        BadRequest: it is not JSON, or not the kind that can be worked with.
    """
    # Each of these can begin a value, and a value takes many times its bytes; text that has as many is no prompt.
    if sum(map(data.count, _VALUE_MARKS)) > MAX_VALUES:
        raise BadRequest("The body holds too many values; at most {limit} are taken.", limit=MAX_VALUES)
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_not_a_number)
        # What cannot be written again holds lone surrogates, numbers beyond 64 bits, or is nested too deep.
        orjson.dumps(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRequest("The body is not valid JSON: {problem}.", problem=_problem(error)) from None
    return value


def refuse(problems: Sequence[Mapping[str, Any]]) -> NoReturn:
    """Raise BadRequest for the first thing that is wrong with a request, of all that pydantic found."""
    first = problems[0]
    param = param_of(first["loc"])
    if param is None:
        raise BadRequest("The body must be a JSON object.")
    if first["type"] == "extra_forbidden":
        raise BadRequest("There is no such parameter: {name}.", param=param, name=param)
    if first["type"] == "missing":
        raise BadRequest("The parameter {name} is missing.", param=param, name=param)
    # A union fails once per branch; all of them together say what would have been right.
    words = dict.fromkeys(_words(problem) for problem in problems if param_of(problem["loc"]) == param)
    raise BadRequest("{name}: {problem}.", param=param, name=param, problem=" or ".join(words)[:300])


def param_of(location: Sequence[object]) -> str | None:
    """``("body", "messages", 0, "content", "str")`` → ``messages[0].content``: names and indices, without a union's branches."""
    text = ""
    for part in location[1:] if location[:1] == ("body",) else location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif isinstance(part, str) and part not in _BRANCHES and "[" not in part and not part[:1].isupper():
            text += f".{part}" if text else part
    return text[:200] or None


_BRANCHES = frozenset(("str", "int", "float", "bool", "none", "list", "dict", "constrained-str", "literal"))


def _words(problem: Mapping[str, Any]) -> str:
    text = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return (text[:1].lower() + text[1:]).rstrip(".")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (character {error.pos})"
    return str(error)[:100].rstrip(".")
