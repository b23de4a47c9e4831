"""One TLS context for all of httpx's clients in a process: to read all the certificates takes longer than most tests."""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import Any

import httpx


@lru_cache(maxsize=1)
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


def share_tls_context() -> None:
    """Give each transport that is asked to verify, and is told no more, the same context."""
    for kind in (httpx.HTTPTransport, httpx.AsyncHTTPTransport):
        _share(kind)


def _share(kind: type[httpx.HTTPTransport] | type[httpx.AsyncHTTPTransport]) -> None:
    made_alone = kind.__init__

    def made(self: Any, verify: ssl.SSLContext | str | bool = True, **options: Any) -> None:
        alike = verify is True and options.get("cert") is None
        made_alone(self, _context() if alike else verify, **options)

    kind.__init__ = made  # type: ignore[method-assign, assignment]
