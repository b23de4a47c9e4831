"""Any model file on this disk: what is it, and what does its header say? Knows the formats by their first bytes."""

from __future__ import annotations

import re
from pathlib import Path

from zhibei.errors import ModelFileError
from zhibei.formats.gguf import MAGIC, describe, read_shards
from zhibei.formats.reader import FileReader, Reader
from zhibei.i18n import N_
from zhibei.models import ModelInfo

__all__ = ["FileReader", "Reader", "inspect_path"]

_SNIFFED_BYTES = 512
_LOOKS_LIKE = (
    (rb"(?:GGML|ggml|tjgg|ggjt|fmgg|lmgg|ggla|algg)", N_("a model in an old GGML format; convert it to GGUF")),
    (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", N_("a ZIP archive or a PyTorch checkpoint")),
    (rb"\x80[\x02-\x05]", N_("a Python pickle, which can run code and is never opened")),
    (rb".{7}\0\{\s*\"", N_("a safetensors file")),
    (rb"version https://git-lfs", N_("a Git LFS pointer: the model itself was not downloaded")),
    (rb"(?i:\s*<(?:!doctype html|html|head|body|\?xml))", N_("an HTML page: the download was answered by a web or login page")),
    (rb"\s*[\{\[]", N_("a JSON document: the download was answered by a message")),
    (rb"\x1f\x8b|BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c|Rar!", N_("a compressed archive; unpack it first")),
    (rb"\x7fELF|MZ|\xca\xfe\xba\xbe|\xcf\xfa\xed\xfe", N_("a program")),
    (rb"\0+\Z", N_("made of zeros: the download was not finished")),
)


def inspect_path(path: Path) -> ModelInfo:
    """What a model file's header says. A file that is one of several is read together with its sisters.

    Raises:
        ModelFileError: damaged, hostile, or not a model file that can be used.
        ModelNotFound: no file at the path.
        StoreError: the system refuses to read it.
    """
    with FileReader(path) as reader:
        head = reader.read_at(0, _SNIFFED_BYTES)
        if not head.startswith(MAGIC):
            raise ModelFileError("it is {kind}", field="magic", offset=0, kind=looks_like(head))
    return describe([header for _, header in read_shards(path)])


def looks_like(head: bytes) -> str:
    """What a file that begins with these bytes is, in words that have translations."""
    if not head:
        return N_("empty")
    for pattern, kind in _LOOKS_LIKE:
        if re.match(pattern, head, re.DOTALL):
            return kind
    return N_("of an unknown kind")
