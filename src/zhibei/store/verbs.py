"""The verbs of ``zhibei.service.Service`` that need the store and nothing else. None of them ever waits.

Importing this is quick, so that commands which only look into the store answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zhibei import __version__
from zhibei.models import Leftover, StoredModel
from zhibei.refs import ModelName
from zhibei.store.library import Library

if TYPE_CHECKING:
    from zhibei.store.foreign import ForeignModel


class StoreVerbs:
    """See the protocol."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def version(self) -> str:
        """This Zhibei's version."""
        return __version__

    async def list_models(self) -> Sequence[StoredModel]:
        """All models in the store."""
        return self._library.list()

    async def show_model(self, name: str) -> StoredModel:
        """One model."""
        return self._library.resolve(name)

    async def show_any(self, name: str) -> StoredModel:
        """One model, broken ones included."""
        return self._library.look(ModelName.parse(name))

    async def remove_model(self, name: str) -> None:
        """Remove a model."""
        self._library.remove(ModelName.parse(name))

    async def copy_model(self, source: str, target: str) -> None:
        """Give a model a second name."""
        self._library.copy(ModelName.parse(source), ModelName.parse(target))

    async def leftovers(self, *, partial_only: bool = False) -> Sequence[Leftover]:
        """What belongs to no model."""
        return self._library.partials() if partial_only else self._library.leftovers()

    async def prune(self) -> Sequence[Leftover]:
        """Remove what belongs to no model."""
        return self._library.prune()

    async def foreign_models(self) -> Sequence[ForeignModel]:
        """The models that other programs keep on this disk. Only in this process: a server may be another machine."""
        return self._library.foreign()

    async def use_model(self, reference: str, name: str | None = None) -> StoredModel:
        """Record a model of another program, where it lies. Only in this process."""
        return self._library.use(reference, name=name)

    async def close(self) -> None:
        """Nothing to let go of."""
