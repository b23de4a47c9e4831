"""What a stored model consists of. Owns the manifest files, one per ``name:tag``, and the names of their paths.

A model exists when its manifest does: the manifest is written last, in one step. One that is damaged, empty or of a later
version hides only itself; reading it gives a Manifest with ``problem`` set.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from zhibei.errors import BadReference, SourceError, StoreError, ZhibeiError
from zhibei.i18n import Phrase
from zhibei.models import ROLES, WEIGHT_ROLES, ModelDefaults, ModelInfo
from zhibei.refs import ModelName
from zhibei.store import owners
from zhibei.store.decoding import BadShape, decode, encode
from zhibei.store.digests import Digest
from zhibei.store.disk import STORE_HINT, Disk, translate
from zhibei.store.filenames import check_distinct, check_relative

VERSION = 1
_MAX_BYTES = 32 * 1024 * 1024
_MAX_FILES = 10_000
_MAX_SIZE_BYTES = 2**62
_ATTEMPTS = 5
_MAX_KNOWN = 256
_SETTLED_NS = 100_000_000
_Stamp = tuple[int, int, int, int]
_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a model: a blob (``digest``), or a file used where it lies (``path`` and ``modified_ns``).

    ``name`` is its path within the model: a harmless relative one, with ``/`` between directories.
    ``origin`` and ``validator`` say where its bytes came from and which version of them, to know it again.
    """

    role: str
    name: str
    size_bytes: int
    digest: Digest | None = None
    path: Path | None = None
    modified_ns: int | None = None
    origin: str | None = None
    validator: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model as its manifest has it. ``problem`` says why it cannot be used; then the rest may be empty.

    ``mentioned``: the blobs that one which cannot be read speaks of, for whoever can read it may need them.
    """

    name: ModelName
    source: str
    added_at: datetime
    files: tuple[ManifestFile, ...] = ()
    info: ModelInfo | None = None
    licence: str | None = None
    problem: str | None = None
    defaults: ModelDefaults | None = None
    revision: str | None = None
    mentioned: frozenset[Digest] = frozenset()

    @property
    def in_place(self) -> bool:
        """Whether its files lie outside the store."""
        return any(file.path is not None for file in self.files)

    @property
    def digests(self) -> frozenset[Digest]:
        """The blobs it refers to."""
        return self.mentioned.union(file.digest for file in self.files if file.digest is not None)


class ManifestStore:
    """The manifests under a home. Making one changes nothing on the disk."""

    def __init__(self, home: Path, disk: Disk) -> None:
        self._root = home / "manifests"
        self._disk = disk
        self._known: dict[ModelName, tuple[_Stamp, Manifest]] = {}

    def path(self, name: ModelName) -> Path:
        """Where a manifest lies. The only place that makes a path of a model's name.

        ``@`` cannot begin a part of a name, so a name's directory and a tag's file never meet.
        """
        return self._root.joinpath(*name.name.split("/"), f"@{name.tag}.json")

    def read(self, name: ModelName) -> Manifest | None:
        """A model's manifest; None if there is none. A damaged one is returned with its ``problem``."""
        path = self.path(name)
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                return _broken(name, Phrase("its manifest is not a plain file"), None)
            if status.st_size > _MAX_BYTES:
                return _broken(name, Phrase("its manifest is too large"), status.st_mtime)
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            stamped, known = self._known.get(name, (None, None))
            if stamped == stamp:
                return known
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            self._known.pop(name, None)
            return None
        except OSError as error:
            return _broken(name, Phrase("its manifest cannot be read: {reason}", reason=error.strerror or str(error)), None)
        try:
            manifest = _parse(name, text)
        except (BadShape, StoreError, ValueError, RecursionError, OverflowError) as error:
            broken = _broken(name, Phrase("its manifest is damaged: {reason}", reason=_reason(error)), status.st_mtime)
            return replace(broken, mentioned=_mentioned(text))
        # What changed a moment ago may change again without a new time: clocks of file systems are coarse.
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[name] = (stamp, manifest)
        return manifest

    def names(self) -> list[ModelName]:
        """All names that have a manifest, sorted. Files that are not manifests are passed over.

        Raises:
            StoreError: the store cannot be read.
        """
        found: list[ModelName] = []

        def failed(error: OSError) -> None:
            if error.filename == str(self._root) and not isinstance(error, FileNotFoundError):
                raise StoreError(
                    "The store at {path} cannot be read: {reason}.", hint=STORE_HINT, path=self._root, reason=error.strerror
                )

        for directory, _, files in os.walk(self._root, onerror=failed):
            parts = Path(directory).relative_to(self._root).parts
            for file in files:
                if file.startswith("@") and file.endswith(".json"):
                    try:
                        name = ModelName.parse("/".join(parts) + ":" + file[1 : -len(".json")])
                    except BadReference:
                        continue
                    if self.path(name) == Path(directory, file):
                        found.append(name)
        return sorted(found, key=str)

    def read_all(self) -> list[Manifest]:
        """Every manifest, damaged ones included, sorted by name."""
        return [manifest for name in self.names() if (manifest := self.read(name)) is not None]

    def write(self, manifest: Manifest) -> None:
        """Make a model visible, or change it, in one step; when this returns it is on the medium.

        Raises:
            StoreError: the disk does not allow it.
        """
        path = self.path(manifest.name)
        temporary = path.with_name(f".{owners.new_token()}.tmp")
        try:
            fileno = self._open_new(temporary)
            try:
                try:
                    self._disk.write(fileno, _format(manifest))
                    self._disk.sync(fileno)
                finally:
                    os.close(fileno)
                self._disk.replace(temporary, path)
            except OSError:
                self._remove_quietly(temporary)
                raise
            self._disk.sync_directory(path.parent)
        except OSError as error:
            raise translate(error, self._root, self._disk) from error

    def remove(self, name: ModelName) -> None:
        """Make a model invisible. Nothing happens if there is none.

        Raises:
            StoreError: the disk does not allow it.
        """
        path = self.path(name)
        try:
            self._disk.remove(path)
            self._disk.sync_directory(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise translate(error, self._root, self._disk) from error
        self._tidy(path.parent)

    def _open_new(self, path: Path) -> int:
        for attempt in range(_ATTEMPTS):
            self._make_directories(path.parent)
            try:
                return self._disk.open_new(path)
            except FileNotFoundError:
                # Another process has just removed the last model, and with it the directory.
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError

    def _make_directories(self, directory: Path) -> None:
        missing = []
        while directory != self._root.parent and not directory.is_dir():
            missing.append(directory)
            directory = directory.parent
        for path in reversed(missing):
            self._disk.make_directories(path)
            self._disk.sync_directory(path.parent)

    def _tidy(self, directory: Path) -> None:
        """Remove directories that have become empty and what a killed writer left there."""
        while directory != self._root:
            for stale in directory.glob(".*.tmp"):
                if not owners.is_alive(stale.name[1 : -len(".tmp")], stale):
                    self._remove_quietly(stale)
            try:
                self._disk.remove_directory(directory)
            except OSError:
                return
            directory = directory.parent

    def _remove_quietly(self, path: Path) -> None:
        try:
            self._disk.remove(path)
        except OSError:
            return


def _broken(name: ModelName, problem: str, modified_s: float | None) -> Manifest:
    return Manifest(name, "", datetime.fromtimestamp(modified_s or 0, timezone.utc), problem=problem)


def _reason(error: Exception) -> str:
    if isinstance(error, BadShape):
        return error.phrase
    return Phrase(error.message, **error.values) if isinstance(error, ZhibeiError) else str(error)[:200]


def _mentioned(text: bytes) -> frozenset[Digest]:
    found = (match[0].decode() for match, _ in zip(_DIGEST.finditer(text), range(_MAX_FILES), strict=False))
    return frozenset(map(Digest.parse, found))


def _format(manifest: Manifest) -> bytes:
    table = {
        "version": VERSION,
        "name": str(manifest.name),
        "source": manifest.source,
        "added_at": manifest.added_at.isoformat(),
        "licence": manifest.licence,
        "revision": manifest.revision,
        "files": [_format_file(file) for file in manifest.files],
        "info": encode(manifest.info) if manifest.info is not None else None,
        "defaults": encode(manifest.defaults) if manifest.defaults is not None else None,
    }
    return json.dumps(table, indent=1, ensure_ascii=True).encode() + b"\n"


def _format_file(file: ManifestFile) -> dict[str, object]:
    table: dict[str, object] = {"role": file.role, "name": file.name, "size_bytes": file.size_bytes}
    table["digest"] = str(file.digest) if file.digest else None
    table["path"] = str(file.path) if file.path else None
    table |= {"modified_ns": file.modified_ns, "origin": file.origin, "validator": file.validator}
    return {key: value for key, value in table.items() if value is not None}


def _refuse_constant(text: str) -> object:
    raise BadShape("{where} is not a number", where=text)


def _parse(name: ModelName, data: bytes) -> Manifest:
    table = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    if not isinstance(table, dict):
        raise BadShape("it is not an object")
    version = table.get("version")
    if version != VERSION:
        raise BadShape("it has version {version!r}; this Zhibei reads version {known}", version=str(version)[:20], known=VERSION)
    if table.get("name") != str(name):
        raise BadShape("it belongs to another name")
    entries = table.get("files")
    if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_FILES:
        raise BadShape("it has no list of files")
    files = tuple(_parse_file(entry) for entry in entries)
    if not any(file.role in WEIGHT_ROLES for file in files):
        raise BadShape("it has no model file")
    _check_names([file.name for file in files if file.digest is not None])
    info, defaults = table.get("info"), table.get("defaults")
    added_at = datetime.fromisoformat(_text(table, "added_at"))
    if added_at.tzinfo is None:
        raise BadShape("added_at has no time zone")
    return Manifest(
        name,
        _text(table, "source"),
        added_at,
        files,
        decode(ModelInfo, info, "info") if info is not None else None,
        _optional_text(table, "licence"),
        defaults=decode(ModelDefaults, defaults, "defaults") if defaults is not None else None,
        revision=_optional_text(table, "revision"),
    )


def _check_names(names: list[str]) -> None:
    """They are shown as files below one directory."""
    try:
        directories = {parent for name in names for parent in check_relative(name).parents}
        check_distinct(names)
    except SourceError as error:
        raise BadShape(error.message, **error.values) from error
    if any(check_relative(name) in directories for name in names):
        raise BadShape("a file has the name of a directory")


def _parse_file(entry: object) -> ManifestFile:
    if not isinstance(entry, dict):
        raise BadShape("a file is not an object")
    role = _text(entry, "role")
    if role not in ROLES:
        raise BadShape("a file has the role {role!r}", role=role[:40])
    digest, path = _optional_text(entry, "digest"), _optional_text(entry, "path")
    if (digest is None) == (path is None):
        raise BadShape("a file must have either a digest or a path")
    if path is not None and not Path(path).is_absolute():
        raise BadShape("a file's path is not absolute")
    return ManifestFile(
        role,
        _text(entry, "name"),
        _size(entry, "size_bytes"),
        Digest.parse(digest) if digest is not None else None,
        Path(path) if path is not None else None,
        _size(entry, "modified_ns") if path is not None else None,
        _optional_text(entry, "origin"),
        _optional_text(entry, "validator"),
    )


def _text(table: dict[str, object], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or "\0" in value:
        raise BadShape("{where} is not text", where=key)
    return value


def _optional_text(table: dict[str, object], key: str) -> str | None:
    return None if table.get(key) is None else _text(table, key)


def _size(table: dict[str, object], key: str) -> int:
    value = table.get(key)
    if type(value) is not int or not 0 <= value <= _MAX_SIZE_BYTES:
        raise BadShape("{where} is not a size", where=key)
    return value
