"""Pull to the end, with timers that need no waiting; and look at what a store holds."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

from zhibei.events import Pulled, PullEvent
from zhibei.models import StoredModel
from zhibei.refs import ModelRef
from zhibei.store.fetch import FetchOptions, Retries, Timers
from zhibei.store.library import Library
from zhibei.store.options import PullOptions

# One connection: what is asked for, and in which order, is then known.
QUICK = FetchOptions(retries=Retries(attempts=3, connect_attempts=1, first_s=0.001, longest_s=0.002), connections=1)
IMPATIENT = FetchOptions(timers=Timers(header_s=0.1, stall_s=0.1), retries=Retries(attempts=2, first_s=0.001), connections=1)
QUICK_PULL = PullOptions(fetch=QUICK, poll_s=0.01)


async def pull_events(library: Library, ref: str, **options: object) -> list[PullEvent]:
    """Every event of a pull."""
    async with aclosing(library.pull(ModelRef.parse(ref), **options)) as events:  # type: ignore[arg-type]
        return [event async for event in events]


async def pull(library: Library, ref: str, **options: object) -> StoredModel:
    """The model, pulled."""
    last = (await pull_events(library, ref, **options))[-1]
    assert isinstance(last, Pulled)
    return last.model


def blobs(home: Path) -> list[Path]:
    """The finished files."""
    return [path for path in (home / "blobs" / "sha256").rglob("*") if not path.is_dir() and path.suffix != ".chunks"]


def parts(home: Path) -> list[Path]:
    """The growing files' directories."""
    return sorted((home / "blobs" / "parts").glob("*.part"))
