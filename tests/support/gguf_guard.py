"""Runs every GGUF attack under limits and prints what each cost, a JSON object a line. Started by attacks/test_gguf.py."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path

from support.gguf_attacks import ATTACKS, CountingReader
from zhibei.formats.gguf import read_header


def limit() -> None:
    """A backstop: an attack that works takes this process down, and not the machine."""
    if sys.platform != "linux":
        return
    import resource

    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 512 * 1024 * 1024, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (120, resource.RLIM_INFINITY))


def outcome(reader: CountingReader) -> str | None:
    try:
        read_header(reader, size_bytes=reader.size)
    except BaseException as error:
        return type(error).__name__
    return None


def main() -> None:
    limit()
    for attack in ATTACKS:
        error = outcome(attack.reader())
        tracemalloc.start()
        outcome(attack.reader())
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(json.dumps({"name": attack.name, "error": error, "peak_bytes": peak_bytes}))


if __name__ == "__main__":
    main()
