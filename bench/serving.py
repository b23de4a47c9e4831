"""A server under measurement: the real one, in a child process that also tells where its engine listens.

Used by the other files here; run as a script it is that child. Commands on standard input: ``engine`` (load the model and
tell its worker's address and key), ``memory`` (tell this process's resident bytes).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

MODEL = "smollm2:135m"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its address, and a line of commands to it."""

    address: str
    pid: int
    commands: IO[str]
    answers: IO[str]

    def ask(self, command: str) -> dict[str, object]:
        """The JSON answer to a command."""
        self.commands.write(command + "\n")
        self.commands.flush()
        answer: dict[str, object] = json.loads(self.answers.readline())
        return answer


def pull_model(home: Path) -> None:
    """Have the default model in ``home``, pulled by our own command."""
    subprocess.run([sys.executable, "-m", "zhibei", "--home", str(home), "--quiet", "pull", MODEL], check=True)


@contextmanager
def serving(home: Path, **load: int) -> Iterator[Server]:
    """Run a server with a home and load options."""
    command = [sys.executable, __file__, str(home), json.dumps(load)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            ready = json.loads(child.stdout.readline())
            yield Server(ready["address"], child.pid, child.stdin, child.stdout)
        finally:
            child.terminate()


def resident_bytes(pid: int | str = "self") -> int:
    """VmRSS of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


async def _serve(home: Path, load: dict[str, int]) -> None:
    from zhibei.app import build
    from zhibei.options import LoadOptions
    from zhibei.server.http import serve
    from zhibei.settings import resolve

    settings = resolve({"home": home, "server.port": 0}, environ=dict(os.environ)).settings
    settings = replace(settings, keep_alive="forever", load=LoadOptions(**load))  # type: ignore[arg-type]
    app = build(settings)

    async def obey() -> None:
        while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
            answer: dict[str, object] = {"bytes": resident_bytes()}
            if command == "engine":
                async with app.pool.lease(MODEL) as engine:
                    inner: Any = engine
                    while not hasattr(inner, "address"):
                        inner = inner._engine
                    ready = inner.address
                    answer = {"address": ready.address, "key": ready.key}
            print(json.dumps(answer), flush=True)

    tasks: list[asyncio.Task[None]] = []

    def ready(address: str) -> None:
        print(json.dumps({"address": address}), flush=True)
        tasks.append(asyncio.get_running_loop().create_task(obey()))

    await serve(app, on_ready=ready)


if __name__ == "__main__":
    from zhibei.event_loop import run

    run(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))
