"""What is known of a request once it has passed the guard: who asks, how errors are said to it, who watches. No HTTP here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from zhibei.errors import ZhibeiError
from zhibei.events import Finished
from zhibei.server.access import SCOPES, Scope

if TYPE_CHECKING:
    from starlette.requests import Request

    from zhibei.server.drain import Drain

ASK_KEY = "zhibei.ask"
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. ``id`` names the key, and is empty where the server asks for none; it is no secret."""

    id: str = ""
    scopes: frozenset[Scope] = frozenset(SCOPES)


ANYBODY = Caller()
NOBODY = Caller("", frozenset())


@dataclass(slots=True)
class Meter:
    """How far a request has come. ``num_pieces``: pieces of answers, each of about a token."""

    num_pieces: int = 0


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as a dialect says it. ``body`` is the whole body, and also the last event of a stream that fails."""

    status: int
    body: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that passed. ``detail``: its client wants errors it can raise again. ``say``: an error, in its dialect."""

    id: str
    detail: bool
    drain: Drain
    say: Callable[[ZhibeiError], ErrorReply]
    caller: Caller = ANYBODY
    watchers: tuple[Watcher, ...] = ()
    meter: Meter = field(default_factory=Meter)


class Watcher(Protocol):
    """Is told of the course of requests, in this order; must not raise. Times are in seconds, from when it was accepted."""

    def answered(self, ask: Ask, method: str, route: str, status: int, took_s: float) -> None:
        """A response is complete, or was cut. ``route`` is the pattern, never the path itself; empty if there is none."""
        ...

    def began(self, ask: Ask, model: str) -> None:
        """Work on a model is wanted; it may have to wait for the model."""
        ...

    def admitted(self, ask: Ask, model: str, name: str, waited_s: float) -> None:
        """The model is at hand, after queue and loading. ``model`` is what the client said, ``name`` what the model is called."""
        ...

    def first_token(self, ask: Ask, model: str, after_s: float) -> None:
        """The first piece of an answer came."""
        ...

    def finished(self, ask: Ask, model: str, end: Finished, took_s: float) -> None:
        """An answer is complete."""
        ...

    def failed(self, ask: Ask, model: str, error: BaseException) -> None:
        """It ended otherwise: an error, or GeneratorExit or CancelledError where the client left."""
        ...


def ask_of(request: Request) -> Ask:
    """The Ask of a request inside a route."""
    ask: Ask = request.scope[ASK_KEY]
    return ask
