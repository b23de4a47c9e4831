"""The contract of a source. Owns the protocol and its values; knows no source and writes nothing.

One contract suite (``tests/contract/sources``) runs each sentence below against every source.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from zhibei.events import Notice, Progress
from zhibei.refs import ModelName
from zhibei.store.digests import Digest

if TYPE_CHECKING:
    from zhibei.store.fetch import FetchOptions


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a model at its source. None: the source does not say.

    ``name`` is a harmless file name without directories. ``origin`` names the file at the source in full, without
    secrets, and ``validator`` its version there: an ETag, a modification time. ``local_path``: it is on this disk already.
    ``is_packed``: it comes inside another file, about as large, that lies in the workspace for a while.
    """

    name: str
    origin: str
    role: str = "model"
    size_bytes: int | None = None
    digest: Digest | None = None
    validator: str | None = None
    local_path: Path | None = None
    modified_ns: int | None = None
    is_packed: bool = False


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model at its source: ``source`` is the reference to record, ``name`` the one it gets if the person gives none
    (None: nothing there can be a name).
    """

    source: str
    name: ModelName | None
    files: tuple[RemoteFile, ...]
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source may use: ``workspace`` (made when needed, removed by ``close``), and how to fetch.

    ``pip_environment`` None: the process's own.
    """

    workspace: Path
    fetch: FetchOptions | None = None
    pip_environment: Mapping[str, str] | None = field(default=None, repr=False)


class StartOver(Exception):
    """The bytes that have come are of no use: the file is no longer the one that was resolved, or cannot be continued.

    Never leaves the store: who reads ``open`` drops what it has, resolves again and begins at the first byte.
    """


class Source(Protocol):
    """A place that models come from. Serves one pull; used by one task.

    Errors: BadReference for a location that does not parse, ModelNotFound for one that names nothing, Offline where the
    network is needed and missing, SourceError for the rest. Passing failures are tried again inside, a bounded number of
    times. Nothing is written outside the workspace.
    """

    async def resolve(self, location: str) -> RemoteModel:
        """What the location names. Fetches no model; may be called again, and then looks again."""
        ...

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        """Bytes of a file, fewer only where it ends, to look at a header; None where the source cannot do that cheaply.

        Raises:
            StartOver: the file has changed.
        """
        ...

    def prepare(self, file: RemoteFile) -> AsyncGenerator[Progress | Notice | RemoteFile, None]:
        """What must be done before bytes can flow. The last item, and only that, is the file with all that is now known."""
        ...

    def open(self, file: RemoteFile, offset: int) -> AsyncGenerator[bytes, None]:
        """The file's bytes from ``offset`` to its end, of the version that was resolved. Closing at any point frees all.

        Raises:
            StartOver: the file has changed, or the source cannot begin at ``offset``.
        """
        ...

    async def close(self) -> None:
        """Free everything and remove what was made in the workspace. Idempotent."""
        ...
