"""What the service costs over its engine: the same requests through ``zhibei serve`` and straight to the worker's port.

    python bench/gateway.py [--home DIR] [--rounds 6] [--tokens 96]

One run, A B A B; medians and ratios. Every request has a prompt of its own, so that no cache favours either side; the
end-of-text tokens are banned, so that all answers have the same length.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from serving import MODEL, pull_model, serving

FIRST = re.compile(rb'"content": ?"[^"]')


async def one(address: str, key: str, prompt: str, num_tokens: int, model: str = MODEL) -> tuple[float, float, int]:
    """(seconds to the first token, seconds in all, tokens) of one streamed request, over a raw connection."""
    where = urlsplit(address)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": num_tokens,
        "temperature": 0,
        "logit_bias": {"0": -100, "2": -100},
    }
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {where.netloc or 'localhost'}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    start = time.perf_counter()
    if where.scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(where.path, limit=1 << 20)
    else:
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 20)
    writer.write(head.encode() + data)
    first, tail = 0.0, b""
    while piece := await reader.read(65536):
        if not first and FIRST.search(piece):
            first = time.perf_counter() - start
        tail = (tail + piece)[-4096:]
    seconds = time.perf_counter() - start
    writer.close()
    usage = tail.rfind(b'"completion_tokens":')
    if usage < 0 and re.search(rb'"finish_reason": ?"length"', tail):
        # A server that gives no usage in streams: an answer that was cut at its limit has as many tokens.
        return first, seconds, num_tokens
    if usage < 0:
        raise RuntimeError(f"no usage in the answer: {tail[-500:]!r}")
    return first, seconds, int(tail[usage + 20 :].split(b",")[0].split(b"}")[0])


async def burst(address: str, key: str, num_streams: int, num_tokens: int, salt: str) -> tuple[float, float]:
    """(tokens/s over all, median seconds to the first token) of streams started together."""
    start = time.perf_counter()
    prompts = (f"{salt}-{n}: write a long story about the number {n}." for n in range(num_streams))
    answers = await asyncio.gather(*(one(address, key, prompt, num_tokens) for prompt in prompts))
    seconds = time.perf_counter() - start
    return sum(tokens for _, _, tokens in answers) / seconds, statistics.median(first for first, _, _ in answers)


async def measure(home: Path, rounds: int, num_tokens: int) -> None:
    with serving(home, ctx_size=512, parallel=16) as server:
        idle_bytes = server.ask("memory")["bytes"]
        assert isinstance(idle_bytes, int)
        engine = server.ask("engine")
        sides = {"engine": (str(engine["address"]), str(engine["key"])), "zhibei": (server.address, "none")}
        print(f"server idle: {idle_bytes / 1e6:.0f} MB resident (VmRSS)")
        for num_streams in (1, 4, 16):
            found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
            for number in range(rounds + 1):
                # Each round begins with the other side, so that drift of the machine favours neither.
                for side in sorted(sides, reverse=bool(number % 2)):
                    result = await burst(*sides[side], num_streams, num_tokens, f"{side[0].upper()}{number}")
                    if number:
                        found[side].append(result)
            report(num_streams, found)


def report(num_streams: int, found: dict[str, list[tuple[float, float]]]) -> None:
    ours, theirs = found["zhibei"], found["engine"]
    ratios = [our[0] / their[0] for our, their in zip(ours, theirs, strict=True)]
    added = [(our[1] - their[1]) * 1000 for our, their in zip(ours, theirs, strict=True)]
    print(
        f"{num_streams:2d} streams: engine {statistics.median(t[0] for t in theirs):6.1f} tok/s, "
        f"zhibei {statistics.median(o[0] for o in ours):6.1f} tok/s, ratio {statistics.median(ratios):.3f} "
        f"(from {min(ratios):.3f} to {max(ratios):.3f}); first token {statistics.median(t[1] for t in theirs) * 1000:.0f} ms, "
        f"added {statistics.median(added):+.1f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="where the model is kept; a new place if not given")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.home or Path(temporary)
        pull_model(home)
        asyncio.run(measure(home, args.rounds, args.tokens))


if __name__ == "__main__":
    main()
