"""One attention by one thread, in processor time: ggml's and the kernels', and how near to the processor's limits that is.

python attention.py --library libzhibei_kernels.so [--level avx2] [--type F16]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from ggml import Child

# Values of a head, heads, heads of keys, positions, keys.
_SHAPES = [
    (64, 9, 3, 1, 256),
    (64, 9, 3, 1, 1280),
    (128, 32, 8, 1, 1280),
    (128, 8, 8, 1, 4096),
    (64, 9, 3, 512, 512),
    (64, 9, 3, 512, 2048),
    (128, 32, 8, 128, 512),
    (64, 9, 3, 8, 1024),
]


def _request(ggml: Child, kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    size, heads, key_heads, positions, keys = shape
    random = np.random.default_rng(1)
    cache = (1, keys, key_heads, size)
    later = np.arange(keys) > np.arange(positions)[:, None] + keys - positions
    return {
        "queries": random.standard_normal((1, positions, heads, size), np.float32),
        "keys": ggml.call("quantise", kind, random.standard_normal(cache, np.float32)),
        "values": ggml.call("quantise", kind, random.standard_normal(cache, np.float32)),
        "keys_shape": cache,
        "values_shape": cache,
        "keys_type": kind,
        "values_type": kind,
        "mask": np.where(later, -np.inf, 0.0).astype(np.float16)[None, None],
        "sinks": None,
        "scale": 0.125,
        "bias": 0.0,
        "softcap": 0.0,
        "threads": 1,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--level", default="")
    parser.add_argument("--type", default="F16")
    options = parser.parse_args()
    sides = (Child(options.library, None), Child(options.library, options.level))
    for shape in _SHAPES:
        size, heads, key_heads, positions, keys = shape
        request = {**_request(sides[0], options.type, shape), "repeat": 30 if positions < 9 else 5}
        rounds = [[side.call("attend", request)["seconds"] for side in sides] for _ in range(3)]
        theirs, ours = (min(column) for column in zip(*rounds, strict=True))
        operations = 4 * size * heads * (positions * keys - positions * (positions - 1) / 2)
        gigabytes = 4e-9 * size * key_heads * keys
        print(
            f"{shape!s:24} ggml {theirs * 1e6:9.0f} us  kernels {ours * 1e6:9.0f} us  ratio {theirs / ours:5.2f}"
            f"  {operations / ours * 1e-9:6.1f} Gop/s  {gigabytes / ours:6.1f} GB/s as halves"
        )
    for side in sides:
        side.close()


if __name__ == "__main__":
    main()
