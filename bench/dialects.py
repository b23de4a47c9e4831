"""What one dialect costs over another: the same streamed answers from the same engine, in turn.

    python bench/dialects.py [--home DIR] [--rounds 12] [--tokens 96]

Tells tokens/s through OpenAI's, Ollama's and Anthropic's dialects with 1 and 8 streams, and the processor time that the
server itself (not the engine) spends for a token. Wanted: Ollama's at most 3 % below OpenAI's.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import psutil

from service import Side
from serving import MODEL, pull_model

DIALECTS = ("openai", "ollama", "anthropic")


def wanted(dialect: str, prompt: str, num_tokens: int) -> tuple[str, dict[str, object]]:
    """Path and body of a streamed request that is answered with exactly ``num_tokens``."""
    body: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "stream": True}
    if dialect == "ollama":
        return "/api/chat", body | {"options": {"num_predict": num_tokens, "temperature": 0}}
    if dialect == "anthropic":
        return "/v1/messages", body | {"max_tokens": num_tokens, "temperature": 0}
    return "/v1/chat/completions", body | {
        "max_tokens": num_tokens,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }


@dataclass(frozen=True)
class Result:
    """Of one burst."""

    tokens_per_s: float
    server_us_per_token: float


async def one(session: aiohttp.ClientSession, address: str, dialect: str, prompt: str, num_tokens: int) -> int:
    """Tokens of one answer, as the dialect itself counts them."""
    path, body = wanted(dialect, prompt, num_tokens)
    tail = b""
    async with session.post(address + path, data=orjson.dumps(body), headers={"content-type": "application/json"}) as response:
        assert response.status == 200, await response.text()
        async for piece in response.content.iter_any():
            tail = (tail + piece)[-2048:]
    name = {"openai": b'"completion_tokens":', "ollama": b'"eval_count":', "anthropic": b'"output_tokens":'}[dialect]
    number = tail[tail.rfind(name) + len(name) :]
    return int(number.split(b",")[0].split(b"}")[0])


async def burst(session: aiohttp.ClientSession, side: Side, dialect: str, num_streams: int, num_tokens: int, salt: str) -> Result:
    assert side.process is not None
    process = psutil.Process(side.process.pid)
    before, start = process.cpu_times(), time.perf_counter()
    prompts = [f"{salt}.{n}: count from one to nine hundred, in words, without a pause." for n in range(num_streams)]
    tokens = sum(await asyncio.gather(*(one(session, side.address, dialect, prompt, num_tokens) for prompt in prompts)))
    seconds, after = time.perf_counter() - start, process.cpu_times()
    spent_s = after.user + after.system - before.user - before.system
    return Result(tokens / seconds, spent_s / tokens * 1e6)


async def measure(side: Side, args: argparse.Namespace) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for num_streams in (1, 8):
            found: dict[str, list[Result]] = {dialect: [] for dialect in DIALECTS}
            for number in range(args.rounds + 1):
                # The same prompts for all, so that all answers are as long; each dialect is first, second and last as often.
                turn = number % len(DIALECTS)
                for dialect in (*DIALECTS[turn:], *DIALECTS[:turn]):
                    result = await burst(session, side, dialect, num_streams, args.tokens, f"{num_streams} {number}")
                    if number:
                        found[dialect].append(result)
            print(f"{num_streams} streams")
            for dialect, results in found.items():
                ratios = [mine.tokens_per_s / base.tokens_per_s for mine, base in zip(results, found["openai"], strict=True)]
                print(
                    f"  {dialect:10s} {statistics.median(each.tokens_per_s for each in results):7.1f} tok/s, "
                    f"{statistics.median(ratios):.3f} of OpenAI's ({min(ratios):.2f} to {max(ratios):.2f}); "
                    f"server {statistics.median(each.server_us_per_token for each in results):.0f} us a token",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="where the model is kept; a new place if not given")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.home or Path(temporary)
        pull_model(home)
        command = [sys.executable, "-m", "zhibei", "--home", str(home), "--port", "{port}", "serve", "--keep-alive", "forever"]
        side = Side("zhibei", [*command, "--parallel", "8", "--ctx-size", "512"], MODEL)
        side.start()
        try:
            asyncio.run(measure(side, args))
        finally:
            side.stop()


if __name__ == "__main__":
    main()
