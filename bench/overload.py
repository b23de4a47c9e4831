"""What happens when far too much is asked: 1,000 requests within one second, a queue of 128.

    python bench/overload.py [--home DIR] [--requests 1000] [--queue 128]

Tells how many were answered and refused, how long refusals took (wanted: under 200 ms at the 99th percentile), whether any
request hangs, how quick /health stayed, and whether memory comes back (wanted: within 5 %). The real server with its real engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from service import Side, free_port  # noqa: F401  the port is chosen by Side
from serving import MODEL, pull_model

PATIENCE_S = 300.0


@dataclass(frozen=True)
class Outcome:
    """How one request ended, and after how long."""

    status: int
    seconds: float
    retry_after: bool
    complete: bool


async def ask(session: aiohttp.ClientSession, address: str, number: int, num_tokens: int) -> Outcome:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{number}: tell me about the number {number}."}],
        "max_tokens": num_tokens,
        "logit_bias": {"0": -100, "2": -100},
    }
    start = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_S), session.post(f"{address}/v1/chat/completions", json=body) as response:
            answer = await response.read()
            complete = response.status != 200 or json.loads(answer)["usage"]["completion_tokens"] == num_tokens
            return Outcome(response.status, time.perf_counter() - start, "retry-after" in response.headers, complete)
    except asyncio.TimeoutError:
        return Outcome(0, time.perf_counter() - start, retry_after=False, complete=False)


async def health(session: aiohttp.ClientSession, address: str, done: asyncio.Event) -> list[float]:
    """How long /health takes, asked every 20 ms until ``done``."""
    found = []
    while not done.is_set():
        start = time.perf_counter()
        async with session.get(f"{address}/health") as response:
            await response.read()
        found.append(time.perf_counter() - start)
        await asyncio.sleep(0.02)
    return found


def memory_bytes(pid: int) -> int:
    """Memory that the server holds itself, without its engine's process."""
    return int(psutil.Process(pid).memory_info().rss)


async def measure(side: Side, args: argparse.Namespace) -> None:
    assert side.process is not None
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        warm = [await ask(session, side.address, -number, 8) for number in range(1, 40)]
        assert all(outcome.status == 200 for outcome in warm)
        for round_number in range(args.rounds):
            before = memory_bytes(side.process.pid)
            done = asyncio.Event()
            watcher = asyncio.create_task(health(session, side.address, done))
            started = time.perf_counter()
            tasks = []
            for number in range(args.requests):
                tasks.append(asyncio.create_task(ask(session, side.address, round_number * 10_000 + number, args.tokens)))
                await asyncio.sleep(max(0.0, started + (number + 1) / args.requests - time.perf_counter()))
            sent_s = time.perf_counter() - started
            outcomes = await asyncio.gather(*tasks)
            done.set()
            slow = sorted(await watcher)
            await asyncio.sleep(1)
            after = memory_bytes(side.process.pid)
            tell(outcomes, sent_s, slow, before, after)


def tell(outcomes: list[Outcome], sent_s: float, health_s: list[float], before: int, after: int) -> None:
    statuses = Counter(outcome.status for outcome in outcomes)
    refused = sorted(outcome.seconds for outcome in outcomes if outcome.status == 503)
    told = sum(outcome.retry_after for outcome in outcomes if outcome.status == 503)
    print(
        f"{len(outcomes)} requests in {sent_s:.2f} s: " + ", ".join(f"{n} x {status}" for status, n in sorted(statuses.items()))
    )
    if refused:
        p99 = refused[min(len(refused) - 1, int(0.99 * len(refused)))]
        print(f"  refusals: median {statistics.median(refused) * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms; {told} with Retry-After")
    print(f"  hung: {statuses.get(0, 0)}; incomplete: {sum(not outcome.complete for outcome in outcomes)}")
    slowest = health_s[int(0.99 * (len(health_s) - 1))]
    print(f"  /health: median {statistics.median(health_s) * 1e3:.0f} ms, p99 {slowest * 1e3:.0f} ms")
    print(f"  server's memory: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after ({after / before - 1:+.1%})", flush=True)


def main() -> None:
    import sys

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="where the model is kept; a new place if not given")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--queue", type=int, default=128)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.home or Path(temporary)
        pull_model(home)
        command = [sys.executable, "-m", "zhibei", "--home", str(home), "--port", "{port}", "serve", "--keep-alive", "forever"]
        command += ["--max-queue", str(args.queue), "--parallel", str(args.slots), "--ctx-size", "512"]
        side = Side("zhibei", command, MODEL)
        side.start()
        try:
            asyncio.run(measure(side, args))
        finally:
            side.stop()


if __name__ == "__main__":
    main()
