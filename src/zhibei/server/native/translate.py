"""Native values to JSON lines and bodies. Pure; the shapes are ``zhibei.wire``'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from zhibei.events import CheckEvent, PullEvent
from zhibei.runtime.happenings import (
    EngineCrashed,
    Happening,
    LoadBegan,
    LoadFailed,
    ModelLoaded,
    ModelUnloaded,
    QueueLength,
    Refused,
)
from zhibei.settings import Resolved, is_secret
from zhibei.wire import encode, encode_pull_event


class PullLines:
    """The events of a pull or check, one JSON object a line."""

    media_type = b"application/x-ndjson"

    def event(self, event: PullEvent | CheckEvent) -> bytes:
        """One event."""
        return orjson.dumps(encode_pull_event(event)) + b"\n"

    def failure(self, error: bytes) -> bytes:
        """An error instead of the rest."""
        return error + b"\n"

    def end(self) -> bytes:
        """Nothing: the last event says that it is done."""
        return b""

    def idle(self) -> bytes:
        """An empty line."""
        return b"\n"


class Lines:
    """Objects, one a line; None is an empty line, which means nothing."""

    media_type = b"application/x-ndjson"

    def event(self, event: Mapping[str, Any] | None) -> bytes:
        """One object."""
        return b"\n" if event is None else orjson.dumps(event) + b"\n"

    def failure(self, error: bytes) -> bytes:
        """An error instead of the rest."""
        return error + b"\n"

    def end(self) -> bytes:
        """Nothing."""
        return b""

    def idle(self) -> bytes:
        """An empty line."""
        return b"\n"


def happening(found: Happening) -> dict[str, Any]:
    """What happened in the pool, as a line of ``/events``."""
    return {"event": _HAPPENINGS[type(found)], **encode(found)}


_HAPPENINGS: dict[type[Happening], str] = {
    LoadBegan: "load_began",
    ModelLoaded: "model_loaded",
    ModelUnloaded: "model_unloaded",
    LoadFailed: "load_failed",
    EngineCrashed: "engine_crashed",
    Refused: "refused",
    QueueLength: "queue_length",
}


def settings_rows(resolved: Resolved) -> list[dict[str, Any]]:
    """Every setting with its value and where it comes from; secrets masked."""
    return [
        {
            "name": name,
            "value": "********" if is_secret(name) and value is not None else encode(value),
            "origin": origin,
            "from": which,
        }
        for name, value, origin, which in resolved.rows()
    ]


def body(value: object) -> bytes:
    """A vocabulary value as JSON."""
    return orjson.dumps(encode(value))
