"""The name of content. Owns the one type a digest may have; knows nothing of files."""

from __future__ import annotations

import re
from dataclasses import dataclass

from zhibei.errors import StoreError

_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class Digest:
    """A SHA-256, as 64 lower-case hexadecimal digits. ``str()`` gives ``sha256:<hex>``."""

    hex: str

    def __post_init__(self) -> None:
        if not isinstance(self.hex, str) or not _HEX.fullmatch(self.hex):
            raise StoreError("{text!r} is not a SHA-256 digest.", text=str(self.hex)[:100])

    def __str__(self) -> str:
        return _PREFIX + self.hex

    @staticmethod
    def parse(text: str) -> Digest:
        """Parse ``sha256:<64 lower-case hex>``.

        Raises:
            StoreError: anything else, the empty string and upper case included.
        """
        if not isinstance(text, str) or not text.startswith(_PREFIX):
            raise StoreError("{text!r} is not a SHA-256 digest.", text=str(text)[:100])
        return Digest(text[len(_PREFIX) :])
