"""What makes a wire API: its routes, who may call them, and how it says errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from zhibei.app import App
from zhibei.errors import ZhibeiError
from zhibei.server.access import AccessRules, AccessTable, Rule
from zhibei.server.ask import ErrorReply
from zhibei.server.errors import openai_envelope

Envelope = Callable[[ZhibeiError, str, bool], ErrorReply]
"""(error, request id, whether the client is a Zhibei that raises it again) → reply."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire API. ``prefixes``: paths whose errors are said its way; the longest that fits wins."""

    name: str
    router: Callable[[App], APIRouter]
    access: AccessRules
    envelope: Envelope
    prefixes: tuple[str, ...]


class Dialects:
    """All wire APIs: which rule a request falls under, and how its errors are said."""

    def __init__(self, dialects: Sequence[Dialect] = ()) -> None:
        self._access = AccessTable(dialect.access for dialect in dialects)
        found = [(prefix, dialect.envelope) for dialect in dialects for prefix in dialect.prefixes]
        self._prefixes = sorted(found, key=lambda pair: -len(pair[0]))

    def rule(self, method: str, path: str) -> Rule | None:
        """What a request needs; None where no rule is written."""
        return self._access.find(method, path)

    def envelope(self, path: str) -> Envelope:
        """How errors on a path are said; OpenAI's way where no dialect claims it."""
        return next((envelope for prefix, envelope in self._prefixes if path.startswith(prefix)), openai_envelope)
