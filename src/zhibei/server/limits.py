"""How much each key may use: requests and tokens a minute, requests at once. Pure but for an injected clock.

A bucket holds a minute's worth and fills again evenly, so that a burst is allowed and a flood is not. What an answer costs is
known when it ends: tokens may bring the bucket below nothing, and then nothing is taken until it has filled again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

from zhibei.errors import Busy
from zhibei.events import Finished
from zhibei.server.ask import Ask, Headers
from zhibei.server.keys import MAX_KEYS, KeyLimits

_MINUTE_S = 60.0
# Somebody who waits for a place should not come back at once; nobody knows when one is free.
_PLACE_RETRY_S = 1

Kind = Literal["requests", "tokens"]


class RateLimited(Busy):
    """A key has used what it may use."""


class Bucket:
    """A minute's worth of something. ``level`` may be below nothing."""

    def __init__(self, limit: int, now_s: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at_s = now_s

    def level(self, now_s: float) -> float:
        """What is left."""
        self._level = min(self.limit, self._level + max(0.0, now_s - self._at_s) * self.limit / _MINUTE_S)
        self._at_s = now_s
        return self._level

    def take(self, amount: int, now_s: float) -> None:
        """Use some, whether it is there or not."""
        self._level = self.level(now_s) - amount

    def wait_s(self, now_s: float) -> float:
        """How long until at least one is there."""
        return max(0.0, (1 - self.level(now_s)) * _MINUTE_S / self.limit)

    def full_in_s(self, now_s: float) -> float:
        """How long until all of it is there."""
        return (self.limit - self.level(now_s)) * _MINUTE_S / self.limit


@dataclass(slots=True)
class _Use:
    """What one key has used."""

    limits: KeyLimits = KeyLimits()
    requests: Bucket | None = None
    tokens: Bucket | None = None
    num_running: int = 0


class Limiter:
    """Counts what each key uses; keys without limits are not counted. Watches answers for what they cost."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @contextmanager
    def request(self, key_id: str, limits: KeyLimits) -> Iterator[Headers]:
        """Count a request while it lasts; what is left is told to the client.

        Raises:
            RateLimited: it would be too much.
        """
        if limits == KeyLimits():
            yield []
            return
        use, now_s = self._use(key_id, limits), self._clock()
        _check(use, now_s)
        if use.requests is not None:
            use.requests.take(1, now_s)
        use.num_running += 1
        try:
            yield _headers(use, now_s)
        finally:
            use.num_running -= 1

    def spend(self, key_id: str, num_tokens: int) -> None:
        """Count what an answer has cost."""
        use = self._uses.get(key_id)
        if use is not None and use.tokens is not None:
            use.tokens.take(num_tokens, self._clock())

    def _use(self, key_id: str, limits: KeyLimits) -> _Use:
        found = self._uses.get(key_id)
        if found is None:
            if len(self._uses) >= MAX_KEYS:
                self._uses = {known: use for known, use in self._uses.items() if use.num_running}
            found = self._uses[key_id] = _Use()
        if found.limits != limits:
            now_s = self._clock()
            found.limits = limits
            found.requests = _bucket(limits.requests_per_minute, now_s)
            found.tokens = _bucket(limits.tokens_per_minute, now_s)
        return found


class TokenCount:
    """A Watcher that has each answer counted."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def answered(self, ask: Ask, method: str, route: str, status: int, took_s: float) -> None:
        """Costs no tokens."""

    def began(self, ask: Ask, model: str) -> None:
        """Costs no tokens yet."""

    def first_token(self, ask: Ask, model: str, after_s: float) -> None:
        """What it costs is known at the end."""

    def admitted(self, ask: Ask, model: str, name: str, waited_s: float) -> None:
        """Costs no tokens."""

    def finished(self, ask: Ask, model: str, end: Finished, took_s: float) -> None:
        """Prompt and answer; what was in the cache cost nothing to read, but was asked for."""
        self._limiter.spend(ask.caller.id, end.usage.num_prompt_tokens + end.usage.num_generated_tokens)

    def failed(self, ask: Ask, model: str, error: BaseException) -> None:
        """What was answered up to then; what its prompt cost, nobody knows."""
        self._limiter.spend(ask.caller.id, ask.meter.num_pieces)


def _bucket(limit: int | None, now_s: float) -> Bucket | None:
    return None if limit is None else Bucket(limit, now_s)


def _check(use: _Use, now_s: float) -> None:
    if use.limits.concurrent is not None and use.num_running >= use.limits.concurrent:
        raise RateLimited(
            "This key may have {limit} requests under way at once.",
            hint="Wait until one has ended.",
            retry_after_s=_PLACE_RETRY_S,
            limit=use.limits.concurrent,
        )
    if use.requests is not None and use.requests.level(now_s) < 1:
        raise RateLimited(
            "This key may send {limit} requests a minute.",
            hint="Wait {seconds} s.",
            retry_after_s=(wait_s := math.ceil(use.requests.wait_s(now_s))),
            limit=use.requests.limit,
            seconds=wait_s,
        )
    if use.tokens is not None and use.tokens.level(now_s) < 1:
        raise RateLimited(
            "This key may use {limit} tokens a minute.",
            hint="Wait {seconds} s.",
            retry_after_s=(wait_s := math.ceil(use.tokens.wait_s(now_s))),
            limit=use.tokens.limit,
            seconds=wait_s,
        )


def _headers(use: _Use, now_s: float) -> Headers:
    """As OpenAI and as Anthropic name them."""
    found: Headers = []
    pairs: tuple[tuple[Kind, Bucket | None], ...] = (("requests", use.requests), ("tokens", use.tokens))
    for kind, bucket in pairs:
        if bucket is not None:
            left, full_in_s = max(0, int(bucket.level(now_s))), bucket.full_in_s(now_s)
            at = (datetime.now(timezone.utc) + timedelta(seconds=full_in_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
            for name, value in (
                (f"x-ratelimit-limit-{kind}", str(bucket.limit)),
                (f"x-ratelimit-remaining-{kind}", str(left)),
                (f"x-ratelimit-reset-{kind}", duration(full_in_s)),
                (f"anthropic-ratelimit-{kind}-limit", str(bucket.limit)),
                (f"anthropic-ratelimit-{kind}-remaining", str(left)),
                (f"anthropic-ratelimit-{kind}-reset", at),
            ):
                found.append((name.encode(), value.encode()))
    return found


def duration(seconds: float) -> str:
    """A time as OpenAI writes it in headers: ``6m0s``, ``1s``, ``120ms``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"
