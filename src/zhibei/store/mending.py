"""What came wrong though every byte came: fetched once more, compared chunk by chunk, replaced where it differs.

A digest of the whole does not say where a file is wrong, so the source is asked again from the start; but only until the
digest is right, and what has come stays.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from zhibei.errors import ZhibeiError
from zhibei.events import Progress
from zhibei.store.chunks import check_of
from zhibei.store.parts import Part
from zhibei.store.sources.base import RemoteFile, Source
from zhibei.store.threads import in_thread


async def mend(
    part: Part, source: Source, file: RemoteFile, translate: Callable[[OSError], ZhibeiError]
) -> AsyncGenerator[Progress, None]:
    """Compare a complete part with its source until its digest is the promised one, or all has been compared.

    Raises:
        StartOver: the file has changed.
        SourceError, StoreError: fetching or writing failed.
    """
    waiting = bytearray()
    chunks = list(part.chunks.all())[::-1]
    async with aclosing(source.open(file, 0)) as pieces:
        async for piece in pieces:
            waiting += piece
            while chunks and len(waiting) >= chunks[-1].num_bytes:
                chunk = chunks.pop()
                data = bytes(waiting[: chunk.num_bytes])
                del waiting[: chunk.num_bytes]
                yield Progress(file.name, chunk.end, file.size_bytes)
                if check_of(data) == chunk.check:
                    continue
                try:
                    await in_thread(part.replace, chunk, data)
                    await in_thread(_rehash, part)
                except OSError as error:
                    raise translate(error) from error
                if part.digest() == file.digest:
                    return


def _rehash(part: Part) -> None:
    part.begin_again()
    while part.advance(part.chunks.end):
        pass
