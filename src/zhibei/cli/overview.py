"""What ``zhibei top`` shows, as values: two looks at the pool make rates. Pure; draws nothing, asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from zhibei.plans import Resident
from zhibei.service import PoolState, UpstreamSeen

SortKey = Literal["name", "memory", "rate", "requests"]
SORT_KEYS: tuple[SortKey, ...] = ("name", "memory", "rate", "requests")
_LOW, _HIGH = 0.0, 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One running model. ``tokens_per_s``: what was written since the look before; None: not known."""

    resident: Resident
    tokens_per_s: float | None

    @property
    def num_bytes(self) -> int:
        """Memory: measured where it is known, else planned."""
        return self.resident.measured_bytes or self.resident.planned_bytes


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything at one moment. ``used_share`` of the machine's main memory, 0 to 1; None: not known."""

    rows: tuple[Row, ...]
    num_waiting: int
    num_running: int
    num_requests: int
    tokens_per_s: float | None
    used_bytes: int | None
    total_bytes: int | None
    upstreams: tuple[UpstreamSeen, ...] = ()

    @property
    def used_share(self) -> float | None:
        """Of main memory."""
        if self.used_bytes is None or not self.total_bytes:
            return None
        return min(_HIGH, max(_LOW, self.used_bytes / self.total_bytes))


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen, and when, on a clock that only goes forward."""

    state: PoolState
    at_s: float


def overview(now: Look, before: Look | None, sort: SortKey = "name") -> Overview:
    """What to show now; rates are those since ``before``."""
    counts: Mapping[tuple[str, str], int] = {}
    if before is not None:
        counts = {_key(each): each.num_generated_tokens for each in before.state.residents}
    elapsed_s = now.at_s - before.at_s if before is not None else 0.0
    rows = [Row(each, _rate(each, counts, elapsed_s)) for each in now.state.residents]
    rates = [row.tokens_per_s for row in rows if row.tokens_per_s is not None]
    state = now.state
    used = None
    if state.total_bytes is not None and state.available_bytes is not None:
        used = state.total_bytes - state.available_bytes
    return Overview(
        tuple(sorted(rows, key=lambda row: _order(row, sort))),
        state.num_waiting,
        sum(each.num_leases for each in state.residents),
        sum(each.num_requests for each in state.residents),
        sum(rates) if rates else None,
        used,
        state.total_bytes,
        state.upstreams,
    )


def _rate(resident: Resident, counts: Mapping[tuple[str, str], int], elapsed_s: float) -> float | None:
    before = counts.get(_key(resident))
    if before is None or elapsed_s <= 0:
        return None
    # One that was unloaded and loaded again counts from nought.
    written = max(0, resident.num_generated_tokens - before)
    # While a prompt is read nothing is written, and nought would say that it hangs.
    return None if not written and resident.num_leases else written / elapsed_s


def _key(resident: Resident) -> tuple[str, str]:
    return resident.name, resident.task


def _order(row: Row, sort: SortKey) -> tuple[float, str]:
    """The largest first, by name where they are equal."""
    sizes: Mapping[SortKey, float] = {
        "name": 0,
        "memory": row.num_bytes,
        "rate": row.tokens_per_s or 0.0,
        "requests": row.resident.num_requests,
    }
    return -sizes[sort], row.resident.name
