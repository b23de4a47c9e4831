"""A child that misbehaves on demand: ``python fake_worker.py MODE``. Speaks the parent's protocol where the mode lets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time


def main(mode: str) -> None:
    answers = os.dup(1)
    order = json.loads(sys.stdin.buffer.readline())
    if mode == "crash":
        sys.stderr.write("about to crash\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    if mode == "exit":
        sys.stderr.write("bad magic in model file\n")
        sys.exit(3)
    if mode == "hang":
        time.sleep(600)
    if mode == "garbage":
        os.write(answers, b"\xff\xfe not json\n")
        sys.exit(0)
    if mode == "missing":
        os.write(
            answers, json.dumps({"missing": "It lacks {what}.", "hint": "Get {what}.", "values": {"what": "libgomp"}}).encode()
        )
        sys.exit(0)
    if mode == "flood":
        os.write(2, b"x" * 2_000_000 + b"\n" + bytes(range(256)) * 4000 + b"\nlast words\n")
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = 0
    if mode == "grandchild":
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
    answer = {"address": f"http://127.0.0.1:1/{grandchild}/{order['key']}", "environment": dict(os.environ)}
    sys.stderr.write(json.dumps(answer["environment"]) + "\n")
    sys.stderr.flush()
    os.write(answers, json.dumps(answer).encode() + b"\n")
    if mode == "die_later":
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main(sys.argv[1])
