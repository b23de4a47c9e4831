"""Split a byte stream into server-sent events. Owns the cutting only; knows nothing of what the data mean."""

from __future__ import annotations

from zhibei.errors import EngineRefused

MAX_EVENT_BYTES = 8 << 20


class EventTooLarge(EngineRefused):
    """One event is larger than any honest one."""


class SseSplitter:
    """Feed bytes, get the ``data:`` payloads of all events that are complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """Payloads that ended within ``piece``. Comments and other fields are dropped.

        Raises:
            EventTooLarge: one event is larger than any honest one.
        """
        text = self._rest + piece if self._rest else piece
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *events, self._rest = text.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge("The engine sent an event of over {limit} bytes.", limit=MAX_EVENT_BYTES)
        return [data for event in events if (data := _data(event))]


def _data(event: bytes) -> bytes:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = (line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(lines)
