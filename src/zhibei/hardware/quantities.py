"""Numbers and names out of foreign text: bounded and type-checked, else None."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_MEMORY_BYTES = 1 << 50
MAX_TEXT = 128

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def whole(value: object, low: int = 0, high: int = MAX_MEMORY_BYTES) -> int | None:
    """A whole number from ``low`` to ``high``, written in decimal digits or given as an int."""
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    return None


def size(text: str | None) -> int | None:
    """Bytes of a size as tools write it: ``32K``, ``64 KiB``, ``24576MiB``, ``16 GB``. All units are powers of 1024."""
    match = re.match(r"\s*(\d{1,15}(?:\.\d{1,3})?)(?:\s*([KMGT]?)i?B?)\s*(?:$|[^\sA-Za-z0-9])", text or "")
    if match is None:
        return None
    return whole(round(float(match[1]) * _UNITS[match[2]]))


def label(value: object) -> str | None:
    """A short name on one line, without what a terminal would obey."""
    if not isinstance(value, str):
        return None
    text = " ".join("".join(character if character.isprintable() else " " for character in value).split())
    return text[:MAX_TEXT] or None


def version(value: object) -> str | None:
    """A version such as ``550.54.14`` or ``12.4``."""
    text = label(value)
    return text if text is not None and re.fullmatch(r"\d[0-9A-Za-z.+~-]{0,39}", text) else None


def field(text: str | None, name: str) -> str | None:
    """The value of the first line ``name : value``."""
    match = re.search(rf"^[ \t]*{re.escape(name)}[ \t]*:[ \t]*(\S[^\n]*)$", text or "", re.MULTILINE)
    return match[1].strip() if match else None


def pci_address(value: object) -> str | None:
    """``0000:01:00.0``, however a tool writes the address of a PCI device."""
    match = re.fullmatch(
        r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", value.strip().lower() if isinstance(value, str) else ""
    )
    if match is None:
        return None
    return f"{int(match[1] or '0', 16):04x}:{match[2]}:{match[3]}.{match[4]}"


def document(text: str | None) -> Any:
    """What a tool prints as JSON; None if it is none. Some print warnings before it."""
    begin = re.search(r"^\s*[\[{]", text or "", re.MULTILINE)
    if begin is None:
        return None
    try:
        return json.loads((text or "")[begin.start() :])
    except (ValueError, RecursionError):
        return None


def members(text: str | None) -> int | None:
    """How many a list like ``0-3,8`` names; every list in the kernel's files is short."""
    found = numbers(text)
    return len(found) or None


def numbers(text: str | None) -> frozenset[int]:
    """The numbers that a list like ``0-3,8`` names; empty if it is none."""
    found: set[int] = set()
    for part in (text or "").strip().split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part)
        if match is None:
            return frozenset()
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)
