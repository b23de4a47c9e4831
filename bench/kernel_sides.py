"""The engines that ``kernels.py`` compares, each a process of its own that is asked for the same work in the same terms.

Those that are HTTP servers of llama.cpp's are asked over HTTP and tell their own times; the others by lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel_worker import UBATCH

WORKER = Path(__file__).with_name("kernel_worker.py")
# A prompt of 8,192 tokens through 7 B takes minutes on two cores.
_PATIENCE_S = 1800


class SideError(Exception):
    """A side that cannot do what it was asked; the text is for a cell of the table."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a side is started with. ``ctx_size`` is of one slot, ``longest`` the longest prompt."""

    model: Path
    threads: int
    slots: int
    ctx_size: int
    longest: int


@dataclass(frozen=True, slots=True)
class Job:
    """Prompts that are read together, and how many tokens are generated after each."""

    prompts: Sequence[Sequence[int]]
    num_tokens: int
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens per second of all streams together."""

    prompt: float | None
    generation: float | None


@dataclass(slots=True)
class Side:
    """One engine. ``about`` fills when it is started."""

    name: str
    num_streams: int = 1
    about: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def start(self, setting: Setting) -> float:
        """Run it with a model; the seconds that the model took."""
        raise NotImplementedError

    def ask(self, job: Job) -> Speeds:
        """Have it do a job."""
        raise NotImplementedError

    def stop(self) -> None:
        """End its process."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@dataclass(slots=True)
class WorkerSide(Side):
    """An engine under a Python, in ``kernel_worker.py``."""

    engine: str = ""
    python: str = sys.executable
    extra: Mapping[str, Any] = field(default_factory=dict)

    def start(self, setting: Setting) -> float:
        """Run it with a model."""
        command = [self.python, str(WORKER), self.engine]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        settings = {"threads": setting.threads, "slots": setting.slots, "ctx_size": setting.ctx_size, "longest": setting.longest}
        self.about = self.exchange({"model": str(setting.model), **settings, **self.extra})
        return float(self.about.pop("load_s"))

    def exchange(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Say a line and read the answer."""
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(said) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise SideError(f"ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "problem" in answer:
            raise SideError(answer["problem"])
        return answer

    def ask(self, job: Job) -> Speeds:
        """Have it do a job."""
        if len(job.prompts) > self.num_streams:
            raise SideError("one text at a time")
        return Speeds(**self.exchange({"prompts": job.prompts, "num_tokens": job.num_tokens, "keeps": job.keeps}))


@dataclass(slots=True)
class WheelSide(WorkerSide):
    """The stock wheel, with or without kernels."""

    address: str = ""

    def start(self, setting: Setting) -> float:
        """Run it with a model."""
        seconds = WorkerSide.start(self, setting)
        self.address = self.about.pop("address")
        return seconds

    def ask(self, job: Job) -> Speeds:
        """Have it do a job."""
        return _ask_server(self.address, job)


@dataclass(slots=True)
class ServerSide(Side):
    """llama.cpp's own server program."""

    program: str = ""
    address: str = ""

    def start(self, setting: Setting) -> float:
        """Run it with a model; its seconds are those until it answers, so they hold the start of the program too."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        folder = str(Path(self.program).parent)
        environment = {**os.environ, "LD_LIBRARY_PATH": folder}
        told = subprocess.run([self.program, "--version"], env=environment, capture_output=True, text=True, check=False)
        self.about = {"version": " ".join((told.stdout + told.stderr).split()), "flash attention": "auto"}
        command = [self.program, "-m", str(setting.model), "--host", "127.0.0.1", "--port", str(port), "--no-webui"]
        command += ["-c", str(setting.ctx_size * setting.slots), "-np", str(setting.slots), "--no-kv-unified"]
        command += [
            "-t",
            str(setting.threads),
            "-b",
            "2048",
            "-ub",
            str(UBATCH),
            "--no-warmup",
            "--cache-ram",
            "0",
            "--fit",
            "off",
        ]
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        )
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5):
                return time.perf_counter() - begun
            if self.process.poll() is not None or time.perf_counter() - begun > _PATIENCE_S:
                raise SideError(f"ended with {self.process.returncode}")
            time.sleep(0.02)

    def ask(self, job: Job) -> Speeds:
        """Have it do a job."""
        return _ask_server(self.address, job)


def _ask_server(address: str, job: Job) -> Speeds:
    with ThreadPoolExecutor(len(job.prompts)) as pool:
        timings = list(pool.map(lambda prompt: _complete(address, prompt, job), job.prompts))
    # The first token comes of the prompt's last batch; the server counts it, but not its time.
    rates = [(told["predicted_n"] - 1) / told["predicted_ms"] * 1e3 for told in timings] if job.num_tokens else []
    generated = sum(rates) or None
    # What was kept from the last job leaves a token or two to read: no speed.
    is_read = all(told["prompt_n"] > len(prompt) // 2 for told, prompt in zip(timings, job.prompts, strict=True))
    return Speeds(sum(told["prompt_per_second"] for told in timings) if is_read else None, generated)


def _complete(address: str, prompt: Sequence[int], job: Job) -> dict[str, float]:
    asked = {"prompt": list(prompt), "n_predict": 1 + job.num_tokens, "cache_prompt": job.keeps, "ignore_eos": True}
    # The likeliest token, found the cheapest way.
    asked |= {"temperature": 0, "samplers": ["top_k"], "top_k": 1}
    request = urllib.request.Request(f"{address}/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
            timings: dict[str, float] = json.load(answer)["timings"]
    except (OSError, KeyError, ValueError) as error:
        raise SideError(str(error)) from error
    return timings
