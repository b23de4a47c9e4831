"""Mixed load while the engine's process is killed again and again.

    python bench/chaos.py [--home DIR] [--minutes 10] [--every 20] [--streams 6]

Streams and whole answers of OpenAI's, Ollama's and Anthropic's dialects, long and short, some of whose clients leave early. Every
``--every`` seconds the engine's process is killed. Wanted: every stream ends marked, as a success or as an error; after a
kill the next success comes within the time a load takes and five seconds. Nothing is asked again by the server itself: a
request that a kill cut off is the client's to repeat. The circuit that gives up a model which keeps dying is off.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from service import Side
from serving import MODEL, pull_model

PATIENCE_S = 120.0
# Three crashes in five minutes are enough for the service to give a model up; here it is to go on.
PATIENT = (
    "import runpy; from zhibei.runtime import circuit; circuit.MAX_CRASHES = 1_000_000; "
    "runpy.run_module('zhibei', run_name='__main__')"
)
ENDS = {"openai": b"data: [DONE]", "ollama": b'"done":true', "anthropic": b"event: message_stop"}


@dataclass
class Record:
    """What happened so far."""

    ends: Counter[str] = field(default_factory=Counter)
    unmarked: list[str] = field(default_factory=list)
    successes_s: list[float] = field(default_factory=list)


def wanted(dialect: str, number: int, *, stream: bool, num_tokens: int) -> tuple[str, dict[str, object]]:
    """Path and body of a request."""
    messages = [{"role": "user", "content": f"{number}: tell me a story about {number % 13} birds."}]
    if dialect == "ollama":
        return "/api/chat", {"model": MODEL, "messages": messages, "stream": stream, "options": {"num_predict": num_tokens}}
    body: dict[str, object] = {"model": MODEL, "messages": messages, "stream": stream, "max_tokens": num_tokens}
    return ("/v1/messages" if dialect == "anthropic" else "/v1/chat/completions"), body


async def client(session: aiohttp.ClientSession, address: str, record: Record, until_s: float, seed: int) -> None:
    chance = random.Random(seed)
    number = seed * 100_000
    while time.monotonic() < until_s:
        number += 1
        dialect = chance.choice(tuple(ENDS))
        stream = chance.random() < 0.7
        leaves = chance.random() < 0.1
        path, body = wanted(dialect, number, stream=stream, num_tokens=chance.choice((8, 32, 128)))
        try:
            async with asyncio.timeout(PATIENCE_S), session.post(address + path, json=body) as response:
                if response.status == 200 and stream:
                    await read(response, dialect, record, leaves=leaves)
                else:
                    answer = await response.read()
                    judge(response.status, answer, dialect, record)
        except asyncio.TimeoutError:
            record.ends["hung"] += 1
        except aiohttp.ClientError as error:
            record.ends["cut connection"] += 1
            record.unmarked.append(f"{dialect} {type(error).__name__}")
        if record.ends.total() and chance.random() < 0.05:
            await asyncio.sleep(0.2)


async def read(response: aiohttp.ClientResponse, dialect: str, record: Record, *, leaves: bool) -> None:
    """A stream to its end, or a little of it."""
    tail, pieces = b"", 0
    async for piece in response.content.iter_any():
        tail, pieces = (tail + piece)[-4096:], pieces + 1
        if leaves and pieces >= 3:
            record.ends["left by the client"] += 1
            return
    if ENDS[dialect] in tail:
        record.ends["streams that succeeded"] += 1
        record.successes_s.append(time.monotonic())
    elif b'"error"' in tail:
        record.ends["streams that ended in an error"] += 1
    else:
        record.ends["UNMARKED"] += 1
        record.unmarked.append(f"{dialect}: {tail[-200:]!r}")


def judge(status: int, answer: bytes, dialect: str, record: Record) -> None:
    """A whole answer."""
    if status == 200:
        record.ends["whole answers"] += 1
        record.successes_s.append(time.monotonic())
    else:
        record.ends[f"refused with {status}"] += 1
        if "error" not in json.loads(answer):
            record.unmarked.append(f"{dialect} {status}: {answer[:200]!r}")


def workers(pid: int) -> list[int]:
    """The engines' processes of a server."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        if any("llama_cpp.worker" in part for part in child.cmdline()):
            found.append(child.pid)
    return found


async def measure(side: Side, args: argparse.Namespace) -> None:
    assert side.process is not None
    record, kills_s = Record(), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        start = time.perf_counter()
        path, body = wanted("openai", 0, stream=False, num_tokens=1)
        async with session.post(side.address + path, json=body) as response:
            assert response.status == 200, await response.text()
        load_s = time.perf_counter() - start
        print(f"load and first answer: {load_s:.2f} s", flush=True)
        until_s = time.monotonic() + args.minutes * 60
        clients = [asyncio.create_task(client(session, side.address, record, until_s, seed)) for seed in range(args.streams)]
        while time.monotonic() < until_s - args.every:
            await asyncio.sleep(args.every)
            for pid in workers(side.process.pid):
                os.kill(pid, signal.SIGKILL)
                kills_s.append(time.monotonic())
        await asyncio.gather(*clients)
    back = [min((at for at in record.successes_s if at > killed), default=float("inf")) - killed for killed in kills_s]
    for what, count in sorted(record.ends.items()):
        print(f"  {what}: {count}")
    print(
        f"  kills: {len(kills_s)}; first success after a kill: median {statistics.median(back):.2f} s, longest {max(back):.2f} s"
    )
    print(f"  wanted: at most {load_s + 5:.2f} s; without a mark: {len(record.unmarked)} {record.unmarked[:5]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="where the model is kept; a new place if not given")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=20)
    parser.add_argument("--streams", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.home or Path(temporary)
        pull_model(home)
        command = [sys.executable, "-c", PATIENT, "--home", str(home), "--port", "{port}", "serve", "--parallel", "4"]
        side = Side("zhibei", [*command, "--ctx-size", "1024"], MODEL)
        side.start()
        try:
            asyncio.run(measure(side, args))
        finally:
            side.stop()


if __name__ == "__main__":
    main()
