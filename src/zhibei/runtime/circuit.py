"""Whether a model whose engine keeps dying may be tried. Pure: a circuit, what happened and the time in, a circuit out.

Closed: requests pass. Three crashes within five minutes open it: for five minutes nothing passes. Then one request may try
(half-open); if that ends without a crash the circuit is closed, and with one it is open again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from zhibei.engines.endings import DEVICE_GONE
from zhibei.errors import EngineStartFailed, ModelUnstable, ZhibeiError

MAX_CRASHES = 3
WINDOW_S = 300.0
OPEN_S = 300.0
MAX_CIRCUITS = 256


@dataclass(frozen=True, slots=True)
class Circuit:
    """``crashes``: when they were, on any clock that only goes forward. ``opened_s`` None: closed. ``trying``: one request is."""

    crashes: tuple[float, ...] = ()
    opened_s: float | None = None
    trying: bool = False

    def wait_s(self, now_s: float) -> float:
        """Seconds until a request may pass; 0 where it may now."""
        if self.opened_s is None:
            return 0.0
        left_s = self.opened_s + OPEN_S - now_s
        # How long the one that tries will take is not known.
        return max(left_s, 1.0 if self.trying else 0.0)

    def crashed(self, now_s: float) -> Circuit:
        """After one more crash."""
        recent = (*(at for at in self.crashes if now_s - at < WINDOW_S), now_s)[-MAX_CRASHES:]
        opens = self.opened_s is not None or len(recent) >= MAX_CRASHES
        return Circuit(recent, now_s if opens else None)

    def passed(self) -> Circuit:
        """When a request passes: while it is open, that one tries."""
        return self if self.opened_s is None else replace(self, trying=True)

    def succeeded(self) -> Circuit:
        """When the one that tried has ended well."""
        return Circuit()

    def given_up(self) -> Circuit:
        """When the one that tried has ended without showing anything."""
        return replace(self, trying=False)


class Circuits:
    """The circuits of all models, by name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """All closed."""
        self._clock = clock
        self._circuits: dict[str, Circuit] = {}
        self._problems: dict[str, str] = {}

    def crashed(self, name: str, problem: str) -> bool:
        """Count a crash; True where it opened the circuit."""
        before = self._circuits.pop(name, Circuit())
        after = self._circuits[name] = before.crashed(self._clock())
        self._problems[name] = problem
        while len(self._circuits) > MAX_CIRCUITS:
            self.close(next(iter(self._circuits)))
        return after.opened_s is not None and (before.opened_s is None or before.trying)

    def close(self, name: str) -> None:
        """Forget what was: by hand, or because it works again."""
        self._circuits.pop(name, None)
        self._problems.pop(name, None)

    @contextmanager
    def passing(self, name: str) -> Iterator[None]:
        """Let a request pass that may; where it tries, its end decides.

        Raises:
            ModelUnstable: it may not, now.
        """
        self.check(name)
        circuit = self._circuits.get(name)
        if circuit is None or circuit.opened_s is None:
            yield
            return
        trying = self._circuits[name] = circuit.passed()
        try:
            yield
        except BaseException:
            # A crash has already opened it anew; anything else shows nothing.
            if self._circuits.get(name) is trying:
                self._circuits[name] = trying.given_up()
            raise
        if self._circuits.get(name) is trying:
            self.close(name)

    def is_open(self, name: str) -> bool:
        """Whether a request may not pass now."""
        circuit = self._circuits.get(name)
        return circuit is not None and circuit.wait_s(self._clock()) > 0

    def check(self, name: str) -> None:
        """Return if a request may pass.

        Raises:
            ModelUnstable: the circuit is open, or somebody tries already.
        """
        if self.is_open(name):
            raise self.refusal(name)

    def refusal(self, name: str) -> ModelUnstable:
        """The error for those who may not pass."""
        wait_s = self._circuits.get(name, Circuit()).wait_s(self._clock())
        return ModelUnstable(
            "The engine of {model} died {num_crashes} times in a short time; it is left alone for a while. Last: {problem}",
            hint="See why: zhibei logs {model}. To try it again at once: zhibei stop {model}, perhaps with a smaller --ctx-size.",
            retry_after_s=max(1, math.ceil(wait_s)),
            model=name,
            num_crashes=len(self._circuits.get(name, Circuit()).crashes),
            problem=self._problems.get(name, "?"),
        )


def is_crash(error: ZhibeiError) -> bool:
    """Whether a start that failed ended in a crash: a signal, an end by itself or a device that is gone, not words of a fault."""
    code = str(error.values.get("code", ""))
    ended = code.startswith(("signal ", "exit code ")) or error.values.get("how") == DEVICE_GONE
    return isinstance(error, EngineStartFailed) and ended
