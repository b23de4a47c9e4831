"""Models in several GGUF files: ``name-00001-of-00005.gguf`` and its sisters in the same directory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from zhibei.errors import ModelFileError
from zhibei.formats.gguf_facts import MAX_SHARDS
from zhibei.formats.gguf_header import GgufHeader, parse
from zhibei.formats.reader import FileReader

_SHARD_NAME = re.compile(r"(?P<stem>[^/\\\0]+)-(?P<part>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
_SPLIT_KEYS = ("split.count", "split.no", "split.tensors.count")


def shard_names(name: str) -> tuple[str, ...]:
    """The names of all shards of a model, from the file name of one; the name itself if it is not a shard's.

    Raises:
        ModelFileError: the name leaves its directory, or its numbers make no sense.
    """
    if "/" in name or "\\" in name or "\0" in name or name in (".", "..", ""):
        raise ModelFileError("the file name {name} is not a plain name", field="file name", offset=0, name=ascii(name))
    match = _SHARD_NAME.fullmatch(name)
    if match is None:
        return (name,)
    part, count = int(match["part"]), int(match["count"])
    if not 1 <= part <= count <= MAX_SHARDS:
        problem = "{name} cannot be part {part} of {count}"
        raise ModelFileError(problem, field="file name", offset=0, name=ascii(name), part=part, count=count)
    return tuple(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))


def shards_of(path: Path) -> tuple[Path, ...]:
    """The files of the model that ``path`` is a part of, in order; all there, and all agreeing that they belong together.

    Raises:
        ModelFileError: a shard is missing, damaged or of another model.
    """
    return tuple(path for path, _ in read_shards(path))


def read_shards(path: Path) -> tuple[tuple[Path, GgufHeader], ...]:
    """The files of the model that ``path`` is a part of, with their headers, in order.

    Raises:
        ModelFileError: a shard is missing, damaged or of another model.
    """
    paths = [path.parent / name for name in shard_names(path.name)]
    for number, sister in enumerate(paths, start=1):
        if len(paths) > 1 and not sister.is_file():
            _fail("file {number} of {count}, {name}, is missing", "split.count", number, paths, name=ascii(sister.name))
    headers = []
    for sister in paths:
        with FileReader(sister) as reader:
            headers.append(parse(reader, reader.size_bytes))
    check_shards(headers)
    return tuple(zip(paths, headers, strict=True))


def check_shards(headers: Sequence[GgufHeader]) -> None:
    """Headers in order form one model.

    Raises:
        ModelFileError: they do not.
    """
    names: set[str] = set()
    architecture = headers[0].metadata.get("general.architecture")
    for number, header in enumerate(headers, start=1):
        _check_numbers(headers, number)
        if header.metadata.get("general.architecture", architecture) != architecture:
            _fail("file {number} is of another model", "general.architecture", number, headers)
        for tensor in header.tensors:
            if tensor.name in names:
                _fail("file {number} repeats a tensor of another file", tensor.name, number, headers)
            names.add(tensor.name)
    total = headers[0].metadata.get("split.tensors.count")
    if total is not None and len(headers) > 1 and total != len(names):
        problem = "{found} tensors were found in {count} files instead of {total}"
        _fail(problem, "split.tensors.count", 1, headers, found=len(names), total=str(total)[:20])


def _check_numbers(headers: Sequence[GgufHeader], number: int) -> None:
    """``split.count`` and ``split.no`` (from 0) agree with the files, and the first file's total with this one's."""
    metadata = headers[number - 1].metadata
    for key in _SPLIT_KEYS:
        value = metadata.get(key, None if len(headers) > 1 else 0)
        if key == "split.tensors.count" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            _fail("file {number} does not say its place among the files", key, number, headers)
        if key == "split.count" and max(value, 1) != len(headers):
            _fail("file {number} speaks of {said} files instead of {count}", key, number, headers, said=value)
        if key == "split.no" and value != number - 1:
            _fail("file {number} says that it is number {said}", key, number, headers, said=value + 1)
        if key == "split.tensors.count" and value != headers[0].metadata.get(key, value):
            _fail("file {number} is of another model", key, number, headers)


def _fail(problem: str, field: str, number: int, files: Sequence[object], **values: object) -> NoReturn:
    file = files[number - 1]
    entry = file.entries.get(field) if isinstance(file, GgufHeader) else None
    offset = entry.start if entry is not None else 0
    raise ModelFileError(problem, field=field, offset=offset, number=number, count=len(files), **values)
