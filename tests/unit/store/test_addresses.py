"""Where requests may go (H-11, D-07): by address, however it is written or wrapped."""

from __future__ import annotations

import pytest

from zhibei.store.addresses import is_address, is_allowed_if_typed, is_odd_number, is_public

PUBLIC = "8.8.8.8 93.184.216.34 2001:4860:4860::8888 ::ffff:8.8.8.8 64:ff9b::808:808".split()
PRIVATE = (
    "127.0.0.1 127.9.9.9 10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 ::1 fc00::1 fd12::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1".split()
)
NEVER = (
    "0.0.0.0 :: 169.254.169.254 fe80::1 fe80::1%eth0 224.0.0.1 ff02::1 255.255.255.255 240.0.0.1 "
    "::ffff:169.254.169.254 ::ffff:0.0.0.0".split()
)
WRAPPED = (
    "64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 2002:7f00:1:: 2002:a00:1:: 2001:0:4136:e378:8000:63bf:80ff:fffe fec0::1 "
    "198.18.0.1 192.0.2.1".split()
)
DISGUISED = "2130706433 0x7f.1 127.1 0x7f000001 017700000001 1.2.3 1.2.3.4.5 a.1 127.0.0.1.".split()


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address) and is_allowed_if_typed(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_ones_only_where_typed(address: str) -> None:
    assert not is_public(address) and is_allowed_if_typed(address)


@pytest.mark.parametrize("address", NEVER)
def test_never(address: str) -> None:
    assert not is_public(address) and not is_allowed_if_typed(address)


@pytest.mark.parametrize("address", WRAPPED)
def test_a_wrapping_does_not_make_it_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("host", DISGUISED)
def test_numbers_in_disguise(host: str) -> None:
    assert is_odd_number(host) and not is_address(host) and not is_public(host)


@pytest.mark.parametrize("host", ["example.com", "a1.b2", "localhost", "1.example", "xn--1.example"])
def test_names_are_no_numbers(host: str) -> None:
    assert not is_odd_number(host) and not is_address(host)
