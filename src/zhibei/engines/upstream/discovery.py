"""Look for other servers on a machine, and say how each is added to the settings. Writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from zhibei.engines.upstream.kinds import JAN_PORT, KINDS
from zhibei.engines.upstream.look import Seen, base_address, look
from zhibei.engines.upstream.signs import Identity, Listed
from zhibei.settings import UpstreamSettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# The loopback interface answers at once; another machine may take a while to refuse.
TIMEOUT_S = 3.0
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Discovered:
    """A server that was found. ``name``: what the settings call it, or could; ``is_known``: they do already."""

    name: str
    url: str
    identity: Identity
    models: tuple[Listed, ...]
    is_known: bool = False

    @property
    def title(self) -> str:
        """What the program calls itself."""
        return "Jan" if self.name.startswith("jan") and self.identity.kind == "openai" else KINDS[self.identity.kind].title


async def discover(
    host: str, ports: Sequence[int], known: Mapping[str, UpstreamSettings], own_port: int | None
) -> tuple[Discovered, ...]:
    """The servers that answer on some ports of a machine, in the order of the ports.

    Args:
        known: the settings' servers. One of them is asked with its key; nobody else gets a key.
        own_port: where our own server listens on that machine, which is not another one; None: nowhere there.
    """
    urls = [f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for port in ports]
    names = {_address(settings.url): name for name, settings in known.items()}
    keys = [known[names[_address(url)]].api_key if _address(url) in names else None for url in urls]
    seen = await asyncio.gather(*(look(url, key, timeout_s=TIMEOUT_S) for url, key in zip(urls, keys, strict=True)))
    taken = set(known)
    found: list[Discovered] = []
    for url, port, each in zip(urls, ports, seen, strict=True):
        if not isinstance(each, Seen) or (each.identity.kind == "zhibei" and port == own_port):
            continue
        name = names.get(_address(url)) or free_name("jan" if _is_jan(each, port) else each.identity.kind, taken)
        taken.add(name)
        found.append(Discovered(name, url, each.identity, each.models, _address(url) in names))
    return tuple(found)


def free_name(wanted: str, taken: Collection[str]) -> str:
    """The name, or with a number behind it the first that is free."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name


def configuration(found: Sequence[Discovered]) -> str:
    """What to write into the configuration file for these servers, as TOML."""
    return "\n".join(_table(each) for each in found)


def _table(found: Discovered) -> str:
    names = [model.name for model in found.models]
    more = f" … ({len(names)})" if len(names) > _MOST_NAMED else ""
    head = " ".join(part for part in (found.title, found.identity.version) if part)
    lines = [f"# {head}: {', '.join(names[:_MOST_NAMED])}{more}" if names else f"# {head}", f"[upstreams.{_key(found.name)}]"]
    lines.append(f'url = "{found.url}"')
    if found.identity.wants_key:
        lines.append('# api_key = "…"')
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return f'"{name}"' if "." in name else name


def _is_jan(seen: Seen, port: int) -> bool:
    return port == JAN_PORT and seen.identity.kind == "openai"


def _address(url: str) -> tuple[str, str, int | None, str]:
    """What makes two URLs the same server: the names of this machine are one."""
    parts = urlsplit(base_address(url))
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, "127.0.0.1" if host in LOOPBACK else host, port, parts.path
