"""Base classes of request bodies, and what is said about fields nobody knows. Knows nothing of HTTP."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

MAX_SHOWN_NAMES = 32


class Body(BaseModel):
    """Base of all request bodies: values are taken as they are, never converted; unknown fields are kept aside."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Extension(BaseModel):
    """Base of objects that only Zhibei has: an unknown field in them is a mistake."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def ignored_fields(body: BaseModel) -> tuple[str, ...]:
    """Names of the fields a body has and its model has not, as text that fits into a header."""
    return tuple(dict.fromkeys(map(_printable, body.model_extra or ())))[:MAX_SHOWN_NAMES]


def _printable(name: str) -> str:
    safe = "".join(char for char in name[:64] if char.isascii() and (char.isalnum() or char in "_.-"))
    return safe or "?"
