"""Who may ask. Owns the one check of a key, whichever header it came in; knows nothing of routes and their dialects."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from zhibei.errors import NotPermitted

# Everything else needs the key, routes that do not exist included.
PUBLIC = frozenset((("GET", "/health"), ("HEAD", "/health")))
MAX_WRONG_KEYS = 10
WINDOW_S = 60.0
_MAX_ADDRESSES = 1024


class KeyNeeded(NotPermitted):
    """The request has no key, or not the right one."""


class TooManyWrongKeys(NotPermitted):
    """More different wrong keys came from one address than a person mistypes."""


class Keeper:
    """Holds the hash of the key, and remembers the wrong ones that each address has tried in the last minute.

    The same wrong key again is a misconfigured program, not a guess: it is refused, but not counted twice.
    """

    def __init__(self, api_key: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._digest = None if api_key is None else _digest(api_key.encode())
        self._clock = clock
        self._wrong: OrderedDict[str, dict[bytes, float]] = OrderedDict()

    def check(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], address: str) -> None:
        """Return if the request may go on.

        Raises:
            KeyNeeded: no key, or a wrong one.
            TooManyWrongKeys: this address has been guessing.
        """
        if self._digest is None or (method, path) in PUBLIC:
            return
        presented = presented_key(headers)
        if presented is None:
            raise KeyNeeded("This server needs an API key.", hint="Send it as: Authorization: Bearer KEY.")
        digest = _digest(presented)
        guesses = self._recent(address)
        if len(guesses) >= MAX_WRONG_KEYS and digest not in guesses:
            raise TooManyWrongKeys("Too many wrong API keys came from your address.", hint="Wait a minute.")
        if not hmac.compare_digest(digest, self._digest):
            self._remember(address, guesses, digest)
            raise KeyNeeded("The API key is wrong.", hint="Send it as: Authorization: Bearer KEY.")

    def _recent(self, address: str) -> dict[bytes, float]:
        limit = self._clock() - WINDOW_S
        return {digest: at for digest, at in self._wrong.get(address, {}).items() if at > limit}

    def _remember(self, address: str, guesses: dict[bytes, float], digest: bytes) -> None:
        guesses[digest] = self._clock()
        self._wrong[address] = guesses
        self._wrong.move_to_end(address)
        if len(self._wrong) > _MAX_ADDRESSES:
            self._wrong.popitem(last=False)


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key a request carries: ``Authorization: Bearer`` first, else ``x-api-key``; never a query or a cookie."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key" and found is None:
            found = value.strip()
    return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
