"""What a request may make this machine read: its own files and any address only where nobody else can ask."""

from __future__ import annotations

from zhibei.app import App
from zhibei.errors import NotPermitted
from zhibei.refs import ModelRef
from zhibei.server import generation
from zhibei.server.access import is_loopback
from zhibei.server.ask import Ask


def check_source(app: App, ref: str) -> None:
    """Files and addresses are as the server's machine sees them, which only that machine's user may look through.

    ``ref`` is empty for a model of which nothing is known; the library says so.

    Raises:
        BadReference: it does not parse.
        NotPermitted: others can reach this server.
    """
    if ref and ModelRef.parse(ref).source in ("file", "url") and not is_loopback(app.settings.server.host):
        raise NotPermitted(
            "A server that others can reach imports no files, and fetches from no address that a client names.",
            hint="Run zhibei pull on that machine.",
        )


def check_question(app: App, ask: Ask, ref: str) -> None:
    """The same for those who may only look: what the server reads to answer, it reads as its own user.

    Raises:
        BadReference: it does not parse.
        NotPermitted: others can reach this server, or the key is not an administrator's.
    """
    check_source(app, ref)
    if ref and ModelRef.parse(ref).source in ("file", "url"):
        generation.check_files(app, ask)
