"""What is left behind: load and unload again and again, then many short requests.

    python bench/lifecycle.py [--home DIR] [--cycles 200] [--requests 1000]

Prints processes, open files, listening ports, temporary files and memory before and after. Memory is anonymous resident
memory plus swap (RssAnon + VmSwap), so that cached file pages do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil

from serving import MODEL, pull_model
from zhibei.app import App, build
from zhibei.chat import ChatRequest, Message
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.settings import resolve

REQUEST = ChatRequest((Message.of("user", "hi"),), Sampling(temperature=0.0), Limits(4))


def own_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "VmSwap"))) * 1024


def left_behind() -> dict[str, int]:
    gc.collect()
    process = psutil.Process()
    return {
        "child processes": len(process.children(recursive=True)),
        "open files": process.num_fds(),
        "listening ports": sum(c.status == psutil.CONN_LISTEN for c in process.net_connections()),
        "threads": process.num_threads(),
        "temporary files": len(os.listdir(tempfile.gettempdir())),  # noqa: PTH208
    }


async def chat(app: App) -> int | None:
    async with app.pool.lease(MODEL) as engine:
        async for _ in engine.chat(REQUEST):
            pass
        return engine.status().pid


async def cycles(app: App, count: int) -> None:
    await chat(app)
    await app.pool.stop(MODEL)
    before, memory, pids = left_behind(), [own_bytes(os.getpid())], set()
    for number in range(1, count + 1):
        pids.add(await chat(app))
        await app.pool.stop(MODEL)
        if number % max(1, count // 4) == 0:
            gc.collect()
            memory.append(own_bytes(os.getpid()))
    after = left_behind()
    alive = sum(psutil.pid_exists(pid) for pid in pids if pid)
    print(f"{count} loads and unloads, {len(pids)} different processes, {alive} of them alive")
    for what in before:
        print(f"  {what}: {before[what]} before, {after[what]} after")
    print("  memory of the service, MB: " + ", ".join(f"{value / 1e6:.1f}" for value in memory))


async def requests(app: App, count: int) -> None:
    pid = await chat(app)
    assert pid is not None
    for _ in range(50):
        await chat(app)
    ours, theirs = [own_bytes(os.getpid())], [own_bytes(pid)]
    for number in range(1, count + 1):
        await chat(app)
        if number % max(1, count // 4) == 0:
            gc.collect()
            ours.append(own_bytes(os.getpid()))
            theirs.append(own_bytes(pid))
    print(f"{count} short requests to one process")
    for who, values in (("service", ours), ("engine", theirs)):
        slope = (values[-1] - values[0]) / count
        print(f"  {who}, MB: " + ", ".join(f"{value / 1e6:.1f}" for value in values) + f" ({slope / 1024:+.2f} KiB a request)")


async def run(home: Path, num_cycles: int, num_requests: int) -> None:
    settings = replace(resolve({"home": home}).settings, load=LoadOptions(ctx_size=512, parallel=1), keep_alive="forever")
    app = build(settings)
    try:
        await cycles(app, num_cycles)
        await requests(app, num_requests)
    finally:
        await app.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--requests", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.home or Path(temporary)
        pull_model(home)
        asyncio.run(run(home, args.cycles, args.requests))


if __name__ == "__main__":
    main()
