"""Failures of outgoing requests: which may pass and are worth another try, and what a person is told of the others.

What the HTTP client raises is translated in ``client_errors.py``: this one is imported where nothing may be fetched at all.
"""

from __future__ import annotations

from collections.abc import Mapping

from zhibei.errors import ModelNotFound, SourceError, ZhibeiError
from zhibei.i18n import N_

SENSELESS_HINT = N_("Check the endpoint's address, and that no login page of the network is in between.")
BETWEEN_HINT = N_("A proxy or mirror in between may alter what it passes on. Try without it, or pull from another source.")
AGAIN_HINT = N_("Pull again. If it stays so, the file at the source has been changed or the network alters it.")
_TRANSIENT_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))


class PassingFailure(Exception):
    """Worth another try. ``error`` is what to raise when the tries are used up; ``is_connect``: nothing was reached."""

    def __init__(self, error: ZhibeiError, *, is_connect: bool = False) -> None:
        self.error = error
        self.is_connect = is_connect
        super().__init__(str(error))


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
