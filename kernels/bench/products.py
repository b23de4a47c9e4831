"""One product by one thread, in processor time: ggml's plain path, its repacked one where it has it, and the kernels.

    python products.py --library libzhibei_kernels.so [--level avx2] [TYPE ...]

Columns 1 is what generation does (bytes of weights per second), more is what a prompt does (operations per second).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from ggml import TYPES, Ggml

_REPACKED = {"Q4_0", "Q4_K", "IQ4_NL"}
_NUM_ROWS, _NUM_VALUES = 2048, 2048


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", default=[*TYPES])
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--level", default="")
    options = parser.parse_args()
    ggml = Ggml(options.library, options.level)
    print(f"level {ggml.level()}")
    random = np.random.default_rng(1)
    for name in options.types:
        weights = ggml.quantise(name, random.standard_normal((_NUM_ROWS, _NUM_VALUES), np.float32))
        for num_columns in (1, 4, 128):
            inputs = [random.standard_normal((num_columns, _NUM_VALUES), np.float32)]
            request = {"op": "mul_mat", "type": name, "shape": (1, _NUM_ROWS, _NUM_VALUES), "weights": weights, "inputs": inputs}
            buffers = ["CPU", *(["CPU_REPACK"] if name in _REPACKED else []), "CPU_ZHIBEI"]
            taken = {
                b: ggml.run({**request, "buffer": b, "threads": 1, "repeat": 20 if num_columns < 9 else 4})["seconds"]
                for b in buffers
            }
            scale = weights.nbytes if num_columns == 1 else 2 * _NUM_ROWS * _NUM_VALUES * num_columns
            unit = "GB/s" if num_columns == 1 else "Gop/s"
            speeds = "  ".join(f"{b[4:].lower() or 'plain'} {scale / s * 1e-9:6.1f}" for b, s in taken.items())
            best = min(s for b, s in taken.items() if b != "CPU_ZHIBEI")
            print(f"{name:7} {num_columns:4} columns  {speeds} {unit}  ratio {best / taken['CPU_ZHIBEI']:.2f}")


if __name__ == "__main__":
    main()
