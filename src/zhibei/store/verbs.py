"""The verbs of ``zhibei.service.Service`` that need the store and nothing else. None of them ever waits.

Importing this is quick, so that commands which only look into the store answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from zhibei import __version__
from zhibei.models import StoredModel
from zhibei.refs import ModelName
from zhibei.store.library import Library


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

    async def remove_model(self, name: str) -> None:
        """Remove a model."""
        self._library.remove(ModelName.parse(name))

    async def copy_model(self, source: str, target: str) -> None:
        """Give a model a second name."""
        self._library.copy(ModelName.parse(source), ModelName.parse(target))

    async def close(self) -> None:
        """Nothing to let go of."""
