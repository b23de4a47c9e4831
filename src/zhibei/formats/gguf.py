"""GGUF model files: what their headers say. The public face of ``gguf_header``, ``gguf_model`` and ``gguf_shards``."""

from __future__ import annotations

from zhibei.formats.gguf_header import MAGIC, Entry, GgufHeader, MetadataValue, Omitted, TensorInfo, parse
from zhibei.formats.gguf_model import describe
from zhibei.formats.gguf_shards import read_shards, shard_names, shards_of
from zhibei.formats.reader import Reader
from zhibei.models import ModelInfo

__all__ = [
    "MAGIC",
    "Entry",
    "GgufHeader",
    "MetadataValue",
    "Omitted",
    "TensorInfo",
    "describe",
    "parse",
    "read_header",
    "read_shards",
    "shard_names",
    "shards_of",
]


def read_header(reader: Reader, *, size_bytes: int) -> ModelInfo:
    """What the header of one file says. For a model in several files see ``shards_of`` and ``describe``.

    Args:
        reader: the file, local or remote.
        size_bytes: the whole file's size.

    Raises:
        ModelFileError: damaged, hostile, or not a GGUF file of a known version.
    """
    return describe([parse(reader, size_bytes)])
