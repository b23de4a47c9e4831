"""The client of servers that speak OpenAI's API: whose fault a failure is."""

from __future__ import annotations

import errno
import socket

import pytest

from zhibei.chat import CompletionRequest
from zhibei.engines.openai_upstream import ConnectionLost, OpenAIUpstream
from zhibei.errors import Busy


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.EMFILE, Busy), (errno.ENFILE, Busy), (errno.ECONNREFUSED, ConnectionLost)]
)
async def test_too_many_open_files_here_are_no_death_over_there(
    number: int, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> socket.socket:
        raise OSError(number, "so it is")

    monkeypatch.setattr(socket, "socket", refuse)
    upstream = OpenAIUpstream("http://127.0.0.1:9", None, "m")
    try:
        with pytest.raises(expected):
            await upstream.get("/props")
        with pytest.raises(expected):
            await anext(upstream.complete(CompletionRequest("x")))
    finally:
        await upstream.close()
