"""Any model on this disk: what is it, and what does it say of itself? Knows the formats by their first bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from zhibei.errors import ModelFileError, ModelNotFound, StoreError
from zhibei.formats import safetensors
from zhibei.formats.gguf import MAGIC, describe, parse, read_shards
from zhibei.formats.gguf_shards import check_shards
from zhibei.formats.hf_model import describe_repository
from zhibei.formats.hf_repository import CONFIG, DESCRIBING, INDEX, parse_index, weight_names
from zhibei.formats.reader import FileReader, Reader
from zhibei.i18n import N_
from zhibei.models import ModelInfo

__all__ = ["FileReader", "Reader", "inspect_files", "inspect_path"]

_SNIFFED_BYTES = 512
_MAX_ENTRIES = 20_000
_SAFETENSORS = ".safetensors"
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
    """What a model says of itself: a GGUF file, a safetensors file, or a directory of Hugging Face's layout.

    A file that is one of several is read together with its sisters, a safetensors file with the configuration beside it.

    Raises:
        ModelFileError: damaged, hostile, or not a model that can be used.
        ModelNotFound: nothing at the path.
        StoreError: the system refuses to read it.
    """
    if path.is_dir():
        return _inspect_directory(path)
    if path.suffix == _SAFETENSORS:
        return _inspect_directory(path.parent) if (path.parent / CONFIG).is_file() else inspect_files({path.name: path})
    with FileReader(path) as reader:
        _check_magic(reader)
    return describe([header for _, header in read_shards(path)])


def inspect_files(files: Mapping[str, Path]) -> ModelInfo:
    """What a model says of itself whose files lie under other names: ``files`` has them by their names within the model.

    Those of its weights and its configuration; GGUF shards in order.

    Raises:
        As ``inspect_path``.
    """
    ggufs = [
        path for name, path in files.items() if not name.endswith(_SAFETENSORS) and name not in DESCRIBING and "/" not in name
    ]
    weights = {name: path for name, path in files.items() if name.endswith(_SAFETENSORS) and "/" not in name}
    if weights:
        texts = {name: _read(path, name) for name, path in files.items() if name in DESCRIBING}
        index = parse_index(texts[INDEX]) if INDEX in texts else None
        if index is not None:
            weight_names(weights, index)  # none is missing
        return describe_repository(texts, {name: _read_safetensors(path) for name, path in weights.items()})
    headers = []
    for path in ggufs:
        with FileReader(path) as reader:
            _check_magic(reader)
            headers.append(parse(reader, reader.size_bytes))
    if not headers:
        raise ModelNotFound("There is no model among these files: {names}", names=", ".join(list(files)[:10]))
    check_shards(headers)
    return describe(headers)


def looks_like(head: bytes) -> str:
    """What a file that begins with these bytes is, in words that have translations."""
    if not head:
        return N_("empty")
    for pattern, kind in _LOOKS_LIKE:
        if re.match(pattern, head, re.DOTALL):
            return kind
    return N_("of an unknown kind")


def _inspect_directory(directory: Path) -> ModelInfo:
    files: dict[str, Path] = {}
    try:
        for number, path in enumerate(directory.iterdir()):
            if number >= _MAX_ENTRIES:
                raise StoreError("{path} has too many entries to be a model.", path=str(directory))
            if (path.name in DESCRIBING or path.suffix == _SAFETENSORS) and path.is_file():
                files[path.name] = path
    except OSError as error:
        raise StoreError("{path} cannot be read: {reason}.", path=str(directory), reason=error.strerror or str(error)) from error
    files.update({name: directory / name for name in DESCRIBING if "/" in name and (directory / name).is_file()})
    index = parse_index(_read(files[INDEX], INDEX)) if INDEX in files else None
    names = weight_names(files, index)
    if CONFIG not in files or not names:
        raise ModelNotFound(
            "{path} is a directory without a model in safetensors files.", hint="Name a model file in it.", path=str(directory)
        )
    return inspect_files({name: path for name, path in files.items() if name in names or name in DESCRIBING})


def _check_magic(reader: FileReader) -> None:
    head = reader.read_at(0, _SNIFFED_BYTES)
    if not head.startswith(MAGIC):
        raise ModelFileError("it is {kind}", field="magic", offset=0, kind=looks_like(head))


def _read_safetensors(path: Path) -> safetensors.SafetensorsHeader:
    with FileReader(path) as reader:
        return safetensors.read_header(reader, reader.size_bytes)


def _read(path: Path, name: str) -> bytes:
    """A describing file; one byte more than it may have, so that too large a one is seen."""
    with FileReader(path) as reader:
        return reader.read_at(0, DESCRIBING[name] + 1)
