"""Connections that other people's clients keep for as long as their process lives: closed once the tests of a file are over."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def hanging_up() -> Iterator[None]:
    """Close at the end what was connected meanwhile, whoever has it: a client finds it closed and connects anew."""
    connect, made = socket.create_connection, list[socket.socket]()

    def connected(*where: Any, **how: Any) -> socket.socket:
        made.append(connect(*where, **how))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_connection", connected)
        yield
    for each in made:
        each.close()
