"""What ``zhibei top`` shows, in words: the line of figures, headings and cells. For the live view and for ``--once``."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Protocol

from zhibei.cli.overview import Overview, Row
from zhibei.cli.render import printable, table
from zhibei.i18n import N_
from zhibei.plans import Resident
from zhibei.units import format_bytes

RIGHT = (2, 3, 4, 5, 6, 7)
DOWN = N_("The models of {name} at {url} cannot be used now. Why: zhibei discover")
_BAR_COLUMNS = 20
_STATE_WORDS = {
    "starting": N_("starting"),
    "ready": N_("ready"),
    "busy": N_("busy"),
    "stopping": N_("stopping"),
    "stopped": N_("stopped"),
    "failed": N_("failed"),
}


class Texts(Protocol):
    """Fills a template in the person's language."""

    def __call__(self, template: str, /, **values: object) -> str: ...


def lines(seen: Overview, text: Texts) -> list[str]:
    """Everything, as lines."""
    head = above(seen, text)
    if not seen.rows:
        return [*head, text("No model is loaded.")]
    return [*head, "", *table(headings(text), [cells(row, text) for row in seen.rows], right=RIGHT)]


def figures(seen: Overview, text: Texts) -> str:
    """``3 requests running, 1 waiting, 41 served · 35.2 tokens/s · memory ▇▇▇▁▁ 5.1 of 16 GiB``."""
    told = [text("{running} running, {waiting} waiting, {count} served", **_counts(seen))]
    rate = "-" if seen.tokens_per_s is None else f"{seen.tokens_per_s:.1f}"
    told.append(text("{rate} tokens/s", rate=rate))
    share = seen.used_share
    if share is not None and seen.used_bytes is not None and seen.total_bytes is not None:
        full = round(share * _BAR_COLUMNS)
        bar = "█" * full + "░" * (_BAR_COLUMNS - full)
        used, total = format_bytes(seen.used_bytes), format_bytes(seen.total_bytes)
        told.append(text("memory {bar} {used} of {total}", bar=bar, used=used, total=total))
    return "  ·  ".join(told)


def above(seen: Overview, text: Texts) -> list[str]:
    """The figures, and a line for each of the other servers that cannot be used."""
    down = [each for each in seen.upstreams if not each.is_up]
    return [figures(seen, text), *(text(DOWN, name=printable(each.name), url=printable(each.url)) for each in down)]


def _counts(seen: Overview) -> dict[str, object]:
    return {"running": seen.num_running, "waiting": seen.num_waiting, "count": seen.num_requests}


def headings(text: Texts) -> list[str]:
    """Of the table."""
    named = (
        N_("NAME"),
        N_("STATE"),
        N_("MEMORY"),
        N_("TOKENS/S"),
        N_("SLOTS"),
        N_("WAITING"),
        N_("REQUESTS"),
        N_("WRITTEN"),
        N_("UNLOADS IN"),
    )
    return [text(heading) for heading in named]


def cells(row: Row, text: Texts, now: datetime | None = None) -> list[str]:
    """Of one model."""
    running = row.resident
    return [
        printable(running.name),
        state_words(running, text),
        format_bytes(row.num_bytes),
        "-" if row.tokens_per_s is None else f"{row.tokens_per_s:.1f}",
        f"{running.num_leases}/{running.num_slots}",
        str(running.num_waiting),
        str(running.num_requests),
        str(running.num_generated_tokens),
        _until(row, text, now or datetime.now(timezone.utc)),
    ]


def state_words(running: Resident, text: Texts) -> str:
    """The state; and how often the engine ended by itself, if it did. A word of a newer server is shown as it is."""
    word = _STATE_WORDS.get(running.state)
    state = text(word) if word is not None else printable(running.state)
    return text("{state}, {count} crashes", state=state, count=running.num_crashes) if running.num_crashes else state


def _until(row: Row, text: Texts, now: datetime) -> str:
    running = row.resident
    if running.pinned:
        return text("pinned")
    if running.num_leases or running.num_waiting:
        return text("in use")
    if running.expires_at is None:
        return text("stays")
    left_s = max(0, int((running.expires_at - now).total_seconds()))
    return f"{left_s // 60}:{left_s % 60:02}" if left_s < 3600 else f"{left_s // 3600} h"
