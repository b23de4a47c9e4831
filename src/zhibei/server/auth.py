"""Who may ask. Owns the one check of a key, whichever header it came in; knows nothing of routes and their dialects."""

from __future__ import annotations

import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

from zhibei.errors import BadSetting, NotPermitted
from zhibei.server.access import SCOPES, Scope
from zhibei.server.ask import ANYBODY, NOBODY, Caller
from zhibei.server.keys import Key, KeyFile, KeyLimits, digest_of

MAX_WRONG_KEYS = 10
WINDOW_S = 60.0
SETTING_ID = "setting"
"""The name of the one key that ``server.api_key`` holds."""

_MAX_ADDRESSES = 1024
# As OpenAI's, Anthropic's, Azure's and Google's clients send it; never a query or a cookie, which end up in logs and pages.
_KEY_HEADERS = frozenset((b"x-api-key", b"api-key", b"x-goog-api-key"))
_HINT = "Send it as: Authorization: Bearer KEY."

log = logging.getLogger("zhibei.server")


class KeyNeeded(NotPermitted):
    """The request has no key, or not a right one."""


class TooManyWrongKeys(NotPermitted):
    """More different wrong keys came from one address than a person mistypes."""


@dataclass(frozen=True, slots=True)
class Known:
    """A key that opens something."""

    caller: Caller
    digest: bytes
    limits: KeyLimits = KeyLimits()
    expires_at: datetime | None = None

    def is_expired(self, now: datetime) -> bool:
        """Whether it no longer opens anything."""
        return self.expires_at is not None and self.expires_at <= now


class Keeper:
    """Holds the hashes of the keys, and remembers the wrong ones that each address has tried in the last minute.

    Without any key everybody may do everything. Once there was one, a key is needed until the server ends, also when the last
    was revoked: a server must not open itself because a file is gone. The same wrong key again is a misconfigured program,
    not a guess: it is refused, but not counted twice.
    """

    def __init__(self, api_key: str | None, keys: KeyFile | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        own = Caller(SETTING_ID, frozenset(SCOPES))
        self._own: tuple[Known, ...] = () if api_key is None else (Known(own, digest_of(api_key.encode())),)
        self._file = keys
        self._clock = clock
        self._is_closed = bool(self._own)
        self._is_damaged = False
        self._seen: tuple[Key, ...] = ()
        self._opening: tuple[Known, ...] = self._own
        self._wrong: OrderedDict[str, dict[bytes, float]] = OrderedDict()

    def needs_key(self) -> bool:
        """Whether a key is needed here.

        Raises:
            BadSetting: the file of keys is damaged.
        """
        if self._file is not None and self._file.keys():
            self._is_closed = True
        return self._is_closed

    def admit(self, scope: Scope | None, headers: Iterable[tuple[bytes, bytes]], address: str) -> tuple[Caller, KeyLimits]:
        """Who asks, and what they may use. ``scope`` None: what is asked for is there for everybody.

        Raises:
            KeyNeeded: no key, or a wrong one.
            TooManyWrongKeys: this address has been guessing.
            NotPermitted: the key is not for this.
        """
        known = self._known()
        if not self._is_closed:
            return ANYBODY, KeyLimits()
        if scope is None:
            return NOBODY, KeyLimits()
        presented = presented_key(headers)
        if presented is None:
            raise KeyNeeded("This server needs an API key.", hint=_HINT)
        found = self._find(known, digest_of(presented), address)
        if found.is_expired(datetime.now(timezone.utc)):
            raise KeyNeeded("The API key has expired.", hint="Ask whoever runs this server for a new one.")
        if scope not in found.caller.scopes:
            hint = "Use a key that has it; one is made by: zhibei key create --scope {scope}"
            raise NotPermitted("This API key is not for that: it lacks the scope {scope}.", hint=hint, scope=scope)
        return found.caller, found.limits

    def holds(self, key_id: str) -> bool:
        """Whether a key that opened something still would."""
        now = datetime.now(timezone.utc)
        return any(each.caller.id == key_id and not each.is_expired(now) for each in self._known())

    def _known(self) -> tuple[Known, ...]:
        if self._file is None:
            return self._own
        try:
            keys = self._file.keys()
        except BadSetting as error:
            # Whoever is in the middle of mending it should not open the server, nor end it.
            self._is_closed = True
            if not self._is_damaged:
                log.error("no key of the file opens anything: %s", error)
            self._is_damaged = True
            return self._own
        self._is_damaged = False
        if keys is not self._seen:
            self._seen, self._opening = keys, (*self._own, *map(_opening, keys))
        self._is_closed = self._is_closed or bool(keys)
        return self._opening

    def _find(self, known: tuple[Known, ...], digest: bytes, address: str) -> Known:
        guesses = self._recent(address)
        if len(guesses) >= MAX_WRONG_KEYS and digest not in guesses:
            raise TooManyWrongKeys("Too many wrong API keys came from your address.", hint="Wait a minute.")
        found: Known | None = None
        # All are looked at, the found one too, so that the time tells nothing.
        for each in known:
            if hmac.compare_digest(digest, each.digest):
                found = each
        if found is None:
            self._remember(address, guesses, digest)
            raise KeyNeeded("The API key is wrong.", hint=_HINT)
        return found

    def _recent(self, address: str) -> dict[bytes, float]:
        limit = self._clock() - WINDOW_S
        return {digest: at for digest, at in self._wrong.get(address, {}).items() if at > limit}

    def _remember(self, address: str, guesses: dict[bytes, float], digest: bytes) -> None:
        guesses[digest] = self._clock()
        self._wrong[address] = guesses
        self._wrong.move_to_end(address)
        if len(self._wrong) > _MAX_ADDRESSES:
            self._wrong.popitem(last=False)


def _opening(key: Key) -> Known:
    scopes = frozenset(SCOPES) if "admin" in key.scopes else key.scopes
    return Known(Caller(key.id, scopes), key.digest, key.limits, key.expires_at)


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key a request carries: ``Authorization: Bearer`` first, else the first of the other headers."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name in _KEY_HEADERS and found is None:
            found = value.strip()
    return found


def revoked() -> KeyNeeded:
    """What ends an answer whose key is no longer one."""
    return KeyNeeded("The API key was revoked or has expired.")
