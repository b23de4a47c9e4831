"""Typed access to the metadata of a GGUF header, and the bounds of what any model can say. Knows no meanings."""

from __future__ import annotations

import re
from typing import NoReturn

from zhibei.errors import ModelFileError
from zhibei.formats.gguf_header import GgufHeader, Omitted
from zhibei.formats.window import shown

MAX_LAYERS = 512
MAX_HEADS = 2**16
MAX_HEAD_LENGTH = 2**16
MAX_EMBEDDING_LENGTH = 2**20
MAX_CONTEXT_LENGTH = 2**31 - 1
MAX_EXPERTS = 2**16
MAX_VOCABULARY = 2**24
MAX_SHARDS = 1000

_METADATA_OFFSET = 24
_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Facts:
    """Typed access to the metadata of one header: a value is of the right kind and size, absent, or an error."""

    def __init__(self, header: GgufHeader) -> None:
        self.metadata = header.metadata
        self.entries = header.entries
        self.warnings: list[str] = []

    def fail(self, problem: str, key: str, **values: object) -> NoReturn:
        offset = self.entries[key].start if key in self.entries else _METADATA_OFFSET
        raise ModelFileError(problem, field=shown(key), offset=offset, **values)

    def architecture(self) -> str:
        key = "general.architecture"
        value = self.text(key)
        if value is None:
            shard = self.integer("split.no", 0, MAX_SHARDS)
            if shard:
                self.fail("it is part {part} of a model in several files; read the first one", key, part=shard + 1)
            self.fail("it does not say which architecture the model has", key)
        if not _ARCHITECTURE.fullmatch(value):
            self.fail("the architecture is not a name", key)
        return value

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        if isinstance(value, Omitted):
            self.fail("a text of {length} bytes is too long", key, length=value.length)
        if value is not None and not isinstance(value, str):
            self.fail("the value is not a text", key)
        return value

    def label(self, key: str) -> str | None:
        """A short text that is safe to print; None if empty."""
        value = self.text(key)
        return shown(value.strip()) or None if value is not None else None

    def truth(self, key: str) -> bool | None:
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, bool):
            self.fail("the value is not a truth value", key)
        return value

    def integer(self, key: str, low: int, high: int) -> int | None:
        value = self.metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail("the value is not a whole number", key)
        return self.within(key, value, low, high)

    def within(self, key: str, value: int, low: int, high: int) -> int:
        if not low <= value <= high:
            self.fail("{value} is not a number from {low} to {high}", key, value=value, low=low, high=high)
        return value

    def per_layer(self, key: str, num_layers: int | None, high: int) -> tuple[int, ...]:
        """One number per layer, from an array or from a single number; () if absent."""
        value = self.metadata.get(key)
        if isinstance(value, tuple) or (isinstance(value, Omitted) and value.type_name.startswith("[")):
            if isinstance(value, Omitted) or (num_layers is not None and len(value) != num_layers):
                self.fail("the array does not have one number per layer", key)
            return tuple(self.within(key, self.whole(key, item), 0, high) for item in value)
        number = self.integer(key, 0, high)
        return () if number is None else (number,) * (num_layers or 1)

    def whole(self, key: str, value: object) -> int:
        """An array element as a whole number; truth values count as 0 and 1."""
        if not isinstance(value, int):
            self.fail("the array does not hold whole numbers", key)
        return int(value)

    def number(self, key: str) -> float | None:
        value = self.metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self.fail("the value is not a number", key)
        return float(value)

    def positive(self, key: str) -> float | None:
        value = self.number(key)
        if value is not None and value <= 0:
            self.fail("the value is not a positive number", key)
        return value

    def length_of(self, key: str) -> int | None:
        """Number of elements of an array."""
        value = self.metadata.get(key)
        if value is None:
            return None
        if isinstance(value, tuple):
            return len(value)
        if not isinstance(value, Omitted) or not value.type_name.startswith("["):
            self.fail("the value is not an array", key)
        return value.length
