"""Which of several quantisations of a model suits a machine, known by their sizes alone. Pure.

The fuller answer needs the header; this one is for the moment before anything of a repository has been read.
"""

from __future__ import annotations

from collections.abc import Sequence

_SHARE = 1.1
_ROOM_BYTES = 1 << 30


def fitting(sizes_bytes: Sequence[int | None], available_bytes: int | None) -> tuple[int, ...]:
    """Indexes of the weights that leave room for a context: a tenth of their own size and 1 GiB.

    Args:
        sizes_bytes: of each quantisation's weights; None, not known, is taken to fit.
        available_bytes: memory that a new program could take; None, not known, takes all.
    """
    return tuple(
        index
        for index, size in enumerate(sizes_bytes)
        if size is None or available_bytes is None or size * _SHARE + _ROOM_BYTES <= available_bytes
    )
