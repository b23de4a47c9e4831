"""``file:PATH``: a model on this disk. Used in place unless a copy is asked for; never changed.

A GGUF file or all shards of one; a directory of Hugging Face's layout; a directory in which there is one GGUF model. Links are
followed, for the person has named the place; those that lead out of a directory are told of.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from zhibei.errors import BadReference, ModelFileError, ModelNotFound, SourceError, Unsupported
from zhibei.events import Notice, Progress
from zhibei.formats.gguf import shard_names
from zhibei.formats.hf_repository import CONFIG, DESCRIBING, README, licence_of
from zhibei.i18n import N_
from zhibei.models import ModelDefaults
from zhibei.store.filenames import check_distinct, check_relative, harmless
from zhibei.store.naming import name_from_file
from zhibei.store.safetensors_files import pick_safetensors
from zhibei.store.sources.base import RemoteFile, RemoteModel, SourceContext, StartOver
from zhibei.store.threads import in_thread

_BLOCK_BYTES = 1024 * 1024
_MAX_ENTRIES = 20_000
_PATH_HINT = N_("Give the path of a .gguf file, or of a directory with a model of safetensors files.")
_PICKLE = re.compile(r".*\.(?:bin|pt|pth|ckpt|pkl|pickle)", re.IGNORECASE | re.DOTALL)
_CACHE_DIRECTORY = re.compile(r"models--(?:[^/]+--)?(?P<name>[^/]+)")


class FileSource:
    """The ``file:`` source."""

    def __init__(self, context: SourceContext) -> None:
        self._context = context

    async def resolve(self, location: str) -> RemoteModel:
        """What lies at the path."""
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

    async def unfold(self) -> RemoteModel | None:
        """None: ``resolve`` names every file."""
        return None

    async def read_defaults(self, files: Mapping[str, Path]) -> ModelDefaults | None:
        """None: it says nothing."""
        return None

    async def close(self) -> None:
        """Nothing is held."""


def resolve_path(location: str) -> RemoteModel:
    """What a path names.

    Raises:
        ModelNotFound: nothing there, or a file of the model is missing.
        SourceError: it is not a plain file or a directory, or cannot be read.
        Unsupported: what is there is no model that can be used.
        BadReference: it is not a path.
    """
    try:
        path = Path(os.path.abspath(Path(location).expanduser()))  # noqa: PTH100  (resolve() would follow the person's links)
    except (ValueError, RuntimeError) as error:
        raise BadReference("{location!r} is not a path.", hint=_PATH_HINT, location=location[:100]) from error
    if not path.name or "\0" in location:
        raise BadReference("{location!r} is not the path of a file.", hint=_PATH_HINT, location=location[:100])
    if path.is_dir():
        return _resolve_directory(path)
    if path.suffix == ".safetensors" and (path.parent / CONFIG).is_file():
        return _resolve_directory(path.parent)
    return _resolve_gguf(path)


def _resolve_gguf(path: Path) -> RemoteModel:
    names = shard_names(path.name)
    files = tuple(_describe(path.with_name(name), "shard" if len(names) > 1 else "model") for name in names)
    return RemoteModel(files[0].origin, name_from_file(path.name), files)


def _resolve_directory(directory: Path) -> RemoteModel:
    names = _list_names(directory)
    if CONFIG in names and any(name.endswith(".safetensors") and "/" not in name for name in names):
        return _resolve_repository(directory, names)
    ggufs = sorted(name for name in names if name.lower().endswith(".gguf") and "/" not in name)
    if not ggufs and any(name.endswith(".safetensors") and "/" not in name for name in names):
        raise Unsupported(
            "{path} has weights but no config.json that says what they are.",
            hint="Put the other files of the model's repository beside them.",
            path=directory,
        )
    models = {_first_shard(name) for name in ggufs if not name.lower().startswith("mmproj")}
    if len(models) == 1:
        return _resolve_gguf(directory / models.pop())
    if models:
        raise ModelNotFound(
            "{path} has several models.", hint="Name one of them: {names}", path=directory, names=", ".join(sorted(models)[:10])
        )
    if any(_PICKLE.fullmatch(name) for name in names):
        raise Unsupported(
            "{path} has its weights in Python pickles, which can run code and are never opened.",
            hint="Look for the same model in safetensors or GGUF files: zhibei search {name}",
            path=directory,
            name=directory.name,
        )
    raise ModelNotFound("{path} is a directory without a model.", hint="Give the path of a .gguf file.", path=directory)


def _resolve_repository(directory: Path, names: list[str]) -> RemoteModel:
    """A directory of Hugging Face's layout: weights, and the configuration that belongs to them."""
    chosen, _, _ = pick_safetensors(str(directory), None, names)
    assert chosen is not None, "nothing was asked for by name"
    check_distinct(name for name, _ in chosen)
    files = tuple(_describe(directory / name, role, str(check_relative(name))) for name, role in chosen)
    cached = _CACHE_DIRECTORY.fullmatch(directory.parent.parent.name) if directory.parent.name == "snapshots" else None
    name = name_from_file(cached["name"] if cached is not None else directory.name)
    licence = licence_of(_read_start(directory / README, DESCRIBING[README])) if README in names else None
    home = directory.parent.parent if cached is not None else directory
    return RemoteModel(f"file:{directory}", name, files, licence, _tell_of_links(directory, home, files))


def _list_names(directory: Path) -> list[str]:
    """The files in a directory and in those directly below it, with ``/``."""
    found: list[str] = []
    try:
        for path in (directory, *sorted(path for path in directory.iterdir() if path.is_dir() and not path.is_symlink())):
            for entry in path.iterdir():
                if entry.is_file():
                    found.append(entry.relative_to(directory).as_posix())
                if len(found) > _MAX_ENTRIES:
                    raise SourceError("{path} has too many files to be a model.", hint=_PATH_HINT, path=directory)
    except OSError as error:
        raise SourceError(
            "{path} cannot be read: {reason}.",
            hint="Check that you may read it.",
            path=directory,
            reason=error.strerror or str(error),
        ) from error
    return sorted(found)


def _first_shard(name: str) -> str:
    try:
        return shard_names(name)[0]
    except ModelFileError:  # numbers that make no sense; said in full if this file turns out to be the model
        return name


def _tell_of_links(directory: Path, home: Path, files: tuple[RemoteFile, ...]) -> tuple[Notice, ...]:
    """What leads out of the directory, or of the cache that the directory is a part of, is used, but not silently."""
    within = home.resolve()
    outside = [file.name for file in files if file.local_path and not file.local_path.resolve().is_relative_to(within)]
    if not outside:
        return ()
    values = (("path", str(directory)), ("names", ", ".join(outside[:5])))
    return (Notice("In {path} these files are links that lead elsewhere, and are followed: {names}", values),)


def _read_start(path: Path, length: int) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(length)
    except OSError:
        return b""


def _describe(path: Path, role: str, name: str | None = None) -> RemoteFile:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        if role == "shard":
            raise ModelNotFound(
                "The shard {path} is missing; a model in several files needs all of them.",
                hint="Put the missing file beside the others.",
                path=path,
            ) from None
        raise ModelNotFound("There is no file {path}.", hint="Check the path.", path=path) from None
    except OSError as error:
        raise SourceError(
            "{path} cannot be read: {reason}.", hint="Check that you may read it.", path=path, reason=error.strerror or str(error)
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise SourceError("{path} is not a file.", hint="Give the path of a .gguf file.", path=path)
    return RemoteFile(
        name or harmless(path.name),
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
        raise ModelNotFound("There is no file {path}.", hint="Check the path.", path=path) from error
    except OSError as error:
        raise SourceError(
            "{path} cannot be read: {reason}.", hint="Check that you may read it.", path=path, reason=error.strerror or str(error)
        ) from error
