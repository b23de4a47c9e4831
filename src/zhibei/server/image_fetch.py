"""Images that a request names by address: fetched under the rules for outgoing requests, public addresses only.

Owns the limits of size, number and time. What went wrong is not told in detail: a request must not become a way to look
around in the server's network.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from zhibei.chat import ImagePart
from zhibei.errors import BadRequest, Offline, SourceError, Unsupported, ZhibeiError
from zhibei.server.images import MAX_IMAGE_BYTES, MAX_IMAGES, check_image
from zhibei.store.options import FetchOptions

TIMEOUT_S = 20.0
MAX_REMOTE_IMAGES = 16
MAX_URL_CHARS = 4096

_PRIVATE_ENDS = frozenset(("localhost", "local", "internal", "lan", "home", "arpa", "localdomain"))
_log = logging.getLogger("zhibei.server")
RemoteImages = Mapping[str, ImagePart]


async def fetch_images(urls: Iterable[str], options: FetchOptions, *, param: str = "image_url") -> RemoteImages:
    """The images at some addresses; each address is asked once.

    Raises:
        BadRequest: there are too many, or one is not an image that can be fetched and used.
        Unsupported: the server is set to be offline.
    """
    wanted = tuple(dict.fromkeys(urls))
    if not wanted:
        return {}
    if len(wanted) > min(MAX_REMOTE_IMAGES, MAX_IMAGES):
        raise BadRequest("At most {limit} images can be at other addresses.", param=param, limit=MAX_REMOTE_IMAGES)
    fetching = [asyncio.ensure_future(_fetch(url, options, param)) for url in wanted]
    try:
        await asyncio.wait(fetching, timeout=TIMEOUT_S, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        late = [one for one in fetching if not one.done()]
        for one in late:
            one.cancel()
        if late:
            await asyncio.wait(late)
    for one in fetching:
        if not one.cancelled() and (error := one.exception()) is not None:
            raise error
    if late:
        raise _unreachable("?", param)
    return {url: one.result() for url, one in zip(wanted, fetching, strict=True)}


async def _fetch(url: str, options: FetchOptions, param: str) -> ImagePart:
    host = _host(url, param)
    # The client for outgoing requests needs much that few servers ever use.
    from zhibei.store.failures import PassingFailure
    from zhibei.store.fetch import Fetcher

    try:
        async with Fetcher(None, options) as fetcher, fetcher.get(url) as answer:
            if answer.status != 200:
                raise _unreachable(host, param)
            data = await answer.whole(MAX_IMAGE_BYTES)
    except Offline:
        raise Unsupported(
            "Images are not fetched: the server is set to be offline.",
            hint="Send the image itself: data:image/png;base64,…",
            param=param,
        ) from None
    except (SourceError, PassingFailure, ValueError) as error:
        _log.info("an image was not fetched from %r: %s", host, type(error).__name__)
        raise _unreachable(host, param) from None
    return check_image(data, param=param)


def _host(url: str, param: str) -> str:
    """Whose address it is, if every reader of it would agree.

    A backslash, a login or a blank is read differently by different programs, which is what is used to slip through.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    odd = len(url) > MAX_URL_CHARS or any(char <= " " or char in "\\\x7f" for char in url)
    if odd or not host or port == 0 or "@" in parts.netloc or parts.scheme.lower() not in ("http", "https"):
        raise BadRequest("The address of the image makes no sense.", param=param)
    # Where a proxy looks names up, none is looked up here: these are private whoever is asked.
    if host.rstrip(".").rpartition(".")[2] in _PRIVATE_ENDS:
        raise _unreachable(host[:100], param)
    return host[:100]


def _unreachable(host: str, param: str) -> ZhibeiError:
    return BadRequest(
        "The image could not be fetched from {host}.",
        hint="It must be at a public address and at most {limit} bytes large, or be sent itself: data:image/png;base64,…",
        param=param,
        host=host,
        limit=MAX_IMAGE_BYTES,
    )
