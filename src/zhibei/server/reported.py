"""What a response's headers say of fields that did not count. The same in every dialect."""

from __future__ import annotations

import logging
from urllib.parse import quote

from zhibei.chat import ResponseFormat
from zhibei.server.body import MAX_SHOWN_NAMES
from zhibei.text.json_schema import unenforced

IGNORED_HEADER = "x-zhibei-ignored"
UNENFORCED_HEADER = "x-zhibei-unenforced"

_log = logging.getLogger("zhibei.server")


def reported(ignored: tuple[str, ...], unenforced: tuple[str, ...] = ()) -> dict[str, str]:
    """Headers that name what was ignored, and what of a JSON schema no engine keeps to; the first are logged too."""
    headers: dict[str, str] = {}
    if ignored:
        _log.info("fields that nobody here knows were ignored: %s", ", ".join(ignored))
        headers[IGNORED_HEADER] = ",".join(ignored)
    if unenforced:
        headers[UNENFORCED_HEADER] = ",".join(unenforced)
    return headers


def unenforced_conditions(wanted: ResponseFormat) -> tuple[str, ...]:
    """Paths of what a schema says and an answer may break all the same, for the client to know."""
    if wanted.schema is None:
        return ()
    return tuple(quote(path, safe="/.[]#$") for path in unenforced(wanted.schema)[:MAX_SHOWN_NAMES])
