"""``file:PATH``: a GGUF file on this disk, or all shards of one. Used in place unless a copy is asked for; never changed."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from zhibei.errors import BadReference, ModelNotFound, SourceError
from zhibei.events import Notice, Progress
from zhibei.formats.gguf import shard_names
from zhibei.models import ModelDefaults
from zhibei.store.filenames import harmless
from zhibei.store.naming import name_from_file
from zhibei.store.sources.base import RemoteFile, RemoteModel, SourceContext, StartOver
from zhibei.store.threads import in_thread

_BLOCK_BYTES = 1024 * 1024


class FileSource:
    """The ``file:`` source."""

    def __init__(self, context: SourceContext) -> None:
        self._context = context

    async def resolve(self, location: str) -> RemoteModel:
        """The file at the path, with the other shards of its set."""
        return await in_thread(resolve_path, location)

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes | None:
        """Bytes of the file."""
        return await in_thread(_read, file, offset, length)

    async def prepare(self, file: RemoteFile) -> AsyncGenerator[Progress | Notice | RemoteFile, None]:
        """Nothing to do."""
        yield file

    async def open(self, file: RemoteFile, offset: int, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The file's bytes, as long as it stays what it was."""
        stop = end if end is not None else file.size_bytes or 0
        while piece := await in_thread(_read, file, offset, min(_BLOCK_BYTES, stop - offset)):
            offset += len(piece)
            yield piece
        if offset != stop:
            raise StartOver

    def has_ranges(self, file: RemoteFile) -> bool:
        """One after the other is as quick."""
        return False

    async def read_defaults(self, files: Mapping[str, Path]) -> ModelDefaults | None:
        """None: it says nothing."""
        return None

    async def close(self) -> None:
        """Nothing is held."""


def resolve_path(location: str) -> RemoteModel:
    """What a path names.

    Raises:
        ModelNotFound: no such file, or a shard of its set is missing.
        SourceError: it is not a plain file, or cannot be read.
        BadReference: it is not a path.
    """
    try:
        path = Path(os.path.abspath(Path(location).expanduser()))  # noqa: PTH100  (resolve() would follow the person's links)
    except (ValueError, RuntimeError) as error:
        raise BadReference("{location!r} is not a path.", location=location[:100]) from error
    if not path.name or "\0" in location:
        raise BadReference("{location!r} is not the path of a file.", location=location[:100])
    names = shard_names(path.name)
    files = tuple(_describe(path.with_name(name), "shard" if len(names) > 1 else "model") for name in names)
    return RemoteModel(files[0].origin, name_from_file(path.name), files)


def _describe(path: Path, role: str) -> RemoteFile:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        if role == "shard":
            raise ModelNotFound("The shard {path} is missing; a model in several files needs all of them.", path=path) from None
        raise ModelNotFound("There is no file {path}.", path=path) from None
    except OSError as error:
        raise SourceError("{path} cannot be read: {reason}.", path=path, reason=error.strerror or str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise SourceError("{path} is not a file.", hint="Give the path of a .gguf file.", path=path)
    return RemoteFile(
        harmless(path.name),
        f"file:{path}",
        role,
        status.st_size,
        validator=str(status.st_mtime_ns),
        local_path=path,
        modified_ns=status.st_mtime_ns,
    )


def _read(file: RemoteFile, offset: int, length: int) -> bytes:
    path = file.local_path
    assert path is not None
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if (status.st_size, status.st_mtime_ns) != (file.size_bytes, file.modified_ns):
                raise StartOver
            stream.seek(offset)
            return stream.read(length)
    except FileNotFoundError as error:
        raise ModelNotFound("There is no file {path}.", path=path) from error
    except OSError as error:
        raise SourceError("{path} cannot be read: {reason}.", path=path, reason=error.strerror or str(error)) from error
