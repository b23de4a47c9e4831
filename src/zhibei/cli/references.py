"""What a person types to name a model, made ready for a service."""

from __future__ import annotations

from pathlib import Path

from zhibei.refs import ModelRef


def as_reference(text: str) -> str:
    """The reference, complete: names with their tag, paths absolute, because a server has a directory of its own.

    Raises:
        BadReference: it is none.
    """
    reference = ModelRef.parse(text)
    if reference.source != "file":
        return str(reference)
    return f"file:{Path(reference.location).expanduser().absolute()}"
