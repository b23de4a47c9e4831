"""The generations under way, by caller and key: what they have said so far, and how they are ended. Knows no wire format.

A caller sees and ends none but its own; where the server asks for no key, all are one caller.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from zhibei.chat import TokenLogprob
from zhibei.errors import Busy
from zhibei.events import Finished, GenerationEvent, TextDelta

# Events that are ready before they are sent.
MAX_AHEAD = 32
MAX_RUNS = 4096
MAX_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Aborted:
    """The end of a generation that its caller ended. What it cost, nobody told."""


@dataclass(slots=True)
class Run:
    """One generation. ``num_cut_tokens``: of its prompt, because it was too long."""

    caller: str
    genkey: str
    num_cut_tokens: int = 0
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    is_aborted: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def text(self) -> str:
        """What it has said so far."""
        return "".join(self.texts)

    def abort(self) -> None:
        """End it; what it has said is its answer."""
        self.is_aborted = True
        if self.task is not None:
            self.task.cancel()


@dataclass(slots=True)
class Last:
    """What is remembered of a caller's generations: how many ended, and of the last one its end and log-probabilities."""

    num_runs: int = 0
    end: Finished | None = None
    genkey: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()


class Runs:
    """All generations of one server that came this way."""

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._last: OrderedDict[str, Last] = OrderedDict()

    def begin(self, caller: str, genkey: str | None) -> Run:
        """A new generation; ``follow`` runs it, and forgets it when it ends.

        Raises:
            Busy: there are too many.
        """
        if len(self._runs) >= MAX_RUNS:
            raise Busy("Server is busy; please try again later.", retry_after_s=5)
        return Run(caller, genkey or "")

    async def follow(
        self, run: Run, events: AsyncGenerator[GenerationEvent, None]
    ) -> AsyncGenerator[GenerationEvent | Aborted, None]:
        """The same events, until it is aborted; then ``Aborted`` is the last."""
        queue: asyncio.Queue[GenerationEvent | None] = asyncio.Queue()
        # Where the listener is slow, the engine waits for it.
        room = asyncio.Semaphore(MAX_AHEAD)

        async def produce() -> None:
            # One task of its own takes all events: cancelling it ends the work wherever it stands.
            async with aclosing(events):
                async for event in events:
                    await room.acquire()
                    queue.put_nowait(event)

        task = run.task = asyncio.create_task(produce())
        task.add_done_callback(lambda done: queue.put_nowait(None))
        self._runs.append(run)
        try:
            while (event := await queue.get()) is not None and not run.is_aborted:
                self._note(run, event)
                yield event
                room.release()
            if run.is_aborted:
                yield Aborted()
            else:
                await task
        finally:
            self._runs.remove(run)
            self._count(run)
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()

    def find(self, caller: str, genkey: str | None) -> Run | None:
        """The caller's newest generation with a key; without one, the only one that has none, else the only one there is."""
        own = [run for run in self._runs if run.caller == caller]
        if genkey:
            return next((run for run in reversed(own) if run.genkey == genkey), None)
        keyless = [run for run in own if not run.genkey]
        if len(keyless) == 1:
            return keyless[0]
        return own[0] if len(own) == 1 else None

    def last(self, caller: str) -> Last:
        """What is remembered of a caller."""
        return self._last.get(caller) or Last()

    def _note(self, run: Run, event: GenerationEvent) -> None:
        if isinstance(event, TextDelta):
            run.texts.append(event.text)
            run.logprobs.extend(event.logprobs)
        elif isinstance(event, Finished):
            self._of(run.caller).end = event

    def _count(self, run: Run) -> None:
        last = self._of(run.caller)
        last.num_runs += 1
        last.genkey, last.logprobs = run.genkey, tuple(run.logprobs)

    def _of(self, caller: str) -> Last:
        found = self._last.setdefault(caller, Last())
        self._last.move_to_end(caller)
        while len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)
        return found
