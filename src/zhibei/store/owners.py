"""Who is working on a temporary file: a token in its name that tells, after a crash, whether its owner still lives.

It backs up the locks, which some network file systems grant to everybody.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

_TOKEN = re.compile(r"([0-9a-f]{8})-(\d{1,10})-(\d{1,12})-[0-9a-f]{8}", re.ASCII)
_FOREIGN_GRACE_S = 24 * 3600
_CLOCK_SLACK_S = 2


def new_token() -> str:
    """A token for this process: machine, process, its start, and a random part."""
    import secrets

    return f"{_machine()}-{os.getpid()}-{_started_at(os.getpid()) or 0}-{secrets.token_hex(4)}"


def is_alive(token: str, path: Path) -> bool:
    """Whether the owner may still be at work. On another machine that is so until ``path`` has been still for a day."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return False
    if match[1] != _machine():
        try:
            return time.time() - path.stat().st_mtime < _FOREIGN_GRACE_S
        except OSError:
            return False
    started = _started_at(int(match[2]))
    return started is not None and abs(started - int(match[3])) <= _CLOCK_SLACK_S


def _machine() -> str:
    import hashlib
    import socket

    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _started_at(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time())
    except psutil.Error:
        return None
