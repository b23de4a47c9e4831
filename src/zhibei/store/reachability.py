"""Whether hubs and mirrors answer from here: each is asked once, all side by side, and none is waited for long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from zhibei.errors import ZhibeiError
from zhibei.store.failures import PassingFailure, check_status
from zhibei.store.fetch import Fetcher
from zhibei.store.options import FetchOptions, Timers

_TIMERS = Timers(connect_s=5.0, header_s=8.0, stall_s=8.0)
_SERVER_FAILS = 500


async def ask_all(urls: Sequence[str], options: FetchOptions) -> tuple[ZhibeiError | None, ...]:
    """For each address what is wrong; None: somebody answers there, whatever it is."""
    hasty = replace(options, timers=_TIMERS)
    return tuple(await asyncio.gather(*(_problem(url, hasty) for url in urls)))


async def _problem(url: str, options: FetchOptions) -> ZhibeiError | None:
    try:
        async with Fetcher(url, options) as fetcher, fetcher.get(url + "/") as answer:
            if answer.status >= _SERVER_FAILS:
                check_status(answer.status, answer.host)
    except PassingFailure as failure:
        return failure.error
    except ZhibeiError as error:
        return error
    return None
