"""What a model thought, as text that clients give back unread: opaque, so that it is not taken for an answer; no secret."""

from __future__ import annotations

import base64
import binascii
import hashlib

_SEALED = "zhibei-reasoning:"


def sealed(reasoning: str) -> str:
    """Reasoning in a form that only means something here."""
    return base64.b64encode((_SEALED + reasoning).encode()).decode("ascii")


def unsealed(text: str) -> str | None:
    """What ``sealed`` was given; None if it was something else."""
    try:
        found = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return found[len(_SEALED) :] if found.startswith(_SEALED) else None


def signature(reasoning: str) -> str:
    """A mark of reasoning that is sent beside it."""
    return base64.b64encode(hashlib.sha256((_SEALED + reasoning).encode()).digest()).decode("ascii")
