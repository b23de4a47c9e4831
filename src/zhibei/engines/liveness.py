"""Whether a process that was given work does any: the decision alone. Knows no process, no clock and no protocol.

What a process says (a token, a batch of a prompt, a step of loading) is the best sign. One batch of a large model may take
minutes on a slow machine, so a silent process that computes or reads is taken to work too; but not for ever, because a loop
without end computes as well. One that is stopped, or waits for a lock that never opens, does neither.
"""

from __future__ import annotations

from dataclasses import dataclass

STALL_S = 30.0
# How often the limit passes before a process that says nothing is given up although it computes.
SILENT_FACTOR = 20
# Of one processor: far above what an idle server takes, far below the share of one among a hundred busy processes.
BUSY_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Activity:
    """What a process has done since it began: seconds of processor time, and bytes read from disks."""

    cpu_s: float
    read_bytes: int


class Liveness:
    """Fed with what is seen, says when a process hangs. Times are of any clock that only goes forward, in seconds."""

    def __init__(self, limit_s: float = STALL_S) -> None:
        """``limit_s``: how long nothing at all may be seen."""
        self._limit_s = limit_s
        self._said_s = 0.0
        self._worked_s = 0.0
        self._asked_s: float | None = None
        self._seen: tuple[float, Activity] | None = None

    @property
    def check_every_s(self) -> float:
        """How often ``is_stalled`` should be asked."""
        return self._limit_s / 10

    def said(self, now_s: float) -> None:
        """It made progress, or began to be waited for."""
        self._said_s = now_s

    def is_stalled(self, now_s: float, activity: Activity | None) -> bool:
        """Whether it hangs; to be asked only while somebody waits for it. ``activity`` None: it cannot be seen."""
        if self._asked_s is not None and now_s - self._asked_s > self._limit_s / 2:
            # Whoever asks was itself stopped or asleep, and has not heard what was said meanwhile.
            self._said_s = now_s
        self._asked_s = now_s
        if self._worked(now_s, activity):
            self._worked_s = now_s
        silent_s = now_s - self._said_s
        idle_s = now_s - max(self._said_s, self._worked_s)
        return idle_s >= self._limit_s or silent_s >= self._limit_s * SILENT_FACTOR

    def _worked(self, now_s: float, activity: Activity | None) -> bool:
        before, self._seen = self._seen, None if activity is None else (now_s, activity)
        if before is None or activity is None:
            return False
        then_s, then = before
        has_computed = activity.cpu_s - then.cpu_s > BUSY_SHARE * (now_s - then_s)
        return has_computed or activity.read_bytes > then.read_bytes
