"""Random tensor data of any stored type, fast: a pool of random blocks a type, read from random places.

Quantised blocks are random bytes with sane scales, so that a model of them computes finite numbers.
Source of the layouts: ggml/src/ggml-common.h (block structs).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from math import ceil

from zhibei.formats.ggml_types import TENSOR_TYPES
from zhibei.workshop.gguf_file import TensorSpec
from zhibei.workshop.shapes import type_number

POOL_BYTES = 1 << 20
# Weights spread like those of a trained model of middling width.
SPREAD = 0.02

# Where in a block its halves are, and what stands there: scales, and minimums that centre the values on zero.
_HALVES: dict[str, tuple[tuple[int, float], ...]] = {
    "Q4_0": ((0, SPREAD / 4.6),),
    "Q4_1": ((0, SPREAD / 4.6), (2, -SPREAD * 7.5 / 4.6)),
    "Q5_0": ((0, SPREAD / 9.2),),
    "Q5_1": ((0, SPREAD / 9.2), (2, -SPREAD * 15.5 / 9.2)),
    "Q8_0": ((0, SPREAD / 74),),
    "Q2_K": ((80, SPREAD / 12), (82, SPREAD * 1.5 / 12)),
    "Q3_K": ((108, SPREAD / 60),),
    "Q4_K": ((0, SPREAD / 150), (2, SPREAD * 7.5 / 150)),
    "Q5_K": ((0, SPREAD / 300), (2, SPREAD * 15.5 / 300)),
    "Q6_K": ((208, SPREAD / 1400),),
    "IQ4_NL": ((0, SPREAD / 70),),
    "IQ4_XS": ((0, SPREAD / 1300),),
}
MAKEABLE = frozenset(("F32", "F16", "BF16", "MXFP4", *_HALVES))
_EXPONENT_OF_MXFP4 = 120  # 2 to the power of 120 - 128, over halves


class RandomBlocks:
    """Data for tensors; the same seed gives the same data."""

    def __init__(self, seed: int) -> None:
        """Nothing is generated until it is asked for."""
        self._random = random.Random(seed)
        self._pools: dict[tuple[str, str], memoryview] = {}

    def pieces(self, tensor: TensorSpec) -> Iterator[bytes | memoryview]:
        """The tensor's data, in pieces of at most ``POOL_BYTES``."""
        block_bytes = TENSOR_TYPES[type_number(tensor.type)].block_bytes
        pool = self._pool(tensor.type, tensor.fill, min(POOL_BYTES, tensor.num_bytes * 2))
        left = tensor.num_bytes
        while left:
            start = self._random.randrange(len(pool) // block_bytes) * block_bytes
            piece = pool[start : start + left]
            left -= len(piece)
            yield piece

    def _pool(self, kind: str, fill: str, wanted_bytes: int) -> memoryview:
        pool = self._pools.get((kind, fill))
        if pool is None or len(pool) < wanted_bytes:
            block_bytes = TENSOR_TYPES[type_number(kind)].block_bytes
            made = self._blocks(kind, fill, ceil(wanted_bytes / block_bytes))
            pool = self._pools[kind, fill] = memoryview(made)
        return pool

    def _blocks(self, kind: str, fill: str, count: int) -> bytes | bytearray:
        if kind in ("F32", "F16"):
            centre, spread = _FILLS[fill]
            values = [self._random.uniform(centre - spread, centre + spread) for _ in range(count)]
            return struct.pack(f"<{count}{'f' if kind == 'F32' else 'e'}", *values)
        if kind == "BF16":
            return b"".join(raw[2:] for raw in struct.iter_unpack("4s", self._blocks("F32", fill, count)) for raw in raw)
        return self._quantised(kind, count)

    def _quantised(self, kind: str, count: int) -> bytearray:
        block_bytes = TENSOR_TYPES[type_number(kind)].block_bytes
        made = bytearray(self._random.randbytes(count * block_bytes))
        if kind == "MXFP4":
            made[::block_bytes] = bytes((_EXPONENT_OF_MXFP4,)) * count
            return made
        for offset, value in _HALVES[kind]:
            low, high = struct.pack("<e", value)
            made[offset::block_bytes] = bytes((low,)) * count
            made[offset + 1 :: block_bytes] = bytes((high,)) * count
        return made


# What is put into tensors that are not quantised: the middle, and how far from it. "decay" is a negative rate of forgetting.
_FILLS = {
    "weights": (0.0, SPREAD * 1.7),
    "norm": (1.0, 0.1),
    "bias": (0.0, 0.01),
    "decay": (-1.0, 0.5),
    "convolution": (0.0, 0.4),
}
