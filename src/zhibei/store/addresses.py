"""Which network addresses an outgoing request may go to. Pure.

Rules: a public address always; the very host and port that a person typed also if it is private (their mirror, their own
machine); never an address that is for one link, for many or for nobody, where cloud metadata services live.
"""

from __future__ import annotations

import ipaddress
import re

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: str) -> bool:
    """Whether an address literal is reachable for everybody, whatever it may be wrapped in."""
    parsed = _parse(address)
    return parsed is not None and all(
        part.is_global and not part.is_multicast and not getattr(part, "is_site_local", False) for part in _unwrap(parsed)
    )


def is_allowed_if_typed(address: str) -> bool:
    """Whether an address may be used where a person typed it: public, loopback or private, but nothing special."""
    parsed = _parse(address)
    return parsed is not None and not any(
        part.is_link_local or part.is_multicast or part.is_unspecified or (part.is_reserved and not part.is_loopback)
        for part in _unwrap(parsed)
    )


def is_address(host: str) -> bool:
    """Whether a host is an address literal."""
    return _parse(host) is not None


def is_odd_number(host: str) -> bool:
    """Whether a host is a number that some resolvers take for an address: ``2130706433``, ``0x7f.1``, ``127.1``."""
    last = host.rstrip(".").rpartition(".")[2]
    return not is_address(host) and re.fullmatch(r"\d+|0[xX][0-9a-fA-F]*", last, re.ASCII) is not None


def _parse(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _unwrap(address: _Address) -> list[_Address]:
    """The address and the IPv4 addresses inside it (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    inner: list[_Address] = [address]
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner += address.teredo
    if address in _NAT64:
        inner = [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return inner
