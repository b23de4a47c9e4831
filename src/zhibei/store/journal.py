"""What is known of a growing file: what its bytes belong to, and the chunks that were written. Owns the journal's lines.

The first line is JSON: the identity. Every other one is ``<offset> <bytes> <hash>``, written with the line break first, so that
one torn by a full disk or a power cut spoils no other. Lines that do not parse are passed over, and nothing here is believed
without comparing the bytes with the hash.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from zhibei.store.chunks import Chunk
from zhibei.store.digests import Digest

VERSION = 2
_MAX_BYTES = 256 * 1024 * 1024
_MAX_CHUNK_BYTES = 64 * 1024 * 1024
_LINE = re.compile(rb"(\d{1,18}) (\d{1,10}) ([0-9a-f]{16})")


@dataclass(frozen=True, slots=True)
class PartIdentity:
    """What the bytes of a part belong to.

    With a digest, any source may continue it, for the whole is verified. Without, only the same ``origin`` may, and only
    if its ``validator`` (an ETag, a modification time) is known and the same.
    """

    origin: str
    digest: Digest | None
    size_bytes: int | None
    validator: str | None

    @property
    def key(self) -> str:
        """64 hexadecimal digits: names the lock and the part."""
        return self.digest.hex if self.digest else hashlib.sha256(self.origin.encode()).hexdigest()

    def continues(self, header: dict[str, object]) -> bool:
        """Whether bytes that were written under a journal header may be kept."""
        if header.get("version") != VERSION:
            return False
        if self.digest is not None:
            return header.get("digest") == str(self.digest)
        return (
            self.validator is not None
            and header.get("validator") == self.validator
            and header.get("origin") == self.origin
            and header.get("size_bytes") == self.size_bytes
        )


def header_line(identity: PartIdentity) -> bytes:
    """The journal's first line."""
    header = {
        "version": VERSION,
        "origin": identity.origin,
        "digest": str(identity.digest) if identity.digest else None,
        "size_bytes": identity.size_bytes,
        "validator": identity.validator,
    }
    return json.dumps(header).encode()


def chunk_line(chunk: Chunk) -> bytes:
    """The line of a chunk."""
    return f"\n{chunk.offset} {chunk.num_bytes} {chunk.check}".encode()


def read_journal(path: Path) -> tuple[dict[str, object], list[Chunk]]:
    """The header (empty if it cannot be read) and the chunks, of those at one offset the last one written."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            return {}, []
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return {}, []
    try:
        header = json.loads(lines[0])
    except (ValueError, RecursionError):
        return {}, []
    if not isinstance(header, dict):
        return {}, []
    chunks: dict[int, Chunk] = {}
    for line in lines[1:]:
        match = _LINE.fullmatch(line)
        if match is not None and 0 < int(match[2]) <= _MAX_CHUNK_BYTES:
            chunks[int(match[1])] = Chunk(int(match[1]), int(match[2]), match[3].decode())
    return header, list(chunks.values())
