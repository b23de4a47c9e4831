"""How many connections to use for one file: more while that makes it faster. Pure: the clock is the caller's."""

from __future__ import annotations

FIRST = 4
_WINDOW_S = 1.0
_REST_S = 8.0
_GAIN = 1.15


class ConnectionPlan:
    """Begins with a few, doubles while the rate grows by a good part, and goes back where it did not.

    After a rest it tries again: a line that was busy may be free by now.
    """

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._wanted = min(FIRST, self._most)
        self._proven: tuple[int, float] | None = None
        self._began: tuple[float, int] | None = None
        self._has_doubt = False
        self._rests_until_s = 0.0

    def wanted(self, now_s: float, num_bytes: int) -> int:
        """How many to have open now, given the bytes that have come by now."""
        if self._began is None or num_bytes < self._began[1]:
            self._began = (now_s, num_bytes)
            return self._wanted
        elapsed_s = now_s - self._began[0]
        if elapsed_s >= _WINDOW_S and now_s >= self._rests_until_s:
            self._judge(now_s, (num_bytes - self._began[1]) / elapsed_s)
            self._began = (now_s, num_bytes)
        return self._wanted

    def hold_at(self, num_connections: int) -> None:
        """Never use more than so many again: the other side refuses more."""
        self._most = max(1, min(self._most, num_connections))
        self._wanted = min(self._wanted, self._most)
        self._proven = None

    def _judge(self, now_s: float, rate: float) -> None:
        if self._proven is not None and rate < self._proven[1] * _GAIN:
            if not self._has_doubt:
                # New connections start slowly: once more.
                self._has_doubt = True
                return
            self._wanted = self._proven[0]
            self._proven, self._has_doubt = None, False
            self._rests_until_s = now_s + _REST_S
            return
        self._has_doubt = False
        if self._wanted == self._most:
            return
        self._proven = (self._wanted, rate)
        self._wanted = min(self._wanted * 2, self._most)
