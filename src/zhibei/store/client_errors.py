"""What the HTTP client raises, as failures that may pass and errors that stay."""

from __future__ import annotations

import asyncio
import errno
import ssl
from typing import Literal

import aiohttp

from zhibei.errors import Offline, SourceError
from zhibei.store.failures import SENSELESS_HINT, PassingFailure

Verdict = Literal["transient", "permanent", "cancelled"]
_UNREACHABLE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN))


def classify(error: BaseException) -> Verdict:
    """Whether a failure may pass, will stay, or was asked for."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, PassingFailure):
        return "transient"
    if isinstance(
        error, (ssl.SSLCertVerificationError, aiohttp.ClientSSLError, aiohttp.InvalidURL, aiohttp.ClientHttpProxyError)
    ):
        return "permanent"
    passing = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, asyncio.TimeoutError, OSError)
    return "transient" if isinstance(error, passing) else "permanent"


def translate(error: BaseException, host: str) -> Exception:
    """The failure of a request to ``host`` as a PassingFailure or a SourceError."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return SourceError(
            "The proxy refused the request to {host} (status {status}).",
            hint="Check HTTPS_PROXY and HTTP_PROXY; a proxy that wants a login takes http://user:password@host:port.",
            host=host,
            status=error.status,
        )
    if isinstance(error, (ssl.SSLCertVerificationError, aiohttp.ClientConnectorCertificateError)):
        return SourceError(
            "The certificate of {host} is not trusted: {reason}.",
            hint="If your network uses a certificate authority of its own, point ZHIBEI_CA_FILE at its certificate.",
            host=host,
            reason=str(error)[:200],
        )
    if classify(error) != "transient":
        return SourceError(
            "{host} gave an answer that makes no sense: {reason}.",
            hint=SENSELESS_HINT,
            host=host,
            reason=str(error)[:200] or type(error).__name__,
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError) or getattr(error, "errno", None) in _UNREACHABLE:
        offline = Offline(
            "{host} cannot be reached; there seems to be no network.",
            hint="Check the connection or the proxy (HTTPS_PROXY). What is already pulled works without it.",
            host=host,
        )
        return PassingFailure(offline, is_connect=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return PassingFailure(
            SourceError(
                "{host} does not accept a connection: {reason}.",
                hint="Check the address, and that the server runs. What is already pulled works without it.",
                host=host,
                reason=error.strerror or str(error),
            ),
            is_connect=True,
        )
    if isinstance(error, asyncio.TimeoutError):
        return PassingFailure(
            SourceError("{host} stopped answering.", hint="Pull again: what has come so far is kept.", host=host)
        )
    return PassingFailure(
        SourceError("The connection to {host} was cut.", hint="Pull again: what has come so far is kept.", host=host)
    )
