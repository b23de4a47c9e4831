"""Pulls that go on when the client that asked for them has left. Owns which run, what each has said, and how many there may be.

All of it runs on one event loop. What a pull said is kept short: of each file's progress the last word only.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any, Literal

from zhibei.errors import Busy, ZhibeiError
from zhibei.events import Inspected, Progress, PullEvent
from zhibei.server.errors import NoSuchRoute, unexpected
from zhibei.wire import ERROR_DETAIL_KEY, encode_error, encode_pull_event

MAX_RUNNING = 4
MAX_KEPT = 50
_MAX_SAID = 1000

State = Literal["running", "done", "failed", "cancelled"]
Pull = Callable[[], AsyncGenerator[PullEvent, None]]
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PullSummary:
    """A pull, as the list of pulls shows it. Bytes are those of all its files; None: not known yet."""

    id: str
    ref: str
    name: str | None
    state: State
    started_at: datetime
    ended_at: datetime | None
    done_bytes: int
    total_bytes: int | None
    error: Any = None


class _Job:
    """One pull. ``said``: key → (number, line); what has the same key replaces what was said before."""

    def __init__(self, ref: str, name: str | None) -> None:
        self.id = secrets.token_hex(6)
        self.ref = ref
        self.name = name
        self.state: State = "running"
        self.started_at = datetime.now(timezone.utc)
        self.ended_at: datetime | None = None
        self.said: dict[object, tuple[int, Line]] = {}
        self.num_said = 0
        self.total_bytes: int | None = None
        self.progress: dict[str, int] = {}
        self.error: Any = None
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def say(self, key: object, line: Line) -> None:
        self.num_said += 1
        self.said.pop(key, None)
        if len(self.said) >= _MAX_SAID:
            self.said.pop(next(iter(self.said)))
        self.said[key] = (self.num_said, line)
        self._wake()

    def hear(self, event: PullEvent) -> None:
        """What the library says of the pull."""
        key: object = self.num_said + 1
        if isinstance(event, Progress):
            key = ("progress", event.what)
            if event.unit == "bytes":
                self.progress[event.what] = event.done
        elif isinstance(event, Inspected):
            self.name, self.total_bytes = event.name, event.total_bytes
        self.say(key, encode_pull_event(event))

    def end(self, state: State, line: Line | None = None) -> None:
        self.state, self.ended_at = state, datetime.now(timezone.utc)
        if line is not None:
            self.say(("end",), line)
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def summary(self) -> PullSummary:
        done = sum(self.progress.values())
        return PullSummary(
            self.id, self.ref, self.name, self.state, self.started_at, self.ended_at, done, self.total_bytes, self.error
        )


class PullJobs:
    """The pulls of one server. ``tell``: is given a line whenever one begins or ends."""

    def __init__(self, tell: Callable[[Line], None]) -> None:
        self._jobs: dict[str, _Job] = {}
        self._tell = tell

    def start(self, ref: str, name: str | None, pull: Pull) -> PullSummary:
        """Begin a pull.

        Raises:
            Busy: too many run already.
        """
        running = [job for job in self._jobs.values() if job.state == "running"]
        same = next((job for job in running if (job.ref, job.name) == (ref, name)), None)
        if same is not None:
            return same.summary()
        if len(running) >= MAX_RUNNING:
            raise Busy("{count} pulls are under way already.", hint="Wait for one of them, or cancel one.", count=len(running))
        ended = [job.id for job in self._jobs.values() if job.state != "running"]
        for old in ended[: max(0, len(self._jobs) - MAX_KEPT + 1)]:
            del self._jobs[old]
        job = _Job(ref, name)
        self._jobs[job.id] = job
        job.task = asyncio.get_running_loop().create_task(self._run(job, pull))
        job.task.add_done_callback(partial(self._ended, job))
        return job.summary()

    def all(self) -> tuple[PullSummary, ...]:
        """All that run or have run, the oldest first."""
        return tuple(job.summary() for job in self._jobs.values())

    async def cancel(self, job_id: str) -> PullSummary:
        """Stop a pull; what has come stays for the next one. One that has ended is forgotten.

        Raises:
            NoSuchRoute: there is none.
        """
        job = self._find(job_id)
        if job.task is not None and not job.task.done():
            job.task.cancel()
            await asyncio.wait((job.task,))
            await asyncio.sleep(0)
        else:
            del self._jobs[job_id]
        return job.summary()

    def summary(self, job_id: str) -> PullSummary:
        """One pull.

        Raises:
            NoSuchRoute: there is none.
        """
        return self._find(job_id).summary()

    async def follow(self, job_id: str) -> AsyncGenerator[Line, None]:
        """What a pull has said and says, to its end. Who reads too slowly misses progress, and nothing else.

        Raises:
            NoSuchRoute: there is none.
        """
        job, seen = self._find(job_id), 0
        while True:
            changed = job.changed
            for number, line in sorted(job.said.values(), key=lambda item: item[0]):
                if number > seen:
                    seen = number
                    yield line
            if job.num_said == seen:
                if job.state != "running":
                    return
                await changed.wait()

    def _find(self, job_id: str) -> _Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise NoSuchRoute("There is no pull {id}.", hint="See GET /zhibei/v1/pulls.", id=job_id[:40])
        return job

    async def _run(self, job: _Job, pull: Pull) -> None:
        self._tell({"event": "pull_started", "id": job.id, "ref": job.ref})
        async with aclosing(pull()) as events:
            async for event in events:
                job.hear(event)

    def _ended(self, job: _Job, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            job.end("cancelled", {"event": "cancelled"})
        elif error is None:
            job.end("done")
        else:
            named = error if isinstance(error, ZhibeiError) else unexpected(error, job.id)
            job.error = {"message": str(named), ERROR_DETAIL_KEY: encode_error(named)}
            job.end("failed", {"event": "failed", "error": job.error})
        self._tell({"event": "pull_ended", "id": job.id, "ref": job.ref, "name": job.name, "state": job.state})
