"""How ``kernels.py`` measures: cells, the sides that stand for them, and rounds in turns with the memory read between."""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import psutil

from kernel_models import EXPERTS, Model, prompt
from kernel_sides import Job, Setting, Side, SideError, Speeds
from zhibei.hardware.bandwidth import read_speeds

_SHORT_PROMPT = 16
_BUFFER_BYTES = 256 << 20
# What a process takes beside weights and cache.
_PROCESS_BYTES = 600 << 20
# What is touched before a load beside twice its file: the system gives out other pages than those it got back last.
_SPARE_BYTES = 2 << 30
_SPREAD_OF_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured. ``length``: a prompt's tokens, or those before an answer."""

    kind: Literal["prompt", "generation", "load"]
    length: int = 0
    streams: int = 1

    @property
    def title(self) -> str:
        """As tables say it."""
        if self.kind == "load":
            return "load"
        if self.kind == "prompt":
            return f"prompt {self.length}"
        depth = f" after {self.length}" if self.length else ""
        return f"answer{depth}" + (f", {self.streams} streams" if self.streams > 1 else "")


@dataclass(slots=True)
class Found:
    """A cell's rounds: what each side reached (tokens/s; seconds of a load), memory's bytes/s beside it, and problems."""

    model: str
    cell: Cell
    rounds: dict[str, list[float]] = field(default_factory=dict)
    bandwidth: dict[str, list[float]] = field(default_factory=dict)
    shares: dict[str, list[float]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def ratios(self, ours: str, other: str) -> list[float]:
        """Ours over the other's, round by round; of seconds as of speeds."""
        pairs = zip(self.rounds.get(ours, ()), self.rounds.get(other, ()), strict=False)
        return [our / their for our, their in pairs if their]


class Stand:
    """Sides that are started with one setting: all at once if they fit into memory together, else each for its turn."""

    def __init__(self, sides: Sequence[Side], model: Model, setting: Setting) -> None:
        """Nothing is started yet."""
        self.setting = setting
        self._sides = tuple(sides)
        self._problems: dict[str, str] = {}
        cache = model.cache_bytes * setting.ctx_size * setting.slots
        wanted = len(sides) * (model.num_bytes + cache + _PROCESS_BYTES) + model.num_bytes
        self.is_at_once = wanted < psutil.virtual_memory().available

    def __enter__(self) -> Stand:
        for side in self._sides if self.is_at_once else ():
            self._start(side)
        return self

    def __exit__(self, *_: object) -> None:
        for side in self._sides:
            side.stop()

    def ask(self, side: Side, job: Job) -> Speeds:
        """A turn.

        Raises:
            SideError: it cannot.
        """
        if not self.is_at_once and side.name not in self._problems:
            self._start(side)
        if side.name in self._problems:
            raise SideError(self._problems[side.name])
        try:
            return side.ask(job)
        except SideError as error:
            if side.process is not None and side.process.poll() is not None:
                self._problems[side.name] = str(error)
            raise
        finally:
            if not self.is_at_once:
                side.stop()

    def _start(self, side: Side) -> None:
        try:
            side.start(self.setting)
        except SideError as error:
            side.stop()
            self._problems[side.name] = str(error)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is spent: rounds of a cell, tokens of an answer, and the time (``time.monotonic``) after which no round begins."""

    num_rounds: int
    num_tokens: int
    ends: float


def measure(stand: Stand, sides: Sequence[Side], model: Model, cell: Cell, effort: Effort) -> Found:
    """A cell's rounds; the first only warms up. Who leads changes from round to round. At least one round counts."""
    found = Found(model.name, cell)
    before = memory_bytes_per_s(stand.setting.threads)
    for number in range(effort.num_rounds + 1):
        if number > 1 and time.monotonic() >= effort.ends:
            break
        for at, side in enumerate(sides if number % 2 else reversed(sides)):
            if side.name in found.problems:
                continue
            try:
                speeds = stand.ask(side, _job(cell, number * _SPREAD_OF_SEEDS + at, effort.num_tokens))
            except SideError as error:
                found.problems[side.name] = str(error)
                continue
            after = memory_bytes_per_s(stand.setting.threads)
            if number:
                _note(found, side.name, speeds, (before + after) / 2, bytes_per_token(model, cell))
            before = after
    return found


def _note(found: Found, name: str, speeds: Speeds, bandwidth: float, token_bytes: float | None) -> None:
    cell = found.cell
    speed = speeds.prompt if cell.kind == "prompt" else speeds.generation
    if speed is None:
        return
    found.rounds.setdefault(name, []).append(speed)
    found.bandwidth.setdefault(name, []).append(bandwidth)
    if cell.kind == "generation" and token_bytes is not None and bandwidth:
        found.shares.setdefault(name, []).append(speed * token_bytes / bandwidth)


def _job(cell: Cell, seed: int, num_tokens: int) -> Job:
    if cell.kind == "prompt":
        return Job([prompt(seed, cell.length)], 0)
    if cell.length:
        # The same prompt in each round: it is read once and kept.
        return Job([prompt(7, cell.length)], num_tokens, keeps=True)
    return Job([prompt(seed + stream * 31, _SHORT_PROMPT) for stream in range(cell.streams)], num_tokens)


def bytes_per_token(model: Model, cell: Cell) -> float | None:
    """What each generated token reads, streams sharing the weights; None where it depends on which experts they choose."""
    if model.size == EXPERTS and cell.streams > 1:
        return None
    return model.active_bytes / cell.streams + model.cache_bytes * (cell.length or _SHORT_PROMPT)


def measure_loads(sides: Sequence[Side], model: Model, setting: Setting, effort: Effort) -> Found:
    """Seconds to the first token, nothing else running: a file that is only mapped is not read before.

    The file is in the system's memory after the first round, which does not count.
    """
    found = Found(model.name, Cell("load"))
    for number in range(effort.num_rounds + 1):
        if number > 1 and time.monotonic() >= effort.ends:
            break
        for side in sides if number % 2 else reversed(sides):
            if side.name in found.problems:
                continue
            _touch(min(2 * model.path.stat().st_size + _SPARE_BYTES, psutil.virtual_memory().available // 2))
            try:
                seconds = side.start(setting)
                begun = time.perf_counter()
                side.ask(Job([prompt(7, 1)], 0))
                seconds += time.perf_counter() - begun
                if number:
                    found.rounds.setdefault(side.name, []).append(seconds)
            except SideError as error:
                found.problems[side.name] = str(error)
            finally:
                side.stop()
    return found


def _touch(num_bytes: int) -> None:
    """Use so much memory and give it back: a virtual machine may get what it touches first only while it waits."""
    # Private, as a process's own memory is: what is shared comes in small pages, and leaves the large ones untouched.
    with mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        memory[:: mmap.PAGESIZE] = bytes(len(range(0, num_bytes, mmap.PAGESIZE)))


def memory_bytes_per_s(threads: int) -> float:
    """How fast so many threads read memory just now: the best of three short passes."""
    (speed,) = read_speeds((threads,), _BUFFER_BYTES, 0.1) or (None,)
    return float(speed.bytes_per_s) if speed is not None else 0.0


def median_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    """What tables tell of rounds."""
    return statistics.median(values), min(values), max(values)
