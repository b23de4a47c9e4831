"""Every route the server has, and for every dialect the requests that make a model write. Tests walk these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.routing import BaseRoute, Match, Route

from support.serving import MODEL
from zhibei.app import build
from zhibei.server.dialect import Dialects
from zhibei.server.guard import Guard
from zhibei.server.http import create_app
from zhibei.settings import Settings

SAID = [{"role": "user", "content": "x"}]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@dataclass(frozen=True)
class Writing:
    """A request that makes a model write. ``stream`` is added for a stream, ``whole`` for one body; None: it has no such form."""

    path: str
    body: dict[str, Any]
    stream: dict[str, Any] | None
    whole: dict[str, Any] | None
    done: bytes = b"[DONE]"
    max_tokens: str = "max_tokens"
    temperature: str = "temperature"
    options: str | None = None

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """All forms."""
        return [{**self.body, **form} for form in (self.whole, self.stream) if form is not None]


STREAM, WHOLE = {"stream": True}, {"stream": False}
_OLLAMA_DONE = b'"done":true'
WRITING = (
    Writing("/v1/chat/completions", {"model": MODEL, "messages": SAID}, STREAM, WHOLE),
    Writing("/v1/completions", {"model": MODEL, "prompt": "x"}, STREAM, WHOLE),
    Writing("/v1/responses", {"model": MODEL, "input": "x"}, STREAM, WHOLE, b"response.completed", "max_output_tokens"),
    Writing("/api/chat", {"model": MODEL, "messages": SAID}, STREAM, WHOLE, _OLLAMA_DONE, "num_predict", options="options"),
    Writing("/api/generate", {"model": MODEL, "prompt": "x"}, STREAM, WHOLE, _OLLAMA_DONE, "num_predict", options="options"),
    Writing("/v1/messages", {"model": MODEL, "messages": SAID, "max_tokens": 10}, STREAM, WHOLE, b"message_stop"),
    Writing("/api/v1/generate", {"prompt": "x", "max_length": 20}, None, {}, b"", "max_length"),
    Writing("/api/extra/generate/stream", {"prompt": "x", "max_length": 20}, {}, None, b'"finish_reason":"stop"', "max_length"),
    Writing("/completion", {"prompt": "x"}, STREAM, WHOLE, b'"stop":true', "n_predict"),
    Writing("/infill", {"input_prefix": "x", "input_suffix": "y"}, STREAM, WHOLE, b'"stop":true', "n_predict"),
)
NEEDS_DEFAULT_MODEL = ("/api/v1/generate", "/api/extra/generate/stream", "/completion", "/infill")


@lru_cache(maxsize=1)
def guard() -> Guard:
    """The application for no particular home."""
    return create_app(build(Settings(home=Path("/nonexistent"))))


def dialects() -> Dialects:
    """Who may call what, as the guard has it."""
    return guard()._dialects


@lru_cache(maxsize=1)
def routes() -> tuple[Route, ...]:
    """All routes, in the order in which they are tried."""
    return tuple(_flat(guard()._app.routes))  # type: ignore[attr-defined]


def all_routes() -> list[tuple[str, str]]:
    """Method and pattern of each."""
    return sorted((method, route.path) for route in routes() for method in route.methods or ())


def writing() -> list[Writing]:
    """The requests whose routes there are."""
    there = set(all_routes())
    return [each for each in WRITING if ("POST", each.path) in there]


def sample(pattern: str, value: str = "nothing") -> str:
    """A path of a pattern."""
    return re.sub(r"{[^}]*}", value, pattern)


def endpoint(method: str, path: str) -> str | None:
    """The pattern of the route that a request reaches; None where there is none."""
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    return next((route.path for route in routes() if route.matches(scope)[0] is Match.FULL), None)


def _flat(found: list[BaseRoute]) -> Iterator[Route]:
    for route in found:
        if isinstance(route, Route):
            yield route
        else:
            # Newer versions of FastAPI keep an included router as it is, older ones copy its routes.
            yield from _flat(getattr(route, "original_router", route).routes)  # type: ignore[attr-defined]
