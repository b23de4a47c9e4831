"""Find stop strings in text that arrives in pieces. Owns the holding back of a piece that may begin a stop string."""

from __future__ import annotations


class StopMatcher:
    """Feed pieces, get back what may be shown.

    After ``stopped`` is True nothing more comes out. The stop string itself, ``found``, is never shown.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.stopped = False
        self.found: str | None = None

    def feed(self, piece: str) -> str:
        """The part of all text so far that is new and cannot belong to a stop string."""
        if self.stopped:
            return ""
        text = self._held + piece
        # The one that is complete first, not the one that begins first: so the result does not depend on the pieces.
        found = min(((at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0), default=None)
        if found is not None:
            self.stopped, self._held, self.found = True, "", text[found[1] : found[0]]
            return text[: found[1]]
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, when no more text will come."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
