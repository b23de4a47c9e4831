"""How far work is, how fast it goes and how long it takes: of each file, and of the whole. Pure: the clock is the caller's."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from zhibei.events import Progress

_WINDOW_S = 10.0
_SAMPLE_S = 0.2
# A rate over less than this is noise.
_LEAST_S = 0.5


@dataclass(frozen=True, slots=True)
class Figures:
    """``done`` of ``total`` (None: not known) bytes. ``rate_bytes_per_s`` and ``remaining_s`` None: not known yet."""

    done: int
    total: int | None
    rate_bytes_per_s: float | None = None
    remaining_s: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all is there."""
        return self.total is not None and self.done >= self.total


class Pace:
    """The rate over the last seconds of something that grows."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, done: int) -> None:
        """Take what is done by now. Where it has become less, the work was begun again."""
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= _WINDOW_S:
            self._samples.popleft()
        if len(self._samples) > 1 and now_s - self._samples[-2][0] < _SAMPLE_S:
            self._samples.pop()
        self._samples.append((now_s, done))

    def rate(self) -> float | None:
        """Bytes a second; None where too little time has passed to tell."""
        if not self._samples:
            return None
        (began_s, began), (now_s, done) = self._samples[0], self._samples[-1]
        return (done - began) / (now_s - began_s) if now_s - began_s >= _LEAST_S else None


@dataclass(slots=True)
class _File:
    """One file: where it stood when it was first heard of does not count as speed."""

    began: int
    done: int
    total: int | None
    pace: Pace


class Tally:
    """The figures of one piece of work. ``total``: the bytes of all its files (None: not known)."""

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._files: dict[str, _File] = {}
        self._pace = Pace()

    def take(self, progress: Progress, now_s: float) -> None:
        """Count what is told of one file. What is not measured in bytes does not count."""
        if progress.unit != "bytes":
            return
        file = self._files.get(progress.what)
        if file is None or progress.done < file.done:
            file = self._files[progress.what] = _File(progress.done, progress.done, progress.total, Pace())
        file.done, file.total = progress.done, progress.total
        file.pace.note(now_s, file.done)
        self._pace.note(now_s, sum(file.done - file.began for file in self._files.values()))

    def file(self, what: str) -> Figures:
        """The figures of one file that was told of."""
        file = self._files[what]
        return _figures(file.done, file.total, file.pace)

    @property
    def whole(self) -> Figures | None:
        """The figures of all files together; None where their size is not known, or what came is more than was announced."""
        known = sum(file.total or file.done for file in self._files.values())
        if self._total is None or known > self._total:
            return None
        return _figures(sum(file.done for file in self._files.values()), self._total, self._pace)

    @property
    def has_several(self) -> bool:
        """Whether there is more than one file, so that the whole is worth telling beside each."""
        return len(self._files) > 1 or any(file.total != self._total for file in self._files.values())


def _figures(done: int, total: int | None, pace: Pace) -> Figures:
    rate = pace.rate()
    left = None if total is None else max(0, total - done)
    if left == 0:
        return Figures(done, total, rate, 0.0)
    return Figures(done, total, rate, left / rate if left is not None and rate else None)
