"""What one test run does once, however many processes share it: the first of them does it, the others wait and take it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def run_dir(base_temp: Path) -> Path:
    """The temporary directory of the whole run, of a process's own one."""
    return base_temp.parent if "PYTEST_XDIST_WORKER" in os.environ else base_temp


def once(base_temp: Path, name: str, make: Callable[[Path], object]) -> Path:
    """A directory of the run, filled by ``make`` in the first process that asks; where that failed, the next tries again."""
    place = run_dir(base_temp) / "once" / name
    place.mkdir(parents=True, exist_ok=True)
    directory, done = place / "made", place / "done"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            directory.mkdir(exist_ok=True)
            make(directory)
            done.touch()
    return directory
