"""Replies held against the official clients' own models: nothing missing, nothing of another type, nothing unknown."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

import httpx
from pydantic import BaseModel, TypeAdapter


def strict(kind: Any, value: Any, *, extra: Collection[str] = (), missing: Collection[str] = ()) -> Any:
    """``value`` as ``kind``, which the client itself would only pretend to check.

    Args:
        extra: names of fields that its model does not know and that may be there.
        missing: names of optional fields that need not be there.
    """
    found = TypeAdapter(kind).validate_python(value)
    problems = list(_problems(found, frozenset(extra), frozenset(missing), type(found).__name__))
    assert not problems, problems
    return found


def _problems(value: Any, extra: frozenset[str], missing: frozenset[str], path: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        known = type(value).model_fields
        yield from (f"{path}.{name} is unknown" for name in (value.model_extra or {}) if name not in extra)
        yield from (f"{path}.{name} is missing" for name in known.keys() - value.model_fields_set - missing)
        for name in known:
            yield from _problems(getattr(value, name), extra, missing, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems(item, extra, missing, f"{path}[{index}]")


def sse(response: httpx.Response) -> list[tuple[str | None, Any]]:
    """``(event, data)`` of a stream of server-sent events; ``[DONE]`` as text, comments left out."""
    found: list[tuple[str | None, Any]] = []
    for block in response.text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        name = next((line[7:] for line in lines if line.startswith("event: ")), None)
        data = next(line[6:] for line in lines if line.startswith("data: "))
        found.append((name, data if data == "[DONE]" else json.loads(data)))
    return found
