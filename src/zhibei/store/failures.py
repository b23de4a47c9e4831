"""Failures of outgoing requests: which may pass and are worth another try, and what a person is told of the others."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Mapping
from typing import Literal

import aiohttp

from zhibei.errors import ModelNotFound, Offline, SourceError, ZhibeiError
from zhibei.i18n import N_

SENSELESS_HINT = N_("Check the endpoint's address, and that no login page of the network is in between.")
BETWEEN_HINT = N_("A proxy or mirror in between may alter what it passes on. Try without it, or pull from another source.")
AGAIN_HINT = N_("Pull again. If it stays so, the file at the source has been changed or the network alters it.")
Verdict = Literal["transient", "permanent", "cancelled"]
_TRANSIENT_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))
_UNREACHABLE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN))


class PassingFailure(Exception):
    """Worth another try. ``error`` is what to raise when the tries are used up; ``is_connect``: nothing was reached."""

    def __init__(self, error: ZhibeiError, *, is_connect: bool = False) -> None:
        self.error = error
        self.is_connect = is_connect
        super().__init__(str(error))


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


def check_status(status: int, host: str) -> None:
    """Raise the failure that a status stands for; 2xx and 416 are none."""
    if 200 <= status < 300 or status == 416:
        return
    if status in (404, 410):
        raise ModelNotFound(
            "{host} has no such file (status {status}).",
            hint="Check the address; the file may have been moved or removed.",
            host=host,
            status=status,
        )
    if status == 407:
        raise SourceError(
            "The proxy refused the request to {host} (status {status}).",
            hint="Check HTTPS_PROXY and HTTP_PROXY.",
            host=host,
            status=status,
        )
    if status in (401, 403):
        raise SourceError(
            "{host} does not let this file be read (status {status}).",
            hint="It may need a login or a licence to be accepted there.",
            host=host,
            status=status,
        )
    error = SourceError("{host} failed (status {status}).", hint="Try again later.", host=host, status=status)
    if status in _TRANSIENT_STATUSES:
        raise PassingFailure(error)
    raise error


def is_web_page(content_type: str) -> bool:
    """Whether a Content-Type is that of a page for people."""
    return content_type.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def web_page(host: str) -> SourceError:
    """The error for a page in a file's place: a login page or a captive portal answers 200 too."""
    return SourceError(
        "{host} answers with a web page instead of a model file.",
        hint="Use the address of the file itself, and check that no login page of the network is in between.",
        host=host,
    )


def check_encoding(headers: Mapping[str, str], host: str) -> None:
    """Refuse a compressed body: its size and its ranges are not the file's, and it may unpack without end."""
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise SourceError(
            "{host} sends the file compressed ({encoding}) although it was asked not to.",
            hint=BETWEEN_HINT,
            host=host,
            encoding=encoding[:40],
        )
