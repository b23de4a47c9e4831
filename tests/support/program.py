"""The real program as a child process: what it prints, and how it ends."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.run_wide import run_dir

TIMEOUT_S = 60.0
# What differs from run to run, and what stands in its place in an expected text.
_FILTERS = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d", "[TIME]"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+\d:]*", "[ISO TIME]"),
    (r"\d+\.\d\d s\b", "[S] s"),
    (r"http://127\.0\.0\.1:\d+", "[URL]"),
)


@dataclass(frozen=True)
class Ran:
    """How a run ended. Both texts are filtered."""

    code: int
    out: str
    err: str


@dataclass
class Program:
    """Runs the program in a home of its own, away from any server, with the echo engine."""

    directory: Path
    extra: dict[str, str]

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ZHIBEI_") and name != "NO_COLOR"}
        own = {
            "ZHIBEI_HOME": str(self.home),
            "ZHIBEI_ENGINE": "echo",
            "ZHIBEI_PORT": str(free_port()),
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "LANG": "C.UTF-8",
            "PYTHONWARNINGS": "error",
            "TERM": "xterm-256color",
            # Without compiled files each run would compile all it imports.
            "PYTHONPYCACHEPREFIX": str(run_dir(self.directory.parent) / "pycache"),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        return {**kept, **own, **self.extra}

    def command(self, *words: str, python: tuple[str, ...] = ()) -> list[str]:
        return [sys.executable, *python, "-m", "zhibei", *words]

    def __call__(
        self, *words: str, stdin: str | None = None, python: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> Ran:
        ran = subprocess.run(
            self.command(*words, python=python),
            input=(stdin or "").encode(),
            capture_output=True,
            env={**self.environment, **(env or {})},
            cwd=self.directory,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Ran(ran.returncode, self.filtered(ran.stdout.decode()), self.filtered(ran.stderr.decode()))

    def filtered(self, text: str) -> str:
        text = text.replace(str(self.directory), "[DIR]").replace("\r\n", "\n")
        for pattern, stand_in in _FILTERS:
            text = re.sub(pattern, stand_in, text)
        return text


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
