"""How long the program takes to start, as a multiple of ``python -c pass``.

python bench/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time


def seconds(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    python, program = [sys.executable, "-c", "pass"], [sys.executable, "-m", "zhibei"]
    commands = {"zhibei --help": [*program, "--help"], "zhibei list": [*program, "list"]}
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"ZHIBEI_HOME": home, "ZHIBEI_PORT": "1"}
        # As installed: compiled once, not at every start.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        found: dict[str, list[float]] = {name: [] for name in commands}
        plain: list[float] = []
        for number in range(rounds + 1):
            base = seconds(python, environment)
            plain += [base] * bool(number)
            for name, command in commands.items():
                taken = seconds(command, environment)
                found[name] += [taken / base] * bool(number)
        print(f"python -c pass: {statistics.median(plain) * 1000:.1f} ms")
        for name, ratios in found.items():
            print(f"{name}: {statistics.median(ratios):.1f} x (from {min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
