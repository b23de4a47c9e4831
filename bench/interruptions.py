"""What a cut costs, and what hashing costs: our pull alone, over loopback. Used by ``pull.py``.

Cuts: the server is slow for each connection and has small buffers, so that hardly anything is under way when the pull ends;
all bytes it sends, before and after, are counted at the server.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from origin import CountingServer, ModelFile, free_port, serving, write_model

# Prints the seconds of ``Library.pull`` alone, and the digest that came out. "unhashed": with a SHA-256 that does nothing.
API = """
import asyncio, hashlib, json, sys, time
from contextlib import aclosing
from pathlib import Path

class Nothing:
    def update(self, data): pass
    def hexdigest(self): return "0" * 64

real = hashlib.sha256
if sys.argv[3] == "unhashed":
    hashlib.sha256 = lambda data=None, **options: Nothing() if data is None else real(data, **options)

from zhibei.app import build
from zhibei.refs import ModelRef
from zhibei.settings import resolve

async def pull():
    library = build(resolve({"home": Path(sys.argv[1])}).settings).library
    start = time.perf_counter()
    async with aclosing(library.pull(ModelRef.parse(sys.argv[2]))) as events:
        async for event in events:
            last = event
    return time.perf_counter() - start, last.model

seconds, model = asyncio.run(pull())
print(json.dumps({"seconds": seconds, "digest": str(model.files[0].digest)}))
"""
# A line of 48 MB/s, which the machine follows with ease: else what waits in the system's buffers is counted as lost.
_BYTES_PER_S, _CONNECTIONS = 6_000_000, 8
_CHUNK = re.compile(rb"^(\d{1,18}) (\d{1,10}) [0-9a-f]{16}$", re.MULTILINE)


def measure_cuts(size_bytes: int, workspace: Path, environment: dict[str, str], *, is_quiet: bool) -> list[dict[str, object]]:
    """Cut at the half, by each means, then pull again to the end; how much the server sent beyond one whole file."""
    found = []
    with _file(workspace, size_bytes) as model:
        for means in ("nothing", "SIGINT", "SIGKILL", "server"):
            with _counting(model) as server:
                found.append(_cut(means, server, workspace / "home", environment))
            if not is_quiet:
                print(_line_of(found[-1], model), flush=True)
    return found


def _line_of(cut: dict[str, object], model: ModelFile) -> str:
    kept = f"; {cut['num_chunks']} chunks kept, of at most {cut['chunk_bytes']:,} bytes" if cut["num_chunks"] else ""
    return (
        f"{model.size_bytes / 1e6:.0f} MB, cut by {cut['means']} at {cut['at_bytes']:,} bytes: {cut['again_bytes']:,} sent "
        f"beyond the file, {cut['num_requests']} requests, {cut['num_connections']} connections{kept}"
    )


def _cut(means: str, server: CountingServer, home: Path, environment: dict[str, str]) -> dict[str, object]:
    size = server.model.size_bytes
    is_signal = means.startswith("SIG")
    if means == "server":
        server.cut_at = size // 2
    at_bytes = size if means == "nothing" else size // 2
    chunks: list[int] = []
    try:
        num_connections = _pull(server, home, environment, getattr(signal, means) if is_signal else None)
        if is_signal:
            at_bytes, chunks = server.num_sent_bytes, _chunks(home)
            num_connections = max(num_connections, _pull(server, home, environment))
        blobs = [path for path in home.glob("blobs/sha256/*/*") if path.suffix != ".chunks"]
        if [path.stat().st_size for path in blobs] != [size]:
            raise RuntimeError("the pull left no whole file")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return {
        "means": means,
        "at_bytes": at_bytes,
        "again_bytes": server.num_sent_bytes - size,
        "num_requests": server.num_requests,
        "num_connections": num_connections,
        "chunk_bytes": max(chunks, default=0),
        "num_chunks": len(chunks),
    }


def _pull(server: CountingServer, home: Path, environment: dict[str, str], end: signal.Signals | None = None) -> int:
    """Pull, ended by a signal at the half if one is given; the most connections that were open at a time."""
    url = f"url:http://127.0.0.1:{server.server_address[1]}{server.model.url_path}"
    command = [sys.executable, "-m", "zhibei", "--home", str(home), "--quiet", "pull", "--connections", str(_CONNECTIONS), url]
    num_connections, is_ended = 0, False
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as child:
        try:
            while child.poll() is None:
                num_connections = max(num_connections, server.num_open)
                if end is not None and not is_ended and server.num_sent_bytes >= server.model.size_bytes // 2:
                    child.send_signal(end)
                    is_ended = True
                time.sleep(0.005)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        assert child.stderr is not None
        said = child.stderr.read()
    if is_ended != bool(child.returncode):
        raise RuntimeError(f"the pull ended with {child.returncode}: {said[-2000:]}")
    return num_connections


def _chunks(home: Path) -> list[int]:
    """The lengths of the chunks that the journal of what was cut tells of."""
    journals = home.glob("blobs/parts/*.part/journal")
    return [int(length) for journal in journals for _, length in _CHUNK.findall(journal.read_bytes())]


def measure_hashing(
    size_bytes: int, rounds: int, workspace: Path, environment: dict[str, str], *, is_quiet: bool
) -> dict[str, object]:
    """The same pull with SHA-256 and with one that does nothing, one after the other."""
    seconds: dict[str, list[float]] = {"hashed": [], "unhashed": []}
    with _file(workspace, size_bytes) as model:
        port = free_port()
        url = f"http://127.0.0.1:{port}{model.url_path}"
        with serving(model, workspace, port):
            for number in range(rounds):
                for how in sorted(seconds, reverse=bool(number % 2)):
                    seconds[how].append(_api_seconds(how, url, model, workspace, environment))
    ratios = [one / other for one, other in zip(seconds["hashed"], seconds["unhashed"], strict=True)]
    if not is_quiet:
        print(
            f"hashing, {size_bytes / 1e6:.0f} MB: with SHA-256 {statistics.median(seconds['hashed']):.2f} s, without "
            f"{statistics.median(seconds['unhashed']):.2f} s, ratio {statistics.median(ratios):.3f} "
            f"(from {min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
    return {"seconds": seconds, "ratio": statistics.median(ratios)}


def _api_seconds(how: str, url: str, model: ModelFile, workspace: Path, environment: dict[str, str]) -> float:
    home = workspace / "home"
    os.sync()
    try:
        command = [sys.executable, "-c", API, str(home), f"url:{url}", how]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    answer = json.loads(done.stdout)
    expected = model.sha256 if how == "hashed" else "0" * 64
    if answer["digest"].removeprefix("sha256:") != expected:
        raise RuntimeError(f"{how}: the digest is {answer['digest']}")
    seconds: float = answer["seconds"]
    return seconds


@contextmanager
def _file(workspace: Path, size_bytes: int) -> Iterator[ModelFile]:
    (workspace / "files").mkdir()
    try:
        yield write_model(workspace / "files", size_bytes)
    finally:
        shutil.rmtree(workspace / "files")


@contextmanager
def _counting(model: ModelFile) -> Iterator[CountingServer]:
    with CountingServer(model, ("127.0.0.1", 0), _BYTES_PER_S) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
