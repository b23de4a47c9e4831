"""What the sources of both hubs have in common: one listing, what is picked of it, and bytes through the hub's session.

Knows no hub's addresses and no hub's answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from zhibei.errors import ModelNotFound
from zhibei.events import Notice, Progress
from zhibei.models import ModelDefaults
from zhibei.store.hub_session import HubSession
from zhibei.store.model_defaults import read_generation_config
from zhibei.store.repositories import ListedFile, Location, NoSuchVariant, Picked, as_revision, pick
from zhibei.store.sources.base import RemoteFile, RemoteModel, SourceContext


class HubSource(ABC):
    """See ``zhibei.store.sources.base.Source``; ``kind`` is the source's name in references."""

    def __init__(self, kind: str, context: SourceContext, session: HubSession) -> None:
        self._kind = kind
        self._context = context
        self._session = session

    @abstractmethod
    async def resolve(self, location: str) -> RemoteModel:
        """List the repository and pick the model's files."""

    @abstractmethod
    async def _list(self, place: Location) -> tuple[Mapping[str, object], list[ListedFile]]:
        """The hub's answer, and the files in it.

        Raises:
            ModelNotFound: there is no such repository, or no such revision of it.
        """

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        """Bytes by range."""
        return await self._session.read(file, offset, length)

    async def prepare(self, file: RemoteFile) -> AsyncGenerator[Progress | Notice | RemoteFile, None]:
        """See that the file may be had, and whether by ranges."""
        yield await self._session.prepare(file)

    def open(self, file: RemoteFile, offset: int, end: int | None = None) -> AsyncGenerator[bytes | memoryview, None]:
        """The bytes; a cut connection is continued, at a mirror if need be and there is one."""
        return self._session.open(file, offset, end)

    def has_ranges(self, file: RemoteFile) -> bool:
        """Whether the server does."""
        return self._session.has_ranges(file)

    async def unfold(self) -> RemoteModel | None:
        """None: ``resolve`` names every file."""
        return None

    async def read_defaults(self, files: Mapping[str, Path]) -> ModelDefaults | None:
        """How the model wants tokens drawn, from ``generation_config.json``."""
        return await read_generation_config(files)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _pick(self, place: Location) -> tuple[Location, Mapping[str, object], Picked]:
        """The place, the hub's answer and what was picked. What is no variant may be a revision: then of that one."""
        answer, listed = await self._list(place)
        try:
            return place, answer, pick(place, self._kind, listed, self._context.choose)
        except NoSuchVariant as missing:
            place = as_revision(place, missing)
            try:
                answer, listed = await self._list(place)
            except ModelNotFound:
                raise missing from None
            return place, answer, pick(place, self._kind, listed, self._context.choose)
