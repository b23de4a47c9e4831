"""uvicorn's HTTP/1.1 protocol with bounds: a request's head has a size and a time to come in, an answer a time to be read.

A connection whose client takes nothing of what waits for it is cut: closing it would wait for the client, maybe for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 96 * 1024
HEAD_TIMEOUT_S = 30.0
UNREAD_S = 60.0


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request head is too large or does not become complete in time, or that is not read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn would log where the program around it has handlers, whatever it was told.
        self.access_log = False
        self._in_head = True
        self._num_head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._unread: tuple[int, int] | None = None
        self._num_resumes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: a client that connects has something to say."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_timer()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on, and look whether a head is still incomplete after too many bytes."""
        if self._in_head:
            self._num_head_bytes += len(data)
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)
        super().data_received(data)
        if self._in_head and self._num_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's headers are too large.")

    def on_message_begin(self) -> None:
        """A new head begins."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._in_head = False
        self._num_head_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Whatever comes next is a head again."""
        super().on_message_complete()
        self._in_head = True

    def pause_writing(self) -> None:
        """More waits for the client than is kept for it; look whether it takes any."""
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        """It took enough."""
        self._num_resumes += 1
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked; what is still to be read may be."""
        super().timeout_keep_alive_handler()
        self._watch_unread()

    def _watch_unread(self) -> None:
        if self._unread_timer is None:
            self._unread = self._waiting()
            self._unread_timer = self.loop.call_later(UNREAD_S, self._look_unread)

    def _look_unread(self) -> None:
        self._unread_timer = None
        # Only then does nothing new come that could hide what the client takes.
        stands = self.flow.write_paused or self.transport.is_closing()
        if stands and self._waiting() == self._unread:
            self.transport.abort()
        elif self._waiting()[1]:
            self._watch_unread()

    def _waiting(self) -> tuple[int, int]:
        return self._num_resumes, self.transport.get_write_buffer_size()

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
