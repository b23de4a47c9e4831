"""Which models were used last: what the pool told since this program began, and before that the measured runs. Knows no pool."""

from __future__ import annotations

from collections.abc import Callable

from zhibei.runtime.happenings import Happening, ModelLoaded, ModelUnloaded

MAX_NAMES = 64


class LastUsed:
    """Names of models. All of it runs on one event loop, but for ``names``."""

    def __init__(self, earlier: Callable[[], tuple[str, ...]] = tuple) -> None:
        """``earlier``: the models that were used before, the last first; it may block on a file."""
        self._earlier = earlier
        self._names: tuple[str, ...] = ()

    def happened(self, happening: Happening) -> None:
        """Something happened in the pool. Of models that were loaded, the one that leaves last was used last."""
        if isinstance(happening, ModelLoaded | ModelUnloaded):
            name = happening.name
            self._names = (name, *(other for other in self._names if other != name))[:MAX_NAMES]

    def names(self) -> tuple[str, ...]:
        """The models, the one used last first; some may be gone. Blocks."""
        return tuple(dict.fromkeys((*self._names, *self._earlier())))
