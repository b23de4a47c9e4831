"""Which failures pass: a table over what aiohttp and the system raise."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from zhibei.errors import ModelNotFound, Offline, SourceError
from zhibei.store.client_errors import Verdict, classify, translate
from zhibei.store.failures import PassingFailure, check_encoding, check_status
from zhibei.store.fetch import FetchOptions, Retries

KEY = Mock(spec=ConnectionKey, host="h", port=1, ssl=True, is_ssl=True)
DNS = aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "Name or service not known"))
REFUSED = aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "Connection refused"))
CERTIFICATE = aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("self-signed"))
PROXY = aiohttp.ClientHttpProxyError(Mock(), (), status=407, message="no")

TABLE: list[tuple[BaseException, Verdict]] = [
    (asyncio.CancelledError(), "cancelled"),
    (PassingFailure(SourceError("x")), "transient"),
    (DNS, "transient"),
    (REFUSED, "transient"),
    (aiohttp.ServerDisconnectedError(), "transient"),
    (aiohttp.ClientPayloadError("cut"), "transient"),
    (aiohttp.SocketTimeoutError(), "transient"),
    (aiohttp.ConnectionTimeoutError(), "transient"),
    (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), "transient"),
    (asyncio.TimeoutError(), "transient"),
    (TimeoutError(), "transient"),
    (ConnectionResetError(), "transient"),
    (OSError(errno.ENETUNREACH, "no route"), "transient"),
    (socket.gaierror(socket.EAI_AGAIN, "again"), "transient"),
    (CERTIFICATE, "permanent"),
    (ssl.SSLCertVerificationError("expired"), "permanent"),
    (PROXY, "permanent"),
    (aiohttp.InvalidURL("x"), "permanent"),
    (aiohttp.ClientResponseError(Mock(), (), status=400, message="bad headers"), "permanent"),
    (SourceError("x"), "permanent"),
    (ValueError("x"), "permanent"),
]


@pytest.mark.parametrize(
    ("error", "verdict"), TABLE, ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value
)
def test_verdicts(error: BaseException, verdict: Verdict) -> None:
    assert classify(error) == verdict


@pytest.mark.parametrize(
    ("error", "kind", "is_connect", "text"),
    [
        (DNS, Offline, True, "no network"),
        (OSError(errno.ENETUNREACH, "x"), Offline, True, "no network"),
        (REFUSED, SourceError, True, "does not accept"),
        (asyncio.TimeoutError(), SourceError, False, "stopped answering"),
        (aiohttp.ClientPayloadError("x"), SourceError, False, "was cut"),
    ],
)
def test_passing_failures_carry_what_to_say(error: BaseException, kind: type[Exception], is_connect: bool, text: str) -> None:
    failure = translate(error, "h.example")
    assert isinstance(failure, PassingFailure)
    assert type(failure.error) is kind and failure.is_connect == is_connect
    assert text in str(failure.error) and "h.example" in str(failure.error)


@pytest.mark.parametrize(
    ("error", "text"), [(CERTIFICATE, "not trusted"), (PROXY, "proxy"), (ValueError("odd"), "makes no sense")]
)
def test_lasting_failures(error: BaseException, text: str) -> None:
    failure = translate(error, "h.example")
    assert isinstance(failure, SourceError) and text in str(failure)


def test_statuses() -> None:
    for status in (200, 204, 206, 416):
        check_status(status, "h")
    lasting = {404: ModelNotFound, 410: ModelNotFound, 401: SourceError, 403: SourceError, 407: SourceError, 302: SourceError}
    for status, kind in lasting.items():
        with pytest.raises(kind):
            check_status(status, "h")
    for status in (408, 425, 429, 500, 502, 503, 504):
        with pytest.raises(PassingFailure):
            check_status(status, "h")


def test_encodings() -> None:
    for good in ({}, {"Content-Encoding": "identity"}, {"Content-Encoding": ""}, {"Content-Encoding": " Identity "}):
        check_encoding(good, "h")
    with pytest.raises(SourceError):
        check_encoding({"Content-Encoding": "gzip"}, "h")


def test_pauses_grow_vary_and_end() -> None:
    retries = Retries(first_s=1, longest_s=8)
    for number, longest in ((1, 1), (2, 2), (3, 4), (4, 8), (9, 8)):
        pauses = [retries.pause_s(number) for _ in range(50)]
        assert all(longest / 2 <= pause <= longest for pause in pauses) and len(set(pauses)) > 1
    assert FetchOptions().retries.attempts == 6 and FetchOptions().timers.stall_s == 30
