"""One child process that serves one model. Owns its life: start, ready, busy, stop, and every way it can end.

States: stopped → starting → ready ⇄ busy → stopping → stopped; failed after an end nobody asked for. The child gets one
line of JSON on standard input (what to load, and the key it must demand), answers with one line of JSON on standard
output, and then only writes to its log, standard error. It makes itself a process group of its own, its
environment holds no secrets, and it ends when standard input closes: it cannot outlive this process. While somebody waits for
it, it is watched: one that does nothing for too long (``liveness``) is killed, and started anew when it is next needed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import psutil

from zhibei.engines.base import EngineStatus, LogSink
from zhibei.engines.endings import DEVICE_GONE, DEVICE_GONE_HINT, Ending, device_missing, ending, num_killed_for_memory
from zhibei.engines.liveness import STALL_S, Activity, Liveness
from zhibei.errors import EngineDied, EngineMissing, EngineStalled, EngineStartFailed
from zhibei.i18n import N_
from zhibei.settings import child_environment

State = Literal["stopped", "starting", "ready", "busy", "stopping", "failed"]

STOP_GRACE_S = 5.0
# What a child that has closed a connection, or its log, is given to end by itself.
END_GRACE_S = 2.0
LOG_LINES = 200
LOG_LINE_BYTES = 4096
TAIL_LINES = 12
MAX_ANSWER_BYTES = 1 << 20
_KILL = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a child can be reached: the base address of its HTTP server, and the key it demands; and which child it is.

    ``told``: all of its answer.
    """

    address: str
    key: str
    child: asyncio.subprocess.Process | None = field(default=None, repr=False, compare=False)
    told: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class _Waiting:
    """See ``EngineProcess.waiting``. One object serves all who wait: it is entered for every token."""

    def __init__(self, process: EngineProcess) -> None:
        self._process = process

    def __enter__(self) -> None:
        self._process._begin_waiting()

    def __exit__(self, *error: object) -> None:
        self._process._num_waiting -= 1


class EngineProcess:
    """A child that can be asked for again and again; see ``ensure_ready``."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        order: Callable[[str], bytes],
        log: LogSink,
        *,
        stall_s: float = STALL_S,
        clock: Callable[[], float] = time.monotonic,
        kept: Callable[[str], str | None] = lambda line: line,
    ) -> None:
        """Does not start anything.

        Args:
            name: the model's, for messages.
            command: program and arguments; holds no secret, since other users can see it.
            order: key → the line of JSON the child is given on standard input.
            log: receives the child's lines as they come.
            stall_s: seconds for which it may do nothing while it is waited for.
            clock: what tells these seconds.
            kept: what of the child's next line may be kept, and shown; None: nothing.
        """
        self._name = name
        self._command = tuple(command)
        self._order = order
        self._log = log
        self._kept = kept
        self._lock = asyncio.Lock()
        self._state: State = "stopped"
        self._num_calls = 0
        self._child: asyncio.subprocess.Process | None = None
        self._ready: Ready | None = None
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._watchers: tuple[asyncio.Task[None], ...] = ()
        self._closed = False
        self._clock = clock
        self._liveness = Liveness(stall_s)
        self._num_waiting = 0
        self._waiting = _Waiting(self)
        self._stalled: asyncio.subprocess.Process | None = None
        self._num_killed_before: int | None = None
        self._has_device: bool | None = None

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return "busy" if self._state == "ready" and self._num_calls else self._state

    def status(self) -> EngineStatus:
        """State, process and the memory it holds itself (resident, shared pages not counted twice)."""
        pid = self._child.pid if self._child is not None and self._child.returncode is None else None
        return EngineStatus(self.state, pid, None if pid is None else _memory_bytes(pid))

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count a call that is under way."""
        self._num_calls += 1
        try:
            yield
        finally:
            self._num_calls -= 1

    def waiting(self) -> _Waiting:
        """Somebody waits for it to say something: as long as nobody does, nothing is expected of it."""
        return self._waiting

    def _begin_waiting(self) -> None:
        if not self._num_waiting:
            self.progressed()
        self._num_waiting += 1

    def progressed(self) -> None:
        """It gave a token, computed a batch of a prompt, or came a step further in loading."""
        self._liveness.said(self._clock())

    async def ensure_ready(self) -> Ready:
        """Start the child if it does not run; one start at a time, however many ask.

        Raises:
            EngineMissing: it said that something it needs is not installed.
            EngineStartFailed: it did not come up, or this object was closed.
        """
        ready = self._ready
        if ready is not None and self._state == "ready":
            return ready
        async with self._lock:
            if self._ready is not None and self._state == "ready":
                return self._ready
            if self._closed:
                raise EngineStartFailed("{model} is being unloaded.", hint="Ask again.", model=self._name)
            return await self._start()

    async def died(self, ready: Ready) -> EngineDied:
        """The error for a call that lost its connection; waits a moment for the child's end, to say how it ended.

        A child that lives on although it broke a connection, or said what makes no sense, is not to be trusted: it is killed.
        """
        child = ready.child
        if child is not None:
            with _quiet_timeout():
                await asyncio.wait_for(asyncio.shield(child.wait()), END_GRACE_S)
        if child is not None and child is self._stalled:
            return EngineStalled(
                "The engine of {model} hung while it was needed: it did nothing for too long, and was ended.",
                hint="Ask again: it is started anew. If it happens again, see the log lines.",
                log_tail=self.log_tail(),
                model=self._name,
            )
        ended = child.returncode if child is not None else None
        if child is not None and ended is None:
            self._give_up(child)
            found = Ending(N_("its answer made no sense"), "killed")
        elif child is None or ended is None:
            found = Ending(N_("nobody knows how"), "?")
        else:
            self._give_up(child)
            await self._drained(child)
            found = self._ending(ended)
        return EngineDied(
            "The engine of {model} stopped while it was answering: {how} ({code}).",
            hint=(found.hint if found.device_failed else None)
            or N_("Ask again: it is started anew. If it happens again, see the log lines and try a smaller --ctx-size."),
            log_tail=self.log_tail(),
            model=self._name,
            how=found.how,
            code=found.code,
        )

    def log_tail(self) -> tuple[str, ...]:
        """The child's last lines."""
        return tuple(self._lines)[-TAIL_LINES:]

    async def close(self) -> None:
        """End the child: SIGTERM to its group, SIGKILL after a grace. Idempotent."""
        self._closed = True
        async with self._lock:
            await self._end("stopped")

    async def _start(self) -> Ready:
        await self._end("starting")
        self._lines.clear()
        self._num_killed_before = num_killed_for_memory()
        key = secrets.token_urlsafe(32)
        try:
            self._child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=child_environment(),
                cwd=os.path.abspath(os.sep),  # noqa: PTH100  a directory nobody can plant modules in
                limit=MAX_ANSWER_BYTES,
            )
            drain = asyncio.create_task(self._drain(self._child))
            guard = asyncio.create_task(self._guard(self._child))
            self._watchers = (drain, guard)
            with self.waiting():
                told = await self._handshake(self._child, key)
            self._check_device()
        except BaseException:
            await self._end("failed")
            raise
        self._ready, self._state = Ready(str(told["address"]), key, self._child, told), "ready"
        self._watchers = (drain, guard, asyncio.create_task(self._watch(self._child)))
        return self._ready

    async def _handshake(self, child: asyncio.subprocess.Process, key: str) -> dict[str, Any]:
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(self._order(key) + b"\n")
            await child.stdin.drain()
            answer = orjson.loads(await child.stdout.readline() or b"null")
        except (OSError, ValueError, asyncio.LimitOverrunError):
            answer = None
        if isinstance(answer, dict) and isinstance(answer.get("address"), str):
            return answer
        if isinstance(answer, dict) and "missing" in answer:
            values = answer.get("values")
            raise EngineMissing(str(answer["missing"]), hint=answer.get("hint"), **(values if isinstance(values, dict) else {}))
        await self._drained(child)
        if child is self._stalled:
            found = Ending(N_("it hung: nothing was seen of it for too long"), "killed")
        elif isinstance(answer, dict) and "problem" in answer:
            found = Ending(N_("the engine could not load it"), str(answer["problem"]))
        elif child.returncode is None:
            found = Ending(N_("its answer made no sense"), "killed")
        else:
            found = self._ending(child.returncode)
        raise EngineStartFailed(
            "{model} could not be loaded: {how} ({code}).",
            hint=found.hint
            or N_("The engine's last lines are below. Check the file with zhibei show {model}; try a smaller --ctx-size."),
            log_tail=self.log_tail(),
            model=self._name,
            how=found.how,
            code=found.code,
        )

    def _check_device(self) -> None:
        """One that had a graphics processor when it was first started must not go on without: that would be a silent change."""
        said = device_missing(self._lines)
        if self._has_device is None:
            self._has_device = said is None
        if self._has_device and said is not None:
            raise EngineStartFailed(
                "{model} could not be loaded: {how} ({code}).",
                hint=DEVICE_GONE_HINT,
                log_tail=self.log_tail(),
                model=self._name,
                how=DEVICE_GONE,
                code=said,
            )

    def _ending(self, exit_code: int) -> Ending:
        before, now = self._num_killed_before, num_killed_for_memory()
        return ending(exit_code, self._lines, for_memory=before is not None and now is not None and now > before)

    async def _drained(self, child: asyncio.subprocess.Process) -> None:
        """Wait a moment for the last lines of a child that is ending, and for its end."""
        if child is not self._child:
            return
        with _quiet_timeout():
            await asyncio.wait_for(asyncio.shield(self._watchers[0]), END_GRACE_S)
        with _quiet_timeout():
            await asyncio.wait_for(asyncio.shield(child.wait()), END_GRACE_S)

    async def _drain(self, child: asyncio.subprocess.Process) -> None:
        """Read the log in raw pieces: a long line or bytes that are no text must never stop the child."""
        assert child.stderr is not None
        rest = b""
        while piece := await child.stderr.read(65536):
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[:LOG_LINE_BYTES]
            for line in lines:
                self._keep(line)
        if rest:
            self._keep(rest)

    def _keep(self, line: bytes) -> None:
        if self._state == "starting":
            self.progressed()
        text = self._kept(line[:LOG_LINE_BYTES].decode("utf-8", "replace").rstrip())
        if text is not None:
            self._lines.append(text)
            self._log(text)

    async def _watch(self, child: asyncio.subprocess.Process) -> None:
        await child.wait()
        if child is self._child and self._state == "ready":
            self._give_up(child)

    async def _guard(self, child: asyncio.subprocess.Process) -> None:
        """Kill the child if it hangs while somebody waits for it; and what it leaves behind when it ends."""
        while child.returncode is None:
            if self._state == "ready":
                # Only what happened just before its end may have to do with it.
                self._num_killed_before = num_killed_for_memory()
            await asyncio.sleep(self._liveness.check_every_s)
            if self._num_waiting and self._liveness.is_stalled(self._clock(), _activity(child.pid)):
                self._stalled = child
                self._give_up(child)
        # Its end is not told to who waits for it before its pipes end, which what it started may hold open.
        self._give_up(child)

    def _give_up(self, child: asyncio.subprocess.Process) -> None:
        if child is self._child and self._state == "ready":
            self._state, self._ready = "failed", None
        _kill_group(child, _KILL)

    async def _end(self, state: State) -> None:
        child, self._child, self._ready = self._child, None, None
        watchers, self._watchers = self._watchers, ()
        if child is not None:
            self._state = "stopping"
            await _terminate(child)
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        if child is not None:
            # asyncio closes a pipe at its end, which one that is not read any more never comes to.
            child._transport.close()  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        self._state = state


async def _terminate(child: asyncio.subprocess.Process) -> None:
    """SIGTERM, a grace, SIGKILL; to the whole group, so that nothing the child started is left."""
    if child.returncode is None:
        _kill_group(child, signal.SIGTERM)
        with _quiet_timeout():
            await asyncio.wait_for(asyncio.shield(child.wait()), STOP_GRACE_S)
    _kill_group(child, _KILL)
    await child.wait()


def _kill_group(child: asyncio.subprocess.Process, number: int) -> None:
    """A signal to whatever the child started, and to the child, which may not have made itself a group yet."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform != "win32":
            os.killpg(child.pid, number)
            return
    with suppress(ProcessLookupError, PermissionError):
        child.send_signal(number)


@contextmanager
def _quiet_timeout() -> Iterator[None]:
    try:
        yield
    except asyncio.TimeoutError:
        return


def _memory_bytes(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _activity(pid: int) -> Activity | None:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
    except psutil.Error:
        return None
    try:
        # Not every system tells it, nor of every process.
        read_bytes = int(process.io_counters().read_bytes) if hasattr(process, "io_counters") else 0
    except psutil.Error:
        read_bytes = 0
    return Activity(times.user + times.system, read_bytes)
