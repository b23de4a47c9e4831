"""Native values to JSON lines and bodies. Pure; the shapes are ``zhibei.wire``'s."""

from __future__ import annotations

import orjson

from zhibei.events import CheckEvent, PullEvent
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


def body(value: object) -> bytes:
    """A vocabulary value as JSON."""
    return orjson.dumps(encode(value))
