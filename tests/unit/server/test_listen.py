"""Binding, and what is said when it cannot be done."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from zhibei.errors import BadSetting
from zhibei.server import listen
from zhibei.settings import ServerSettings


@contextmanager
def bound(host: str, port: int = 0) -> Iterator[list[socket.socket]]:
    sockets = listen.bind(host, port)
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_port_0_takes_a_free_one_for_all_addresses_of_a_name(host: str) -> None:
    with bound(host) as sockets:
        ports = {each.getsockname()[1] for each in sockets}
        assert len(ports) == 1 and ports != {0}
        assert listen.address(host, sockets[0]) == f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{ports.pop()}"


def test_ipv6_is_written_in_brackets() -> None:
    with bound("127.0.0.1") as sockets:
        port = sockets[0].getsockname()[1]
        assert listen.address("::1", sockets[0]) == f"http://[::1]:{port}"
        assert listen.address("[::]", sockets[0]) == f"http://[::1]:{port}"


def test_a_port_in_use_is_named_with_its_holder() -> None:
    with bound("127.0.0.1") as sockets:
        port = sockets[0].getsockname()[1]
        with pytest.raises(BadSetting) as caught, bound("127.0.0.1", port):
            pass
    assert str(port) in str(caught.value) and f"process {os.getpid()}" in str(caught.value)
    assert "--port" in (caught.value.hint_text or "")


def test_a_holder_that_may_not_be_known_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    with (
        bound("127.0.0.1") as sockets,
        pytest.raises(BadSetting, match="already in use"),
        bound("127.0.0.1", sockets[0].getsockname()[1]),
    ):
        pass


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "not a host"])
def test_an_address_that_is_not_here_is_a_bad_setting(host: str) -> None:
    with pytest.raises(BadSetting), bound(host):
        pass


def test_a_port_for_administrators_only_is_a_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(family: int, kind: int, protocol: int, target: tuple[object, ...]) -> socket.socket:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listen, "_bind_one", refuse)
    with pytest.raises(BadSetting, match="80"):
        listen.bind("127.0.0.1", 80)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.example", "[::]"])
def test_beyond_loopback_a_key_is_needed(host: str) -> None:
    with pytest.raises(BadSetting) as caught:
        listen.check_bind(ServerSettings(host=host))
    assert "ZHIBEI_API_KEY" in (caught.value.hint_text or "")
    listen.check_bind(ServerSettings(host=host, api_key="k"))
    listen.check_bind(ServerSettings(host=host, allow_insecure_bind=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_on_loopback_none_is(host: str) -> None:
    listen.check_bind(ServerSettings(host=host))
