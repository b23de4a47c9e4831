"""Small true images, and ones that only claim to be."""

from __future__ import annotations

import base64
import struct
import zlib


def png(width: int = 2, height: int = 2, *, declared: tuple[int, int] | None = None) -> bytes:
    """A grey PNG; ``declared`` is the size its header gives instead of its own."""
    shown = declared or (width, height)
    pixels = zlib.compress((b"\0" + b"\x80" * width) * height)
    header = struct.pack(">IIBBBBB", *shown, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def jpeg(width: int = 2, height: int = 2) -> bytes:
    """The marks of a JPEG in order, around pixels that mean nothing."""
    frame = struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    scan = struct.pack(">HB", 8, 1) + b"\x01\x00\x00\x3f\x00"
    return b"\xff\xd8\xff\xe0\x00\x04ab" + b"\xff\xc0" + frame + b"\xff\xda" + scan + b"\x12\x34" + b"\xff\xd9"


def gif(width: int = 2, height: int = 2) -> bytes:
    """A GIF without pictures."""
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x00\x00\x00;"


def webp(width: int = 2, height: int = 2) -> bytes:
    """The header of a lossless WebP, and some zeros."""
    bits = (width - 1) | (height - 1) << 14
    chunk = b"VP8L" + struct.pack("<I", 16) + b"\x2f" + struct.pack("<I", bits) + b"\0" * 11
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def bmp(width: int = 2, height: int = 2) -> bytes:
    """A 24-bit BMP."""
    pixels = b"\0" * ((width * 3 + 3) // 4 * 4) * height

    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + info + pixels


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """A ``data:`` URL."""
    return f"data:{media_type};base64," + base64.b64encode(data).decode()
