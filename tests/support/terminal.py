"""A pseudo terminal with a program in it: type, wait for what it shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

WAIT_S = 30.0
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?>]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>78])")
_CURSOR_QUESTION = b"\x1b[6n"


class Terminal:
    """Runs a command on a terminal of 100 columns and 30 rows. ``screen`` is all that came, without escape sequences."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self._raw = b""
        self._seen = 0

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            list(command), stdin=slave, stdout=slave, stderr=slave, env=dict(env), preexec_fn=take_terminal, close_fds=True
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._master)

    @property
    def screen(self) -> str:
        return _ESCAPES.sub("", self._raw.decode(errors="replace")).replace("\r", "")

    @property
    def raw(self) -> str:
        """All that came, escape sequences too."""
        return self._raw.decode(errors="replace")

    def type(self, text: str) -> None:
        """Press keys; ``\\r`` is Enter, ``\\x03`` Ctrl-C, ``\\x04`` Ctrl-D."""
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> str:
        """Wait until the text is shown after what was waited for before; returns what came up to its end."""
        deadline = time.monotonic() + WAIT_S
        while True:
            found = self.screen.find(text, self._seen)
            if found >= 0:
                start, self._seen = self._seen, found + len(text)
                return self.screen[start : self._seen]
            if not self._read(deadline):
                raise AssertionError(f"{text!r} did not come; since then: {self.screen[self._seen :]!r}")

    def wait_for_end(self) -> int:
        """Wait until the program has ended; returns its exit code."""
        deadline = time.monotonic() + WAIT_S
        while self.process.poll() is None and self._read(deadline):
            pass
        while self._read(time.monotonic() + 0.2):
            pass
        return self.process.wait(WAIT_S)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self._raw += data
        for _ in range(data.count(_CURSOR_QUESTION)):
            # prompt_toolkit asks where the cursor is; a real terminal answers.
            with contextlib.suppress(OSError):
                os.write(self._master, b"\x1b[1;1R")
        return bool(data)
