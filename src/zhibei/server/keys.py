"""The keys of a server, in one file of its home. Owns the file and what is known of a key; knows nothing of HTTP.

A key is 256 random bits, so nobody can try them all, and one round of SHA-256 hides it as well as a slow hash would; those
are for passwords, which people choose. Only hashes are kept: a key is shown once, when it is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zhibei.errors import BadRequest, BadSetting, StoreBusy, StoreError
from zhibei.server.access import SCOPES, Scope
from zhibei.store.locks import FileLock

PREFIX = "zb-"
MAX_KEYS = 1000
MAX_NAME_CHARS = 100
MAX_LIMIT = 10**9
_MAX_FILE_BYTES = 4 << 20
_LOCK_TIMEOUT_S = 10.0
_VERSION = 1


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may use at most; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A key without the key. ``id`` names it, and is no secret; ``digest`` is the SHA-256 of its text."""

    id: str
    name: str
    digest: bytes
    scopes: frozenset[Scope]
    limits: KeyLimits
    created_at: datetime
    expires_at: datetime | None = None

    def is_expired(self, now: datetime) -> bool:
        """Whether it no longer opens anything."""
        return self.expires_at is not None and self.expires_at <= now


class KeyFile:
    """``keys.json``: read again when it has changed, written in one step, open to its owner alone."""

    def __init__(self, home: Path) -> None:
        self.path = home / "keys.json"
        self._stamp: tuple[int, int, int] | None = None
        self._keys: tuple[Key, ...] = ()

    def keys(self) -> tuple[Key, ...]:
        """All keys, expired ones too; looks at the file each time, and reads it where it is another than before.

        Raises:
            BadSetting: it is damaged, or may not be read.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._stamp, self._keys = None, ()
            return ()
        except OSError as error:
            raise _unreadable(self.path, error) from None
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            self._keys = _read(self.path)
            self._stamp = stamp
        return self._keys

    def create(
        self, name: str, scopes: Iterable[Scope], limits: KeyLimits = KeyLimits(), expires_at: datetime | None = None
    ) -> tuple[Key, str]:
        """Make a key; the second value is its text, which nobody can tell again.

        Raises:
            BadRequest: a name that is too long, or too many keys.
            BadSetting: the file is damaged.
            StoreError: it cannot be written.
        """
        if len(name) > MAX_NAME_CHARS or not name.isprintable():
            raise BadRequest("A key's name has at most {limit} printable characters.", param="name", limit=MAX_NAME_CHARS)
        text = PREFIX + secrets.token_urlsafe(32)
        now = datetime.now(timezone.utc).replace(microsecond=0)
        with self._locked():
            known = self.keys()
            if len(known) >= MAX_KEYS:
                raise BadRequest("There are already {limit} keys.", hint="Revoke some: zhibei key revoke ID", limit=MAX_KEYS)
            key = Key(_new_id(known), name, digest_of(text.encode()), frozenset(scopes), limits, now, expires_at)
            self._write((*known, key))
        return key, text

    def revoke(self, key_id: str) -> Key:
        """Forget a key.

        Raises:
            BadRequest: there is none with this id.
            BadSetting: the file is damaged.
            StoreError: it cannot be written.
        """
        with self._locked():
            known = self.keys()
            gone = next((key for key in known if key.id == key_id), None)
            if gone is None:
                raise BadRequest("There is no key {id}.", hint="Their ids: zhibei key list", param="id", id=key_id)
            self._write(tuple(key for key in known if key is not gone))
        return gone

    def _locked(self) -> FileLock:
        lock = FileLock(self.path.with_name(".keys.lock"))
        try:
            lock.acquire(_LOCK_TIMEOUT_S)
        except StoreBusy:
            raise StoreBusy("Another process is writing the file of keys.", hint="Try again in a moment.") from None
        except OSError as error:
            raise _unwritable(self.path, error) from None
        return lock

    def _write(self, keys: tuple[Key, ...]) -> None:
        text = json.dumps({"version": _VERSION, "keys": [_encoded(key) for key in keys]}, indent=1)
        temporary = self.path.with_name(f".keys.{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _unwritable(self.path, error) from None


def digest_of(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


def _new_id(known: tuple[Key, ...]) -> str:
    taken = {key.id for key in known}
    while True:
        made = "k_" + secrets.token_hex(4)
        if made not in taken:
            return made


def _encoded(key: Key) -> dict[str, Any]:
    limits = key.limits
    return {
        "id": key.id,
        "name": key.name,
        "sha256": key.digest.hex(),
        "scopes": [scope for scope in SCOPES if scope in key.scopes],
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrent": limits.concurrent,
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
    }


def _read(path: Path) -> tuple[Key, ...]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        document = json.loads(data)
        if document["version"] != _VERSION:
            raise ValueError("it was written by another version")
        keys = tuple(_decoded(item) for item in document["keys"])
        if len({key.id for key in keys}) != len(keys):
            raise ValueError("an id appears twice")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        problem = str(error)[:100] if type(error) is ValueError else type(error).__name__
        raise BadSetting(
            "The file of keys {path} is damaged: {problem}.",
            hint="Mend it, or remove it and make new keys.",
            path=path,
            problem=problem,
        ) from None
    return keys


def _decoded(item: dict[str, Any]) -> Key:
    if not re.fullmatch(r"k_[0-9a-f]{8,32}", item["id"]) or not re.fullmatch(r"[0-9a-f]{64}", item["sha256"]):
        raise ValueError("an id or a hash is none")
    scopes = item["scopes"]
    if not isinstance(scopes, list) or not set(scopes) <= set(SCOPES):
        raise ValueError("there is no such scope")
    expires_at = item.get("expires_at")
    return Key(
        item["id"],
        str(item.get("name") or ""),
        bytes.fromhex(item["sha256"]),
        frozenset(scopes),
        KeyLimits(*(_limit(item.get(name)) for name in ("requests_per_minute", "tokens_per_minute", "concurrent"))),
        _time(item["created_at"]),
        None if expires_at is None else _time(expires_at),
    )


def _limit(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_LIMIT):
        raise ValueError("a limit is not a number from 1")
    return value


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time has no zone")
    return found


def _unreadable(path: Path, error: OSError) -> BadSetting:
    return BadSetting("The file of keys {path} cannot be read: {problem}", path=path, problem=error.strerror or error)


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError("The file of keys {path} cannot be written: {problem}", path=path, problem=error.strerror or error)
