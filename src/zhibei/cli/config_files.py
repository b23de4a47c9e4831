"""Writing a part of ours into another program's configuration: a copy of what was there is kept, and nothing is lost."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from zhibei.cli.clients.base import ConfigFile
from zhibei.errors import BadSetting

_MAX_BYTES = 4 << 20
_PRIVATE = 0o600


def write(file: ConfigFile, home: Path) -> tuple[Path, Path | None]:
    """Put our part into the file; returns its path and that of the copy of what it was, None if it is new.

    Raises:
        BadSetting: it cannot be read, written or understood; it is as it was.
    """
    path = home.joinpath(*file.path)
    # What a link points to is changed, the link stays.
    path = path.resolve() if path.is_symlink() else path
    try:
        text = _read(path)
        merged = file.merge(text)
        if merged is None:
            raise BadSetting(
                "{path} is not changed: it has content of yours where ours would be, or it cannot be understood.",
                hint="Put in by hand what this command prints.",
                path=path,
            )
        if merged == text:
            return path, None
        path.parent.mkdir(parents=True, exist_ok=True)
        backup = _copy(path, text) if text is not None else None
        mode = path.stat().st_mode & 0o777 if text is not None else _PRIVATE
        _replace(path, merged, mode)
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting("{path} cannot be changed: {problem}", path=path, problem=error) from None
    return path, backup


def _read(path: Path) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    if size > _MAX_BYTES:
        raise OSError(f"it has {size} bytes")
    return path.read_bytes().decode("utf-8")


def _copy(path: Path, text: str) -> Path:
    backup = path.with_name(f"{path.name}.{datetime.now():%Y%m%d-%H%M%S}.zhibei-backup")
    _replace(backup, text, path.stat().st_mode & 0o777)
    return backup


def _replace(path: Path, text: str, mode: int) -> None:
    """The whole text or nothing: keys may be in it, so nobody else may read it meanwhile."""
    temporary = path.with_name(f".{path.name}.zhibei-{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(text.encode("utf-8"))
            opened.flush()
            os.fsync(opened.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
