"""Look at a model's header where it lies, by range, before its bytes are fetched."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from zhibei.formats.gguf import GgufHeader, describe, parse
from zhibei.models import ModelInfo
from zhibei.store.sources.base import RemoteFile, Source
from zhibei.store.threads import in_thread_until


async def read_remote_header(source: Source, *files: RemoteFile) -> ModelInfo | None:
    """What the header of a remote file says, or those of all shards of one; None where its source cannot read parts of them.

    Raises:
        ModelFileError: it is damaged, hostile or no model.
        SourceError: the source failed.
        StartOver: the file has changed.
    """
    headers = []
    for file in files:
        if file.size_bytes is None or await source.read(file, 0, 1) is None:
            return None
        headers.append(await parse_remote_header(source, file))
    return describe(headers)


async def parse_remote_header(source: Source, file: RemoteFile) -> GgufHeader:
    """The header of a remote file of known size, whose source can read parts of it. Raises as ``read_remote_header``."""
    assert file.size_bytes is not None
    reader = _RangeReader(asyncio.get_running_loop(), source, file)
    return await in_thread_until(reader.stop, parse, reader, file.size_bytes)


class _RangeReader:
    """The formats' ``Reader`` over a source: asked on a thread, answered by the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, source: Source, file: RemoteFile) -> None:
        self._loop = loop
        self._source = source
        self._file = file
        self._pending: Future[bytes | None] | None = None
        self._is_stopped = False

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``; fewer than ``length`` only where the file ends."""
        self._pending = asyncio.run_coroutine_threadsafe(self._source.read(self._file, offset, length), self._loop)
        if self._is_stopped:
            self._pending.cancel()
        return self._pending.result() or b""

    def stop(self) -> None:
        """Make a waiting ``read_at`` and every later one fail."""
        self._is_stopped = True
        if self._pending is not None:
            self._pending.cancel()
