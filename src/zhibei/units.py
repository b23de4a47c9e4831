"""Bytes, rates and durations to text and back. Powers of 1024 are written KiB, MiB, GiB; of 1000 KB, MB, GB."""

from __future__ import annotations

import re
from fractions import Fraction

from zhibei.errors import BadRequest

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_FACTORS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def format_bytes(num_bytes: int) -> str:
    """``1536`` → ``1.5 KiB``."""
    value = float(num_bytes)
    for unit in _BINARY:
        if round(abs(value)) < 1024 or unit == _BINARY[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def format_count(count: int) -> str:
    """``134515008`` → ``134.5M``: parameters, as model cards write them."""
    for factor, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        # 999,950 would be written 1000.0K.
        if round(count / (factor // 1000), 1) >= 1000:
            return f"{count / factor:.1f}{unit}"
    return str(count)


def format_duration(seconds: float) -> str:
    """``75`` → ``1m15s``; under a minute ``12s``, under ten seconds ``1.2s``."""
    if round(seconds, 1) < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


def parse_bytes(text: str) -> int:
    """``8GiB``, ``500 MB``, ``1024`` → bytes.

    Raises:
        BadRequest: not a size.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise BadRequest("{text!r} is not a size.", hint="Write it like 8GiB, 500MB or 1024.", text=text)
    return int(Fraction(match[1]) * _FACTORS[(match[2] or "").lower()])


def parse_keep_alive(text: str | float) -> float | None:
    """``5m``, ``30``, ``0``, ``forever`` → seconds; None means for ever (any negative number does too, as Ollama has it).

    Raises:
        BadRequest: not a duration.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return _checked_duration(text, text)
    cleaned = str(text).strip().lower()
    if cleaned in ("forever", "inf"):
        return None
    match = re.fullmatch(r"(-?)(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)?", cleaned, re.ASCII)
    if match is None:
        raise BadRequest("{text!r} is not a duration.", hint=_DURATION_HINT, text=text)
    seconds = float(match[2]) * _SECONDS[match[3] or "s"]
    return _checked_duration(-seconds if match[1] else seconds, text)


def _checked_duration(seconds: float, text: str | float) -> float | None:
    if seconds != seconds or seconds > _MAX_SECONDS:
        raise BadRequest("{text!r} is not a duration.", hint=_DURATION_HINT, text=text)
    return None if seconds < 0 else abs(float(seconds))


# About thirty years: more than that is no time but "for ever", and would not fit a calendar.
_MAX_SECONDS = 10**9
_DURATION_HINT = "Write it like 30s, 5m, 2h, 0 or forever."
