"""Which file names from outside are taken: those that are harmless on every system, so that a store can be moved.

Pure. The rules of POSIX and of Windows hold everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from zhibei.errors import SourceError
from zhibei.i18n import N_

# What a person is told of names that are refused.
NAMES_HINT = N_("Such names could overwrite other files. Choose another source of this model.")
_MAX_LENGTH = 240
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(?:\..*)?", re.IGNORECASE)
_CONTROL_DIRECTORIES = frozenset((".git", ".hg", ".svn"))


def check_relative(name: str) -> PurePosixPath:
    """A path from outside, relative and harmless.

    Raises:
        SourceError: it is absolute, climbs, holds what Windows or a terminal would take amiss, or is too long.
    """
    if not name or len(name) > 4 * _MAX_LENGTH or name.startswith("/") or name.endswith("/"):
        raise _refused(name)
    for part in name.split("/"):
        _check_part(part, name)
    return PurePosixPath(name)


def check_file_name(name: str) -> str:
    """A single file name from outside, without directories.

    Raises:
        SourceError: as ``check_relative`` has it, or there is a directory.
    """
    if "/" in name:
        raise _refused(name)
    return check_relative(name).name


def harmless(name: str) -> str:
    """A file name for showing and recording: itself where it passes the rules, else what is left of it."""
    try:
        return check_file_name(name)
    except SourceError:
        left = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-_MAX_LENGTH:].strip("._ ")
        is_reserved = _RESERVED.fullmatch(left) is not None
        return (f"model-{left[:200]}".rstrip(".") if is_reserved else left) or "model"


def check_distinct(names: Iterable[str]) -> None:
    """Refuse names that a file system without case, or one that normalises, would take for the same.

    Raises:
        SourceError: two are the same.
    """
    seen: set[str] = set()
    for name in names:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())
        if folded in seen:
            raise SourceError("The source names {name!r} twice.", hint=NAMES_HINT, name=name[:100])
        seen.add(folded)


def _check_part(part: str, name: str) -> None:
    plain = unicodedata.normalize("NFKC", part)
    is_bad = (
        part in ("", ".", "..")
        or plain in (".", "..")
        or "/" in plain
        or "\\" in plain
        or len(part.encode("utf-8", "surrogatepass")) > _MAX_LENGTH
        or plain[-1:] in (".", " ", "")
        or plain[0] == " "
        or _FORBIDDEN.search(part)
        or _RESERVED.fullmatch(plain)
        or part.lower() in _CONTROL_DIRECTORIES
        or any(unicodedata.category(char) in ("Cc", "Cf", "Cs") for char in part)
    )
    if is_bad:
        raise _refused(name)


def _refused(name: str) -> SourceError:
    return SourceError("The source names a file {name!r}, which is not allowed here.", hint=NAMES_HINT, name=name[:100])
