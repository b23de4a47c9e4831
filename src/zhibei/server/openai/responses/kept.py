"""Responses that can be continued or read again: in memory, for a while, each for the caller that made it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from zhibei.server.openai.responses.schema import Item

MAX_RESPONSES = 1000
MAX_BYTES = 64 * 1024 * 1024
TTL_S = 3600.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A response. ``history``: what it was given, earlier responses' items first."""

    owner: str
    body: Mapping[str, Any]
    history: tuple[Item, ...]
    output: tuple[Item, ...]
    num_bytes: int
    until_s: float

    @property
    def items(self) -> tuple[Item, ...]:
        """The whole conversation so far."""
        return (*self.history, *self.output)


class KeptResponses:
    """The responses of one server; the oldest give way."""

    def __init__(
        self,
        *,
        max_responses: int = MAX_RESPONSES,
        max_bytes: int = MAX_BYTES,
        ttl_s: float = TTL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._num_bytes = 0
        self._max_responses, self._max_bytes, self._ttl_s, self._clock = max_responses, max_bytes, ttl_s, clock

    def keep(self, owner: str, body: Mapping[str, Any], history: tuple[Item, ...]) -> None:
        """Keep a finished response, unless it alone is more than may be kept."""
        output = tuple(Item.model_validate(item) for item in body["output"])
        num_bytes = len(orjson.dumps(body)) + sum(len(item.model_dump_json()) for item in history)
        if num_bytes > self._max_bytes:
            return
        self.drop(owner, body["id"])
        self._kept[body["id"]] = Kept(owner, body, history, output, num_bytes, self._clock() + self._ttl_s)
        self._num_bytes += num_bytes
        self._tidy()

    def find(self, owner: str, response_id: str) -> Kept | None:
        """One of ``owner``'s responses."""
        self._tidy()
        found = self._kept.get(response_id)
        return found if found is not None and found.owner == owner else None

    def items_of(self, owner: str) -> Mapping[str, Item]:
        """The items of all of ``owner``'s responses by id."""
        self._tidy()
        return {item.id: item for kept in self._kept.values() if kept.owner == owner for item in kept.items if item.id}

    def drop(self, owner: str, response_id: str) -> bool:
        """Forget one of ``owner``'s responses; False if there is none."""
        if self.find(owner, response_id) is None:
            return False
        self._num_bytes -= self._kept.pop(response_id).num_bytes
        return True

    def _tidy(self) -> None:
        """The first ones are the oldest, and so the first to expire."""
        now = self._clock()
        while self._kept:
            first = next(iter(self._kept))
            kept = self._kept[first]
            if kept.until_s > now and len(self._kept) <= self._max_responses and self._num_bytes <= self._max_bytes:
                return
            self._num_bytes -= self._kept.pop(first).num_bytes
