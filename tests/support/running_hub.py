"""A hub on a thread of its own, so that the program can be run and waited for beside it; and pulls that are cut off."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hubs.content import Content, Repository
from hubs.server import Hub
from support.models import model_bytes, shard_bytes
from support.program import TIMEOUT_S, Program

BIG = "Big-Q4_K_M.gguf"
NUM_SHARDS = 3


def hub_content(**changed: bytes) -> Content:
    """Three repositories: small (one file), big (some MiB), shards. ``small`` and ``big`` may be given other bytes."""
    small = changed.get("small") or model_bytes(8, seed=1)
    big = changed.get("big") or model_bytes(6000, seed=2)
    shards = {f"Split-Q4_K_M-{n + 1:05}-of-{NUM_SHARDS:05}.gguf": shard_bytes(n, NUM_SHARDS) for n in range(NUM_SHARDS)}
    return Content(
        (
            Repository("o/Small-GGUF", {"main": {"Small-Q4_K_M.gguf": small}}),
            Repository("o/Big-GGUF", {"main": {BIG: big}}),
            Repository("o/Split-GGUF", {"main": shards}),
        )
    )


class RunningHub:
    """A hub on a thread of its own, so that the program can be run and waited for beside it."""

    def __init__(self) -> None:
        self.hub = Hub(hub_content())
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._is_ready = threading.Event()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    @property
    def environment(self) -> dict[str, str]:
        """What points the program to this hub, and to nothing beyond this machine."""
        return {"HF_ENDPOINT": self.url, "ZHIBEI_HF_MIRRORS": self.url, "ZHIBEI_MS_ENDPOINT": self.url, "HF_TOKEN": ""}

    def heal(self) -> None:
        """No more faults."""
        self.call(self.hub.heal)

    def call(self, work: Callable[[], object]) -> None:
        """Do something on the hub's loop, and wait for it."""

        async def run() -> None:
            work()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(TIMEOUT_S)

    @contextmanager
    def running(self) -> Iterator[RunningHub]:
        self._thread.start()
        try:
            assert self._is_ready.wait(TIMEOUT_S)
            yield self
        finally:
            self.call(self._end.set)
            self._thread.join(TIMEOUT_S)
            self._loop.close()

    async def _run(self) -> None:
        async with self.hub:
            self.url = self.hub.url
            self._is_ready.set()
            await self._end.wait()


@contextmanager
def stalled_pull(program: Program, hub: RunningHub) -> Iterator[subprocess.Popen[bytes]]:
    """A pull of the big model that has fetched a part of it, and gets no more until the hub is healed."""
    hub.hub.strike("stall_in_body", paths="*.gguf")
    # Of several connections, one that stalls would be overtaken by the others.
    command = program.command("pull", "hf:o/Big-GGUF", "--connections", "1", "--json")
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=program.environment, cwd=program.directory
    )
    try:
        assert running.stdout is not None
        for line in running.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "progress" and event["done"] > 0:
                break
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate(timeout=TIMEOUT_S)
